"""Evaluate: S_r on held-out instructions, per task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tapir.domain.completion import Failure
from tapir.domain.round import Checkpoint, Evaluation
from tapir.evaluation.statistics import summarise
from tapir.roles import Benchmark, Prompt, Student
from tapir.store.keep import Place, Work, keep
from tapir.store.rows import EvaluationRow

SUCCESS = 0.99


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Every benchmark, every prompt, every grade kept."""

    student: Student
    benchmarks: Sequence[Benchmark]
    chunk: int

    def run(self, place: Place, checkpoint: Checkpoint) -> list[Evaluation]:
        """One evaluation for each benchmark, in order."""
        graders = {benchmark.name: benchmark for benchmark in self.benchmarks}
        prompts = {
            f"{benchmark.name}/{prompt.instruction.id}": (benchmark.name, prompt)
            for benchmark in self.benchmarks
            for prompt in benchmark.prompts()
        }
        ordered = sorted(prompts.items(), key=lambda item: (len(item[1][1].instruction.text), item[0]))

        def do(chunk: Sequence[tuple[str, tuple[str, Prompt]]]) -> Iterator[EvaluationRow]:
            instructions = {prompt.instruction.id: prompt.instruction for _, (_, prompt) in chunk}
            replies = dict(self.student.answer(checkpoint, list(instructions.values())))
            for _, (benchmark, prompt) in chunk:
                reply = replies[prompt.instruction.id]
                answer = None if isinstance(reply, Failure) else reply.text
                score = 0.0 if answer is None else graders[benchmark].grade(prompt, answer)
                yield EvaluationRow(
                    benchmark,
                    prompt.instruction.id,
                    prompt.task,
                    prompt.instruction.text,
                    prompt.expected,
                    answer,
                    score,
                    score >= SUCCESS,
                    reply.kind if isinstance(reply, Failure) else None,
                )

        rows = keep(place, Work("evaluate", "evaluation", self.chunk), EvaluationRow, ordered, do)
        return [
            summarise(name, place.number, [(row.task, row.success) for row in rows if row.benchmark == name])
            for name in graders
        ]
