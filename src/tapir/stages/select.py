"""Selection of the hard seeds, D_S = {MFD > δ}; unscored items are neither hard nor easy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tapir.data.run.rows import DifficultyRow
from tapir.domain.difficulty import Difficulty, Split, Threshold, split
from tapir.domain.judgement import Unscored
from tapir.stages.base import StageContext


def select(context: StageContext, threshold: Threshold, scored: Mapping[str, Difficulty | Unscored]) -> Split:
    """Split the scored ids by the threshold: return a partition, recorded with every gap and spread."""
    gaps = [x.gap if isinstance(x, Difficulty) else np.nan for x in scored.values()]
    parts = split(list(scored), np.array(gaps, dtype=np.float64), threshold)
    context.store.once(context.path("difficulty"), DifficultyRow, lambda: _rows(scored, parts))
    return parts


def _rows(scored: Mapping[str, Difficulty | Unscored], parts: Split) -> list[DifficultyRow]:
    names = ("hard", "easy", "hopeless", "unscored", "withheld")  # the last is a part of the easy ones
    part = {item: name for name in names for item in getattr(parts, name)}
    return [
        DifficultyRow(name, score.gap, score.spread, part[name])
        if isinstance(score, Difficulty)
        else DifficultyRow(name, None, None, part[name])
        for name, score in scored.items()
    ]
