"""Answer: ỹ = S(x) for every instruction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction
from tapir.domain.round import Checkpoint
from tapir.roles import Reply, Student, answers
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

        def do(chunks: Iterator[Sequence[tuple[str, Instruction]]]) -> Iterator[tuple[int, list[AnswerRow]]]:
            asked = ([one for _, one in chunk] for chunk in chunks)
            for number, replies in answers(self.student, checkpoint, asked):
                yield number, [row(reply) for reply in replies]

        return {answer.id: answer for answer in keep(place, work, AnswerRow, ordered, do)}


def row(reply: Reply) -> AnswerRow:
    """A reply as it is recorded."""
    name, result = reply
    if isinstance(result, Failure):
        return AnswerRow(name, None, None, 0, f"{result.kind}: {result.message}")
    return AnswerRow(name, result.text, result.finish_reason, result.usage.completion_tokens, None)
