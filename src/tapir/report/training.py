"""Metrics of every training of a run, and of its tagger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Any, TypeAlias

from tapir.config.training import AnyTraining
from tapir.data.run.reader import RunReader
from tapir.domain.errors import StoreError
from tapir.domain.training import TaggerReport
from tapir.evaluation.audit.records import number

Curve: TypeAlias = Sequence[tuple[int, float]]
"""Steps and losses, in the order of the steps; every loss is a number."""

_COUNTS = ("examples", "steps", "tokens", "parameters", "trainable")  # a trainer writes 0 for what it does not know
_AMOUNTS = ("epochs", "seconds", "tokens_per_second")
_PARTS = 4  # a single log point is noisy: the first quarter is compared with the last
_SMALL = 0.01  # a loss below this has its digits further behind
_REMEDY = "Restore it; or delete it, then `tapir resume` trains the round again."


@dataclass(frozen=True, slots=True)
class Training:
    """One training (0 is the warm-up); None is what its training.json does not contain.

    The loss is the mean per answer token; `not_numbers` counts log points that are in neither curve. The time is that
    of the session that finished the training. `too_long` examples were left out, `cut` ones lost their end;
    `unfit` ones, which the chat template or the tokenizer cannot hold, were left out too.
    """

    number: int
    loss: Curve
    preference_loss: Curve = ()
    not_numbers: int = 0
    examples: int | None = None
    epochs: float | None = None
    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    parameters: int | None = None
    trainable: int | None = None
    too_long: int | None = None
    cut: int | None = None
    unfit: int | None = None
    preferences: int | None = None

    @property
    def name(self) -> str:
        """Label in tables and charts."""
        return f"round {self.number}" if self.number else "warm-up"

    @property
    def ends(self) -> tuple[float, float] | None:
        """Mean loss of the first and of the last quarter of the log points; None where there are fewer than two."""
        losses = [loss for _, loss in self.loss]
        part = max(1, len(losses) // _PARTS)
        return (fmean(losses[:part]), fmean(losses[-part:])) if len(losses) > 1 else None


def format_loss(loss: float) -> str:
    """Format a loss for a table."""
    return f"{loss:.3f}" if abs(loss) >= _SMALL or not loss else f"{loss:.2g}"


def read_trainings(run: RunReader, plan: AnyTraining) -> list[Training]:
    """Read every finished training of a run with this section of the recipe, in order."""
    contents = ((number, run.json(f"round-{number}/training.json", _REMEDY)) for number in run.rounds())
    return [_training(run, number, content, plan) for number, content in contents if content is not None]


def recorded_fields(trainings: Sequence[Training]) -> frozenset[str]:
    """Return the fields that at least one training has a value for."""
    names = [field.name for field in fields(Training)]
    return frozenset(name for name in names if any(getattr(each, name) not in (None, ()) for each in trainings))


def _training(run: RunReader, number: int, content: Mapping[str, Any], plan: AnyTraining) -> Training:
    try:
        loss, preference_loss = (_curve(content.get(key, ())) for key in ("loss", "preference_loss"))
        logged = len(content.get("loss", ())) + len(content.get("preference_loss", ()))
        too_long, cut = (len(content[key]) if key in content else None for key in ("too_long", "cut"))
        amounts: dict[str, Any] = {name: _amount(content.get(name)) for name in (*_AMOUNTS, *_COUNTS, "preferences")}
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        path = run.store.round(number) / "training.json"
        raise StoreError(f"{path} is damaged: {error}", remedy=_REMEDY) from error
    preferences = int(amounts["preferences"] or 0) or (0 if number in run.rounds("contrasts") else None)
    return Training(
        number=number,
        loss=loss,
        preference_loss=preference_loss,
        not_numbers=logged - len(loss) - len(preference_loss),
        too_long=too_long if too_long or plan.kind != "command" else None,  # a program does not report what it left out
        cut=cut if cut or getattr(plan, "too_long", "") == "cut" else None,
        unfit=len(content.get("unfit", ())) or None,
        **amounts | {name: int(amounts[name]) for name in _COUNTS if amounts[name]} | {"preferences": preferences},
    )


def _curve(entries: Sequence[Sequence[Any]]) -> Curve:
    numbers = ((int(step), _amount(loss, least=-math.inf)) for step, loss in entries)
    return tuple(sorted((step, loss) for step, loss in numbers if loss is not None))


def _amount(value: object, least: float = 0.0) -> float | None:
    """Return a number above `least`; None for anything else."""
    known = number(value)
    return known if known is not None and known > least else None


_TAGGER = "round-0/tagger.json"
_TAGGER_REMEDY = "Delete it; `tapir resume` fits the tagger again."


def read_tagger(run: RunReader) -> TaggerReport | None:
    """Read the metrics; None where there is no tagger yet, or none that had anything to learn."""
    content = run.json(_TAGGER, _TAGGER_REMEDY)
    if not content:
        return None
    try:
        found = TaggerReport(**content)
        return replace(found, accuracy=float(found.accuracy), by_task=dict(found.by_task), f1=dict(found.f1))
    except (TypeError, ValueError) as error:
        raise StoreError(f"{run.folder / _TAGGER} is damaged: {error!r}", remedy=_TAGGER_REMEDY) from error
