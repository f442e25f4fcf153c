"""Refine: the teacher rewrites a response in the manner of its task; the original stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tapir.domain.completion import Completion, Failure, usable
from tapir.domain.instruction import Pair
from tapir.roles import RefineRequest, Teacher
from tapir.store.keep import Place, Work, stream
from tapir.store.rows import RefinementRow


@dataclass(frozen=True, slots=True)
class Refine:
    """What an earlier round had rewritten is not asked for again."""

    teacher: Teacher
    chunk: int

    def run(self, place: Place, pairs: Sequence[Pair], task_of: Mapping[str, str]) -> list[RefinementRow]:
        """One row for each pair; a failed rewrite leaves the original in use."""
        items = [(pair.instruction.id, pair) for pair in pairs]

        def do(owed: Iterator[tuple[str, Pair]]) -> Iterator[tuple[str, list[RefinementRow]]]:
            for name, reply in self.teacher.refine(RefineRequest(pair, task_of[name]) for name, pair in owed):
                yield name, [self._row(name, task_of[name], reply)]

        stream(place, Work("refine", "refinements", self.chunk), RefinementRow, items, do)
        return place.store.read(place.named("refinements"), RefinementRow)

    def _row(self, name: str, task: str, reply: Completion | Failure) -> RefinementRow:
        text, failure = usable(reply)
        return RefinementRow(name, task, text, self.teacher.name, failure)
