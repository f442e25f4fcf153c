"""Evaluate: S_r on held-out instructions, per task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from tapir.domain.completion import Completion, Failure
from tapir.domain.instruction import Instruction
from tapir.domain.judgement import Unscored
from tapir.domain.round import Checkpoint, Evaluation
from tapir.errors import RoleError
from tapir.evaluation.statistics import summarise
from tapir.roles import Benchmark, Grade, Prompt, Student, answers
from tapir.store.keep import Place, Work, keep
from tapir.store.rows import EvaluationRow

_Item: TypeAlias = tuple[str, tuple[str, Prompt]]
UNTAGGED = "untagged"


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Every benchmark, every prompt, every grade kept.

    Attributes:
        tasks: t(x) by id, for prompts whose benchmark leaves the task to the tagger.
        at_once: grade all answers together, for a judge whose replies come hours later.
    """

    student: Student
    benchmarks: Sequence[Benchmark]
    chunk: int
    tasks: Mapping[str, str] = field(default_factory=dict)
    at_once: bool = False

    def run(self, place: Place, checkpoint: Checkpoint) -> list[Evaluation]:
        """One evaluation for each benchmark, in order.

        Raises:
            RoleError: a benchmark gave no grade at all.
        """
        names = [benchmark.name for benchmark in self.benchmarks]
        prompts = {
            f"{benchmark.name}/{prompt.instruction.id}": (benchmark.name, prompt)
            for benchmark in self.benchmarks
            for prompt in benchmark.prompts()
        }
        ordered = sorted(prompts.items(), key=lambda item: (len(item[1][1].instruction.text), item[0]))

        def do(
            chunks: Iterator[Sequence[_Item]],
        ) -> Iterator[tuple[int, list[EvaluationRow]]]:
            asked: dict[int, Sequence[_Item]] = {}
            for number, replies in answers(self.student, checkpoint, _instructions(chunks, asked)):
                yield number, list(self._graded(asked.pop(number), dict(replies)))

        together = max(1, len(ordered)) if self.at_once else self.chunk
        rows = keep(place, Work("evaluate", "evaluation", together), EvaluationRow, ordered, do)
        return [_summary(place, name, [row for row in rows if row.benchmark == name]) for name in names]

    def _graded(self, chunk: Sequence[_Item], replies: Mapping[str, Completion | Failure]) -> Iterator[EvaluationRow]:
        grades = self._grades([prompt for _, prompt in chunk], replies)
        for key, (benchmark, prompt) in chunk:
            yield self._row(benchmark, prompt, replies[prompt.instruction.id], grades.get(key))

    def _grades(
        self, prompts: Sequence[tuple[str, Prompt]], replies: Mapping[str, Completion | Failure]
    ) -> dict[str, Grade | Unscored]:
        """The grade of every answer there is, by benchmark/id."""
        found: dict[str, Grade | Unscored] = {}
        for benchmark in self.benchmarks:
            given = [
                (replace(prompt, task=self._task(prompt)), reply.text)
                for name, prompt in prompts
                if name == benchmark.name and isinstance(reply := replies[prompt.instruction.id], Completion)
            ]
            found |= {f"{benchmark.name}/{name}": grade for name, grade in benchmark.grade(given)}
        return found

    def _task(self, prompt: Prompt) -> str:
        return prompt.task or self.tasks.get(prompt.instruction.id, UNTAGGED)

    def _row(
        self, benchmark: str, prompt: Prompt, reply: Completion | Failure, grade: Grade | Unscored | None
    ) -> EvaluationRow:
        """An answer that failed is a failure of the student; one that could not be judged is neither."""
        answer, score, success, failure = None, None, False, None
        if isinstance(reply, Failure):
            score, failure = 0.0, reply.kind
        else:
            answer = reply.text
            if isinstance(grade, Grade):
                score, success = grade.score, grade.success
            else:
                failure = f"unscored: {grade.reason if grade else 'no grade'}"
        return EvaluationRow(
            benchmark,
            prompt.instruction.id,
            self._task(prompt),
            prompt.instruction.text,
            prompt.expected,
            answer,
            score,
            success,
            failure,
        )


def _instructions(chunks: Iterable[Sequence[_Item]], asked: dict[int, Sequence[_Item]]) -> Iterator[list[Instruction]]:
    """What to ask for each chunk, each instruction once; the chunk itself waits in `asked`."""
    for number, chunk in enumerate(chunks):
        asked[number] = chunk
        yield list({prompt.instruction.id: prompt.instruction for _, (_, prompt) in chunk}.values())


def _summary(place: Place, benchmark: str, rows: Sequence[EvaluationRow]) -> Evaluation:
    """The success rates; what could not be judged counts for nothing."""
    counted = [(row.task, row.success) for row in rows if row.score is not None]
    if not counted:
        why = Counter(row.failure for row in rows).most_common(1)
        raise RoleError(
            f"none of the {len(rows)} answers to {benchmark} could be graded" + "".join(f": {one}" for one, _ in why),
            remedy=f"Mend the judge or the benchmark, remove {place.named('evaluation')}.parquet from the run's folder"
            " and run `tapir resume`.",
        )
    return summarise(benchmark, place.number, counted)
