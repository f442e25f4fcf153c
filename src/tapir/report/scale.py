"""What a figure of difficulty means: each estimator has a scale of its own, and more is always harder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tapir.store.rows import EstimateRow
from tapir.store.run import RunStore

_MOST_SAMPLES = 20  # a histogram of more shares than this would be a comb
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Scale:
    """How to read and write the figures of one estimator.

    Attributes:
        kind: its name in a recipe.
        name: its name in a table.
        axis: its name beside an axis.
        about: what a figure is, in a sentence or two.
        form: how a figure is written, in the format language that Python and Vega share.
        width: of a bar of its histogram; 0 leaves it to the figures.
        signed: whether a figure below 0 means something.
    """

    kind: str
    name: str
    axis: str
    about: str
    form: str
    width: float = 0.0
    signed: bool = False

    def written(self, value: float) -> str:
        """A figure with as many digits as say something."""
        text = format(value, self.form).replace("%", " %").replace("-", _MINUS)
        return f"+{text}" if self.signed and value > 0 else text

    def mean(self, value: float) -> str:
        """The mean of many figures."""
        return format(value, self.form).replace("%", " %")

    @property
    def label(self) -> str:
        """Beside a single figure."""
        return self.name if self.kind == "mfd" else f"difficulty ({self.kind})"


MFD = Scale(
    kind="mfd",
    name="MFD",
    axis="MFD: the teacher's score minus the student's",
    about="MFD is the teacher's score minus the student's, both from 1 to 10.",
    form=".2f",
    width=0.5,
    signed=True,
)
IFD = Scale(
    kind="ifd",
    name="IFD",
    axis="IFD: loss with the instruction by loss without it",
    about=(
        "IFD is the student's mean loss per token of the teacher's answer with the instruction before it, divided by"
        " that without it: near 1 the instruction hardly helps, above 1 it misleads."
    ),
    form=".3f",
)
LENGTH = Scale(
    kind="length",
    name="length",
    axis="length of the teacher's answer, in characters",
    about="Difficulty is the length of the teacher's answer in characters: nobody was asked how hard it is.",
    form=",.0f",
)


def scale_of(difficulty: Mapping[str, Any]) -> Scale | None:
    """The scale of a recipe's `curriculum.difficulty`; None where nothing is measured."""
    kind = str(difficulty["kind"])
    match kind:
        case "none":
            return None
        case "mfd" | "ifd" | "length":
            return {"mfd": MFD, "ifd": IFD, "length": LENGTH}[kind]
        case "pass-rate":
            return _failures(difficulty)
        case _:
            return _other(kind)


def read_scale(store: RunStore, recipe: Mapping[str, Any]) -> Scale | None:
    """The scale a run was scored on: a class of one's own stands in its tables, not in its recipe."""
    said = recipe["curriculum"].get("difficulty", {"kind": "mfd"})  # the first version knew no other
    if store.has("round-0/estimates"):
        found = next((row.estimator for row in store.each("round-0/estimates", EstimateRow)), said["kind"])
        if found != said["kind"]:
            return _other(found)
    return scale_of(said)


def _failures(difficulty: Mapping[str, Any]) -> Scale:
    samples = int(difficulty.get("samples", 0))
    drawn = f"{samples} sampled answers" if samples else "the sampled answers"
    warmth = f" (temperature {difficulty['temperature']:g})" if "temperature" in difficulty else ""
    return Scale(
        kind="pass-rate",
        name="share of failures",
        axis="share of sampled answers that fail",
        about=(
            f"Difficulty is the share of {drawn}{warmth} that the judge finds worse than the teacher's: 0 % is"
            " always solved, 100 % never."
        ),
        form=".1%",
        width=1 / samples if 0 < samples <= _MOST_SAMPLES else 1 / _MOST_SAMPLES,
    )


def _other(kind: str) -> Scale:
    """Of a class of somebody's own: its name is all there is to say."""
    return Scale(kind, kind, kind, f"Difficulty is what the estimator {kind!r} says: more is harder.", ".4g")
