"""Difficulty by how often the student fails: several sampled answers, each judged against the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tapir.domain.completion import Completion, Failure
from tapir.domain.difficulty import difficulty
from tapir.domain.instruction import Instruction, Pair, instruction_id
from tapir.domain.judgement import Unscored, Verdict
from tapir.domain.round import Checkpoint
from tapir.roles import Comparison, Estimate, Judge, Resource, Student, Watch


class PassRate:
    """1 minus the share of samples that the judge finds at least as good as the teacher's answer.

    0 is always solved, 1 never: what is between is where a student can learn from its own successes.
    """

    name = "pass-rate"

    def __init__(self, student: Student, judge: Judge, samples: int) -> None:
        """Take a student that samples (its temperature is above 0), the judge, and the answers drawn for each pair."""
        self._student = student
        self._judge = judge
        self._samples = samples

    def open(self, folder: Path, watch: Watch) -> None:
        """The sampling student may hold memory or a server."""
        if isinstance(self._student, Resource):
            self._student.open(folder, watch)

    def rest(self) -> None:
        """Give back what the sampling student holds."""
        if isinstance(self._student, Resource):
            self._student.rest()

    def close(self) -> None:
        """As `rest`, for good."""
        if isinstance(self._student, Resource):
            self._student.close()

    def estimate(
        self, checkpoint: Checkpoint, pairs: Sequence[Pair], tasks: Mapping[str, str]
    ) -> Iterator[tuple[str, Estimate | Unscored]]:
        """The share of failures; samples that were not answered or judged do not count, none left means no estimate."""
        copies: dict[str, tuple[Pair, Instruction]] = {}
        for pair in pairs:
            for number in range(self._samples):
                name = instruction_id(f"{pair.instruction.id}/{number}")  # its own randomness
                copies[name] = pair, replace(pair.instruction, id=name)
        answers = dict(self._student.answer(checkpoint, [one for _, one in copies.values()]))
        asked = [
            Comparison(one, pair.response.text, reply.text, tasks.get(pair.instruction.id, ""))
            for name, (pair, one) in copies.items()
            if isinstance(reply := answers[name], Completion)
        ]
        verdicts: dict[str, Verdict] = dict(self._judge.judge(asked))
        outcomes: dict[str, list[bool]] = {pair.instruction.id: [] for pair in pairs}
        for name, verdict in verdicts.items():
            if verdict and not isinstance(verdict, Unscored):
                outcomes[copies[name][0].instruction.id].append(difficulty(verdict).gap <= 0)
        failed = sum(isinstance(one, Failure) for one in answers.values())
        for name, passed in outcomes.items():
            if passed:
                yield name, Estimate(1 - sum(passed) / len(passed), f"{sum(passed)} of {len(passed)} samples pass")
            else:
                yield name, Unscored("no sample was judged", f"{failed} answers of the chunk failed")
