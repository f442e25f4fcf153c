"""What training said of itself, round by round, from every training.json of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from tapir.errors import StoreError
from tapir.store.files import read_json
from tapir.store.run import RunStore

Curve: TypeAlias = Sequence[tuple[int, float]]
"""Steps and losses, in the order of the steps; every loss is a number."""

_PARTS = 4  # a single log point says little: the first quarter is compared with the last
_SMALL = 0.01  # a loss below this has its digits further behind
_REMEDY = "Restore it; or delete it, then `tapir resume` trains the round again."


@dataclass(frozen=True, slots=True)
class Training:
    """One training; None is what its training.json does not say.

    Attributes:
        number: round; 0 is the warm-up.
        loss: mean loss per answer token at each log point.
        preference_loss: as `loss`, for the preferences.
        not_numbers: log points whose loss was not a number; they are in neither curve.
        examples: offered to the trainer.
        tokens: read, over all epochs.
        seconds: of the session that finished the training.
        tokens_per_second: read in that session.
        parameters: of the whole student.
        trainable: how many of them were trained.
        too_long: examples left out because they are longer than the recipe allows.
        cut: examples trained on without their end.
        preferences: pairs of the preference optimisation.
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
    preferences: int | None = None

    @property
    def name(self) -> str:
        """As it is written beside figures."""
        return f"round {self.number}" if self.number else "warm-up"

    @property
    def ends(self) -> tuple[float, float] | None:
        """Mean loss of the first and of the last quarter of the log points; None where there are fewer than two."""
        losses = [loss for _, loss in self.loss]
        part = max(1, len(losses) // _PARTS)
        return (fmean(losses[:part]), fmean(losses[-part:])) if len(losses) > 1 else None


def written(loss: float) -> str:
    """A loss as it stands in a table."""
    return f"{loss:.3f}" if abs(loss) >= _SMALL or not loss else f"{loss:.2g}"


def read_trainings(store: RunStore, recipe: Mapping[str, Any]) -> list[Training]:
    """Every finished training, in order.

    Args:
        store: the run.
        recipe: as it was resolved; a program that trains does not say what it left out.

    Raises:
        StoreError: a training.json is damaged.
    """
    plan = recipe.get("training", {})
    found = [_read(store, 0, plan)] if _path(store, 0).exists() else []
    number = 1
    while _path(store, number).exists():
        found.append(_read(store, number, plan))
        number += 1
    return found


def recorded(trainings: Sequence[Training]) -> frozenset[str]:
    """The fields that at least one training says something about."""
    names = [field.name for field in fields(Training)]
    return frozenset(name for name in names if any(getattr(one, name) not in (None, ()) for one in trainings))


def _path(store: RunStore, number: int) -> Path:
    return store.round(number) / "training.json"


def _read(store: RunStore, number: int, plan: Mapping[str, Any]) -> Training:
    path = _path(store, number)
    content = read_json(path, _REMEDY)
    try:
        loss, preference_loss = (_curve(content.get(key, ())) for key in ("loss", "preference_loss"))
        logged = len(content.get("loss", ())) + len(content.get("preference_loss", ()))
        too_long, cut = (len(content[key]) if key in content else None for key in ("too_long", "cut"))
        epochs, seconds, speed = (_amount(content.get(key)) for key in ("epochs", "seconds", "tokens_per_second"))
        examples, steps, tokens, parameters, trainable, preferences = (
            _count(content.get(key))
            for key in ("examples", "steps", "tokens", "parameters", "trainable", "preferences")
        )
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is damaged: {error}", remedy=_REMEDY) from error
    preferred = store.has(f"round-{number}/contrasts")
    return Training(
        number=number,
        loss=loss,
        preference_loss=preference_loss,
        not_numbers=logged - len(loss) - len(preference_loss),
        examples=examples,
        epochs=epochs,
        steps=steps,
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=speed,
        parameters=parameters,
        trainable=trainable,
        too_long=too_long if too_long or plan.get("kind") != "command" else None,
        cut=cut if cut or plan.get("too_long") == "cut" else None,
        preferences=preferences or (0 if preferred else None),
    )


def _curve(entries: Sequence[Sequence[Any]]) -> Curve:
    found = [(int(step), float(loss)) for step, loss in entries if _amount(loss, least=-math.inf) is not None]
    return tuple(sorted(found))


def _count(value: object) -> int | None:
    """A whole number above 0, which is what a trainer writes where it does not know."""
    found = _amount(value)
    return int(found) if found else None


def _amount(value: object, least: float = 0.0) -> float | None:
    """A number above `least`; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if value > least else None
