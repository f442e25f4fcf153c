"""Answer: ỹ = S(x) for every instruction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction
from tapir.domain.round import Checkpoint
from tapir.roles import Reply, Student
from tapir.store.keep import Place, Work, keep
from tapir.store.rows import AnswerRow


@dataclass(frozen=True, slots=True)
class Answer:
    """The student answers; shorter instructions first, so that batches waste little on padding."""

    student: Student
    chunk: int

    def run(self, place: Place, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> dict[str, AnswerRow]:
        """One row for each instruction, by id."""
        ordered = sorted(((one.id, one) for one in instructions), key=lambda pair: (len(pair[1].text), pair[0]))
        work = Work("answer", "answers", self.chunk)

        def do(chunk: Sequence[tuple[str, Instruction]]) -> Iterator[AnswerRow]:
            return map(row, self.student.answer(checkpoint, [one for _, one in chunk]))

        return {answer.id: answer for answer in keep(place, work, AnswerRow, ordered, do)}


def row(reply: Reply) -> AnswerRow:
    """A reply as it is recorded."""
    name, result = reply
    if isinstance(result, Failure):
        return AnswerRow(name, None, None, 0, f"{result.kind}: {result.message}")
    return AnswerRow(name, result.text, result.finish_reason, result.usage.completion_tokens, None)
