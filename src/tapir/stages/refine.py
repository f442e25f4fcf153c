"""Refine: the teacher rewrites a response in the manner of its task; the original stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tapir.domain.completion import Failure
from tapir.domain.instruction import Pair
from tapir.roles import RefineRequest, Teacher
from tapir.store.keep import Place, Work, keep
from tapir.store.rows import RefinementRow


@dataclass(frozen=True, slots=True)
class Refine:
    """Each pair once in a run: what an earlier round had rewritten is not asked for again."""

    teacher: Teacher
    chunk: int

    def run(self, place: Place, pairs: Sequence[Pair], task_of: Mapping[str, str]) -> list[RefinementRow]:
        """One row for each pair; a failed rewrite leaves the original in use."""
        items = [(pair.instruction.id, pair) for pair in pairs]

        def do(chunk: Sequence[tuple[str, Pair]]) -> Iterator[RefinementRow]:
            for name, reply in self.teacher.refine([RefineRequest(pair, task_of[name]) for name, pair in chunk]):
                if isinstance(reply, Failure):
                    yield RefinementRow(name, task_of[name], None, self.teacher.name, f"{reply.kind}: {reply.message}")
                elif not reply.text.strip():
                    yield RefinementRow(name, task_of[name], None, self.teacher.name, "empty: the rewrite has no text")
                elif reply.finish_reason == "length":
                    yield RefinementRow(name, task_of[name], None, self.teacher.name, "length: the rewrite was cut off")
                else:
                    yield RefinementRow(name, task_of[name], reply.text, self.teacher.name, None)

        return keep(place, Work("refine", "refinements", self.chunk), RefinementRow, items, do)
