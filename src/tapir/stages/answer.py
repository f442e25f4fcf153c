"""Answers of the student, ỹ = S(x), and of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tapir.data.run.rows import AnswerRow, ResponseRow
from tapir.domain.completion import Completion, Failure, FinishReason, Usage, always_fit, usable
from tapir.domain.errors import RoleError, commonest
from tapir.domain.instruction import Instruction, Pair, Response
from tapir.domain.roles import Reply, Student, Teacher, answers
from tapir.domain.round import Checkpoint
from tapir.stages.base import StageContext, Work, run_chunks, run_items


@dataclass(frozen=True, slots=True)
class Answer:
    """The student answers every instruction; shorter ones first, so that batches waste little on padding."""

    student: Student
    chunk: int
    table: str = "answers"

    def run(
        self, context: StageContext, checkpoint: Checkpoint, instructions: Sequence[Instruction]
    ) -> dict[str, AnswerRow]:
        """Return one row for each distinct instruction, by id."""
        items = sorted({x.id: x for x in instructions}.items(), key=lambda item: (len(item[1].transcript), item[0]))
        work = Work("answer", self.table, self.chunk)

        def do(chunks: Iterator[Sequence[tuple[str, Instruction]]]) -> Iterator[tuple[int, list[AnswerRow]]]:
            requests = ([instruction for _, instruction in chunk] for chunk in chunks)
            for number, replies in answers(self.student, checkpoint, requests):
                yield number, [answer_row(reply) for reply in replies]

        return {row.id: row for row in run_chunks(context, work, AnswerRow, items, do)}


def answer_row(reply: Reply) -> AnswerRow:
    """Return the table row of a reply."""
    name, result = reply
    if isinstance(result, Failure):
        return AnswerRow(name, None, None, 0, f"{result.kind}: {result.message}")
    thought = result.reasoning or None
    return AnswerRow(name, result.text, result.finish_reason, result.usage.completion_tokens, None, thought)


@dataclass(frozen=True, slots=True)
class SavedAnswers:
    """A student whose answers are in a table: however often they are judged, the judge is asked the same."""

    rows: Mapping[str, AnswerRow]

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        """Yield each answer, cut or failed as it was."""
        for row in (self.rows[instruction.id] for instruction in instructions):
            if row.text is None:
                kind, _, message = (row.failure or "").partition(": ")
                yield row.id, Failure(kind, message)
            else:
                reason: FinishReason = "length" if row.finish_reason == "length" else "stop"
                yield row.id, Completion(row.text, reason, Usage(0, row.tokens), checkpoint.path, row.thought or "")


@dataclass(frozen=True, slots=True)
class Respond:
    """The teacher answers the instructions that need its answer; those it fails on are not trained on."""

    teacher: Teacher
    chunk: int
    unfit: Callable[[str], str] = always_fit  # why a text cannot be trained on

    def run(
        self, context: StageContext, corpus: Sequence[Pair], answers: Literal["corpus", "missing", "teacher"]
    ) -> list[Pair]:
        """Return the corpus with the teacher's responses in place, without the pairs that got none.

        `answers` says whose are wanted, as in the corpus section; a pair without a response has an empty text. If no
        pair has a response then, it is a `RoleError`.
        """
        pending = [pair for pair in corpus if answers == "teacher" or not pair.response.text.strip()]
        if answers == "corpus" or not pending:
            return list(corpus)
        items = [(pair.instruction.id, pair.instruction) for pair in pending]

        def do(pending: Iterator[tuple[str, Instruction]]) -> Iterator[tuple[str, list[ResponseRow]]]:
            for name, reply in self.teacher.answer(instruction for _, instruction in pending):
                text, failure = usable(reply, self.unfit)
                thought = reply.reasoning if text is not None and isinstance(reply, Completion) else ""
                yield name, [ResponseRow(name, text, self.teacher.name, failure, thought)]

        work = Work("respond", "responses", self.chunk)
        rows = {row.id: row for row in run_items(context, work, ResponseRow, items, do)}
        result = []
        for pair in corpus:
            row = rows.get(pair.instruction.id)
            if row is None:
                result.append(pair)
            elif row.text is not None:
                result.append(replace(pair, response=Response(row.text, row.author, row.thought)))
        if not result:
            raise RoleError(
                f"none of {len(rows)} answers of the teacher {self.teacher.name} can be used: "
                + commonest((row.failure or "").partition(":")[0] for row in rows.values()),
                remedy=f"The reasons are in {context.path('responses')}.parquet, the replies in the ledger. Raise"
                " teacher.max_tokens where they were cut off, else use another teacher, in a new run.",
            )
        return result
