"""The rates of one or several models against a baseline, raw and at equal lengths, as values and as JSON."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tapir.errors import MissingExtra
from tapir.evaluation.annotations import Annotation, judged
from tapir.evaluation.length_control import Given, LengthControlled, NotComputed, length_controlled
from tapir.evaluation.winrate import WinRate, win_rate


@dataclass(frozen=True, slots=True)
class Rated:
    """A model's raw and length-controlled win rate."""

    raw: WinRate
    equal: LengthControlled | NotComputed


def rated(
    models: Mapping[str, Sequence[Annotation]], given: Given, *, seed: int, without_unjudged: bool
) -> list[Rated]:
    """Both rates of every model, the best raw rate first.

    Raises:
        DataError: a prompt was not judged and may not be left out.
        MissingExtra: scikit-learn is not installed.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise MissingExtra("scikit-learn is not installed", remedy="pip install 'tapir-distill[eval]'")
    raw = {name: win_rate(rows, seed=seed, without_unjudged=without_unjudged) for name, rows in models.items()}
    kept = {name: judged(rows, without_unjudged=without_unjudged) for name, rows in models.items()}
    equal = length_controlled(kept, given, seed=seed)
    return sorted((Rated(raw[name], equal[name]) for name in models), key=lambda one: -one.raw.rate.value)


def as_json(one: Rated) -> dict[str, Any]:
    """A result as JSON: rates from 0 to 1, what cannot be computed is null."""
    content = asdict(one.raw)
    if isinstance(one.equal, NotComputed):
        content["length_controlled"] = {"rate": None, "reason": one.equal.reason}
    else:
        content["length_controlled"] = asdict(one.equal)
    found: dict[str, Any] = _finite(content)
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
