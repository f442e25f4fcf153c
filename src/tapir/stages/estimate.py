"""Estimate: how hard each instruction is, by another measure than the judge's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from tapir.domain.difficulty import Difficulty
from tapir.domain.instruction import Pair
from tapir.domain.judgement import Unscored
from tapir.domain.round import Checkpoint
from tapir.errors import RoleError
from tapir.roles import Estimate as Found
from tapir.roles import Estimator
from tapir.store.keep import Place, Work, keep
from tapir.store.rows import EstimateRow

TABLE = "estimates"


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimator looks at every pair; what it cannot measure stays unscored.

    Attributes:
        tasks: the label of each instruction.
        table: where its figures are kept.
    """

    estimator: Estimator
    chunk: int
    tasks: Mapping[str, str]
    table: str = TABLE

    def run(self, place: Place, checkpoint: Checkpoint, pairs: Sequence[Pair]) -> dict[str, Difficulty | Unscored]:
        """Difficulty of each pair on the estimator's scale, or why there is none.

        Raises:
            RoleError: there is none for any pair, so that nothing can be called hard or easy.
        """
        items = sorted(((pair.instruction.id, pair) for pair in pairs), key=lambda one: (_length(one[1]), one[0]))

        def do(chunks: Iterator[Sequence[tuple[str, Pair]]]) -> Iterator[tuple[int, list[EstimateRow]]]:
            for number, chunk in enumerate(chunks):
                found = dict(self.estimator.estimate(checkpoint, [pair for _, pair in chunk], self.tasks))
                yield number, [self._row(name, found) for name, _ in chunk]

        rows = keep(place, Work(self._stage(), self.table, self.chunk), EstimateRow, items, do)
        found = {row.id: _difficulty(row) for row in rows}
        if found and all(isinstance(one, Unscored) for one in found.values()):
            raise RoleError(
                f"{self.estimator.name} could not be measured for any of {len(found)} instructions: {rows[0].unscored}",
                remedy=f"Look at the column `unscored` of {place.named(self.table)}.parquet, then choose another"
                " curriculum.difficulty in a new run.",
            )
        return found

    def _stage(self) -> str:
        return "estimate" if self.table == TABLE else f"compare {self.estimator.name}"

    def _row(self, name: str, found: Mapping[str, Found | Unscored]) -> EstimateRow:
        one = found.get(name, Unscored("no estimate"))
        if isinstance(one, Unscored):
            return EstimateRow(name, self.estimator.name, None, one.raw, one.reason)
        if not isfinite(one.value):
            return EstimateRow(name, self.estimator.name, None, one.detail, f"{one.value} is no difficulty")
        return EstimateRow(name, self.estimator.name, one.value, one.detail, None)


def _length(pair: Pair) -> int:
    """Pairs of like length stand together, so that batches waste little on padding."""
    return len(pair.instruction.text) + len(pair.response.text)


def _difficulty(row: EstimateRow) -> Difficulty | Unscored:
    return Unscored(row.unscored or "", row.detail) if row.value is None else Difficulty(row.value, 0.0)
