"""Results of MT-Bench as JSON, and rows told apart by their kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tapir.evaluation.mtbench import Figure, MtBench, TurnGrade, TurnPair


def grades_of(rows: Sequence[TurnGrade] | Sequence[TurnPair]) -> list[TurnGrade]:
    """The grades among the rows."""
    return [one for one in rows if isinstance(one, TurnGrade)]


def pairs_of(rows: Sequence[TurnGrade] | Sequence[TurnPair]) -> list[TurnPair]:
    """The pairs among the rows."""
    return [one for one in rows if isinstance(one, TurnPair)]


def as_json(one: MtBench) -> dict[str, Any]:
    """A result as JSON; what cannot be computed is null."""
    return {
        "model": one.model,
        "other": one.other or None,
        "failures": dict(one.failures),
        "flips": list(one.flips),
        "figures": [
            {"category": category or "all", "turn": turn or "both", **_figure(figure)}
            for (category, turn), figure in one.by.items()
        ],
    }


def _figure(figure: Figure) -> dict[str, Any]:
    found = {} if figure.result is None else asdict(figure.result)
    numbers = {name: found.get(name) for name in ("value", "n", "low", "high")}
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in numbers.items()
    }
    return {**clean, "unscored": dict(figure.unscored)}
