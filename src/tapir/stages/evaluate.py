"""Evaluation of S_r on held-out instructions, per task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TypeAlias

from tapir.data.files import GO_ON
from tapir.data.run.rows import EvaluationRow
from tapir.domain.completion import Completion, Failure
from tapir.domain.errors import RoleError
from tapir.domain.evaluation import Evaluation, Grade, Prompt
from tapir.domain.instruction import Instruction
from tapir.domain.judgement import Unscored
from tapir.domain.progress import Progress
from tapir.domain.roles import Benchmark, Student, answers
from tapir.domain.round import Checkpoint
from tapir.evaluation.statistics import summarise
from tapir.stages.base import StageContext, Work, run_chunks

_Item: TypeAlias = tuple[str, tuple[str, Prompt]]
UNTAGGED = "untagged"


@dataclass(frozen=True, slots=True)
class Evaluate:
    """The student answers the prompts of every benchmark; every answer and grade is kept."""

    student: Student
    benchmarks: Sequence[Benchmark]
    chunk: int | None  # prompts answered and graded together; None takes all, for a judge behind a batch API
    tasks: Mapping[str, str] = field(default_factory=dict)  # t(x), where a benchmark leaves it to the tagger

    def run(self, context: StageContext, checkpoint: Checkpoint) -> list[Evaluation]:
        """Return one evaluation for each benchmark, in order, and record them in metrics.json."""
        names = [benchmark.name for benchmark in self.benchmarks]
        prompts = {
            f"{benchmark.name}/{prompt.instruction.id}": (
                benchmark.name,
                replace(prompt, task=prompt.task or self.tasks.get(prompt.instruction.id, UNTAGGED)),
            )
            for benchmark in self.benchmarks
            for prompt in benchmark.prompts()
        }
        ordered = sorted(prompts.items(), key=lambda item: (len(item[1][1].instruction.transcript), item[0]))

        def do(chunks: Iterator[Sequence[_Item]]) -> Iterator[tuple[int, list[EvaluationRow]]]:
            pending: dict[int, Sequence[_Item]] = {}
            for number, replies in answers(self.student, checkpoint, _instructions(chunks, pending)):
                yield number, list(self._rows(pending.pop(number), dict(replies), context.progress))

        work = Work("evaluate", "evaluation", self.chunk or max(1, len(ordered)), counted=self.chunk is None)
        rows = run_chunks(context, work, EvaluationRow, ordered, do)
        result = [_summarise(context, name, [row for row in rows if row.benchmark == name]) for name in names]
        context.store.once_json(context.path("metrics"), lambda: [asdict(evaluation) for evaluation in result])
        return result

    def _rows(
        self, chunk: Sequence[_Item], replies: Mapping[str, Completion | Failure], progress: Progress
    ) -> Iterator[EvaluationRow]:
        grades: dict[str, Grade | Unscored] = {}
        for key, grade in self._grades([prompt for _, prompt in chunk], replies):
            grades[key] = grade
            if self.chunk is None:
                progress.advance()
        for key, (benchmark, prompt) in chunk:
            yield _row(benchmark, prompt, replies[prompt.instruction.id], grades.get(key))

    def _grades(
        self, prompts: Sequence[tuple[str, Prompt]], replies: Mapping[str, Completion | Failure]
    ) -> Iterator[tuple[str, Grade | Unscored]]:
        """Yield benchmark/id and grade of every answer that did not fail."""
        for benchmark in self.benchmarks:
            given = [
                (prompt, reply.text)
                for name, prompt in prompts
                if name == benchmark.name and isinstance(reply := replies[prompt.instruction.id], Completion)
            ]
            yield from ((f"{benchmark.name}/{name}", grade) for name, grade in benchmark.grade(given))


def _row(benchmark: str, prompt: Prompt, reply: Completion | Failure, grade: Grade | Unscored | None) -> EvaluationRow:
    """Return an answer with its grade: a failed answer counts as wrong, one without a grade does not count."""
    failed = EvaluationRow(
        benchmark=benchmark,
        id=prompt.instruction.id,
        task=prompt.task,
        instruction=prompt.instruction.text,
        context=prompt.instruction.context,
        expected=prompt.expected,
        answer=None,
        score=0.0,
        success=False,
        failure=reply.kind if isinstance(reply, Failure) else None,
    )
    if isinstance(reply, Failure):
        return failed
    answered = replace(failed, answer=reply.text, finish_reason=reply.finish_reason, thought=reply.reasoning or None)
    if isinstance(grade, Grade):
        return replace(answered, score=grade.score, success=grade.success)
    return replace(answered, score=None, failure=f"unscored: {grade.reason if grade else 'no grade'}")


def _instructions(
    chunks: Iterable[Sequence[_Item]], pending: dict[int, Sequence[_Item]]
) -> Iterator[list[Instruction]]:
    """Yield the distinct instructions of each chunk; the chunk itself waits in `pending`."""
    for number, chunk in enumerate(chunks):
        pending[number] = chunk
        yield list({prompt.instruction.id: prompt.instruction for _, (_, prompt) in chunk}.values())


def _summarise(context: StageContext, benchmark: str, rows: Sequence[EvaluationRow]) -> Evaluation:
    """Return the success rates; answers that could not be judged are left out."""
    counted = [(row.task, row.success) for row in rows if row.score is not None]
    if not counted:
        why = Counter(row.failure for row in rows).most_common(1)
        raise RoleError(
            f"none of the {len(rows)} answers to {benchmark} could be graded"
            + "".join(f": {reason}" for reason, _ in why),
            remedy="Fix the judge or the benchmark, delete"
            f" {context.store.folder / context.path('evaluation')}.parquet and {GO_ON}.",
        )
    return summarise(benchmark, context.number, counted)
