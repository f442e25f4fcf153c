"""Selection of the hard seeds, D_S = {MFD > δ}; unscored items are neither hard nor easy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tapir.data.run.rows import DifficultyRow
from tapir.domain.difficulty import Difficulty, Split, Threshold, split
from tapir.domain.errors import RoleError
from tapir.domain.judgement import Unscored
from tapir.stages.base import StageContext


@dataclass(frozen=True, slots=True)
class Select:
    """Split the corpus by the threshold."""

    threshold: Threshold

    def run(self, context: StageContext, ids: Sequence[str], scored: Mapping[str, Difficulty | Unscored]) -> Split:
        """Return a partition of `ids`, recorded with every gap and spread; raise `RoleError` if nothing is scored."""
        scores = [scored[name] for name in ids]
        gaps = np.array([x.gap if isinstance(x, Difficulty) else np.nan for x in scores], dtype=np.float64)
        parts = split(ids, gaps, self.threshold)
        if ids and not (parts.hard or parts.easy or parts.hopeless):
            raise RoleError(
                f"none of the {len(ids)} instructions has a difficulty",
                remedy="The column `unscored` of judgements.parquet or estimates.parquet says why.",
            )
        context.store.once(context.path("difficulty"), DifficultyRow, lambda: _rows(ids, scores, parts))
        return parts


def _rows(ids: Sequence[str], scores: Sequence[Difficulty | Unscored], parts: Split) -> list[DifficultyRow]:
    names = ("hard", "easy", "hopeless", "unscored", "withheld")  # the last is a part of the easy ones
    part = {item: name for name in names for item in getattr(parts, name)}
    return [
        DifficultyRow(name, score.gap, score.spread, part[name])
        if isinstance(score, Difficulty)
        else DifficultyRow(name, None, None, part[name])
        for name, score in zip(ids, scores, strict=True)
    ]
