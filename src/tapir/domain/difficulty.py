"""Model fitting difficulty (MFD) and the split of the corpus by it (METHOD section 2 and 4)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tapir.domain.judgement import Judgement

_DIGITS = 9  # 0.29 x 100 is 29, not 28.999999999999996

ThresholdRule: TypeAlias = Literal["delta", "quantile", "budget"]


@dataclass(frozen=True, slots=True)
class Difficulty:
    """MFD(x) averaged over display orders.

    Attributes:
        gap: teacher's score minus student's, -9 to 9: the mean of the mean gap of each order, so that every order
            counts the same however many of its judgements could be read.
        spread: largest minus smallest of these mean gaps; 0 for a single order.
    """

    gap: float
    spread: float


@dataclass(frozen=True, slots=True)
class Threshold:
    """The rule that decides which gaps are hard.

    Attributes:
        rule: "delta" takes `value` as δ itself; "quantile" keeps that share of the scored items;
            "budget" keeps that many of them.
        value: δ, a share in (0, 1), or a number of items. Ties at the cut are not hard, and neither is
            an item at the floor, so quantile and budget keep at most what was asked for; but where so many tie at the
            largest gap that nothing would be hard, all of these are.
        most: a gap above this is hopeless: neither hard nor easy in this round, and not counted by quantile and budget.
        floor: of the scale.
    """

    rule: ThresholdRule = "delta"
    value: float = 2.0
    most: float = math.inf
    floor: float = 0.0

    def delta(self, gaps: NDArray[np.float64]) -> float:
        """Return δ for these gaps (NaN = unscored); +inf where nothing is scored."""
        if self.rule == "delta":
            return self.value
        scored = np.sort(gaps[gaps <= self.most])  # NaN is not
        keep = int(self.value if self.rule == "budget" else np.floor(round(self.value * scored.size, _DIGITS)))
        if scored.size == 0:
            return math.inf
        left = scored[: max(0, scored.size - keep)]
        left = left[left < scored[-1]] if keep else left
        if left.size:
            return max(self.floor, float(left[-1]))
        return self.floor if math.isfinite(self.floor) else math.nextafter(scored[0], -math.inf)


@dataclass(frozen=True, slots=True)
class Split:
    """A partition of the corpus: every id is in exactly one of hard, easy, hopeless and unscored.

    `hopeless` items are too hard for the student in this round: dropped for the round and scored again with the rest.
    `withheld` is the part of easy below the floor of the scale, where the student's answer beat the teacher's: it is
    never trained on with the worse teacher answer.
    """

    hard: tuple[str, ...]
    easy: tuple[str, ...]
    unscored: tuple[str, ...]
    withheld: frozenset[str]
    hopeless: tuple[str, ...] = ()

    @property
    def hard_share(self) -> float:
        """Hard items among the scored ones, 0 to 1."""
        scored = len(self.hard) + len(self.easy) + len(self.hopeless)
        return len(self.hard) / scored if scored else 0.0


_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Scale:
    """How the values of an estimator are read and written; more is always harder.

    Attributes:
        name: in a table, for example "IFD".
        label: beside a single value.
        about: what a value is, in a sentence or two.
        number: format of a value, in the format language that Python and Vega share.
        signed: whether a value below 0 means something.
        judged: whether it comes from verdicts of the judge.
        bar: width of a bar of a histogram; 0 leaves it to the values.
        span: what an axis shows at least; None leaves it to the values.
        tick: distance between the ticks of an axis with a span.
        ticks: format of the ticks; empty leaves it to the chart.
        floor: the value of an answer as good as the teacher's, on a scale that has one: nothing at it or below is hard.
    """

    name: str
    label: str
    axis: str
    about: str
    number: str = ".4g"
    signed: bool = False
    judged: bool = False
    bar: float = 0.0
    span: tuple[float, float] | None = None
    tick: float = 1.0
    ticks: str = ""
    floor: float = -math.inf

    @classmethod
    def unknown(cls, name: str) -> Scale:
        """Return the scale of an estimator of which no more than its name is known."""
        about = f"Difficulty is what the estimator {name!r} says: more is harder."
        return cls(name, f"difficulty ({name})", name, about)

    def format(self, value: float) -> str:
        """Return a value as text, with its sign where that means something."""
        text = self.format_mean(value).replace("-", _MINUS)
        return f"+{text}" if self.signed and value > 0 else text

    def format_mean(self, value: float) -> str:
        """Return the mean of many values as text."""
        return format(value, self.number).replace("%", " %")


@dataclass(frozen=True, slots=True)
class EstimateCost:
    """What an estimator takes for one instruction: answers and forward passes of the student, verdicts of the judge."""

    answers: int = 0
    verdicts: int = 0
    passes: int = 0


def gap(judgement: Judgement) -> float:
    """Return the teacher's score minus the student's: the one place where the sign is decided."""
    return judgement.reference - judgement.student


def difficulty(judgements: Sequence[Judgement]) -> Difficulty:
    """Return MFD of one instruction from its judgements, at least one, in one or more display orders."""
    gaps: dict[str, list[float]] = {}
    for judgement in judgements:
        gaps.setdefault(judgement.order, []).append(gap(judgement))
    means = [fmean(values) for values in gaps.values()]
    return Difficulty(fmean(means), max(means) - min(means))


def split(ids: Sequence[str], gaps: NDArray[np.float64], threshold: Threshold) -> Split:
    """Partition n `ids` by their gaps, shape (n,), NaN where unscored; hard means gap > δ, strictly."""
    names = np.asarray(ids, dtype=object)
    unscored = np.isnan(gaps)
    hopeless = gaps > threshold.most
    hard = ~unscored & ~hopeless & (gaps > threshold.delta(gaps)) & (gaps >= threshold.floor)
    easy = ~unscored & ~hopeless & ~hard
    return Split(
        hard=tuple(names[hard]),
        easy=tuple(names[easy]),
        unscored=tuple(names[unscored]),
        withheld=frozenset(names[easy & (gaps < threshold.floor)]),
        hopeless=tuple(names[hopeless]),
    )


def undivided(ids: Sequence[str]) -> Split:
    """Return the split of a corpus without difficulties: one pool, all of which may be drawn."""
    return Split(hard=tuple(ids), easy=(), unscored=(), withheld=frozenset())


def competence(
    split: Split, task_of: Mapping[str, str], labels: Sequence[str], leave_out: Collection[str] = ()
) -> dict[str, float]:
    """Return the competence of the student by task: the share of its scored items that are not above δ, 0 to 1.

    One success and one failure are added to each task (Laplace's rule), so that a task with few items does not
    pretend to be certain. Ids in `leave_out` are not counted, such as those the student was trained on.
    """
    done, scored = dict.fromkeys(labels, 1.0), dict.fromkeys(labels, 2.0)
    for part, success in ((split.easy, 1.0), (split.hard, 0.0), (split.hopeless, 0.0)):
        for name in part:
            task = task_of.get(name)
            if task in scored and name not in leave_out:
                done[task] += success
                scored[task] += 1
    return {label: done[label] / scored[label] for label in labels}
