"""Select: D_S = {MFD > δ}; what is unscored is neither hard nor easy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tapir.domain.difficulty import Difficulty, Split, Threshold, split
from tapir.domain.judgement import Unscored
from tapir.errors import RoleError
from tapir.store.keep import Place
from tapir.store.rows import DifficultyRow


@dataclass(frozen=True, slots=True)
class Select:
    """The threshold decides."""

    threshold: Threshold

    def run(self, place: Place, ids: Sequence[str], scored: Mapping[str, Difficulty | Unscored]) -> Split:
        """A partition of `ids`, recorded with every gap and spread."""
        found = [scored[name] for name in ids]
        gaps = np.array([one.gap if isinstance(one, Difficulty) else np.nan for one in found], dtype=np.float64)
        parts = split(ids, gaps, self.threshold)
        if ids and not (parts.hard or parts.easy or parts.hopeless):
            raise RoleError(
                f"none of the {len(ids)} instructions has a difficulty",
                remedy="The column `unscored` of judgements.parquet or estimates.parquet says why.",
            )
        place.store.once(place.named("difficulty"), DifficultyRow, lambda: _rows(ids, found, parts))
        return parts


def _rows(ids: Sequence[str], found: Sequence[Difficulty | Unscored], parts: Split) -> list[DifficultyRow]:
    part = dict.fromkeys(parts.hard, "hard") | dict.fromkeys(parts.easy, "easy")
    part |= dict.fromkeys(parts.hopeless, "hopeless") | dict.fromkeys(parts.unscored, "unscored")
    part |= dict.fromkeys(parts.withheld, "withheld")
    return [
        DifficultyRow(name, one.gap, one.spread, part[name])
        if isinstance(one, Difficulty)
        else DifficultyRow(name, None, None, part[name])
        for name, one in zip(ids, found, strict=True)
    ]
