"""Respond: y = T(x) where the corpus has no answer, or none that is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tapir.domain.completion import usable
from tapir.domain.instruction import Instruction
from tapir.roles import Teacher
from tapir.store.keep import Place, Work, stream
from tapir.store.rows import ResponseRow


@dataclass(frozen=True, slots=True)
class Respond:
    """The teacher answers; an instruction it fails on has no response and is not trained on."""

    teacher: Teacher
    chunk: int

    def run(self, place: Place, instructions: Sequence[Instruction]) -> list[ResponseRow]:
        """One row for each instruction."""
        items = [(one.id, one) for one in instructions]

        def do(owed: Iterator[tuple[str, Instruction]]) -> Iterator[tuple[str, list[ResponseRow]]]:
            for name, reply in self.teacher.answer(one for _, one in owed):
                text, failure = usable(reply)
                yield name, [ResponseRow(name, text, self.teacher.name, failure)]

        stream(place, Work("respond", "responses", self.chunk), ResponseRow, items, do)
        return place.store.read(place.named("responses"), ResponseRow)
