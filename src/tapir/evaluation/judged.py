"""Held-out instructions whose answers the judge compares with the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from tapir.domain.completion import usable
from tapir.domain.difficulty import difficulty
from tapir.domain.judgement import HIGHEST_SCORE, LOWEST_SCORE, Unscored, Verdict
from tapir.roles import Comparison, Grade, Judge, Prompt, Teacher


class JudgedBenchmark:
    """An answer is a success if the judge scores it at least as high as the teacher's.

    Its grade is the judge's score on a scale from 0 (a score of 1) to 1 (a score of 10).
    """

    def __init__(self, name: str, read: Callable[[], Sequence[Prompt]], judge: Judge, teacher: Teacher) -> None:
        """Take the prompts when they are first asked for; the teacher answers those that have no answer yet."""
        self.name = name
        self._read = read
        self._judge = judge
        self._teacher = teacher
        self._written: dict[str, str] = {}

    def prompts(self) -> Sequence[Prompt]:
        """The same prompts in every round; their tasks are left to the tagger."""
        return self._prompts

    @cached_property
    def _prompts(self) -> Sequence[Prompt]:
        return self._read()

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade | Unscored]]:
        """Instruction id and grade of each answer, or why there is none."""
        missing = self._references([prompt for prompt, _ in answers])
        for name, why in missing.items():
            yield name, Unscored("no reference answer", why)
        comparisons = [
            Comparison(one.instruction, self._reference(one), answer, one.task)
            for one, answer in answers
            if one.instruction.id not in missing
        ]
        for name, verdict in self._judge.judge(comparisons):
            yield name, _grade(verdict)

    def _reference(self, one: Prompt) -> str:
        return one.expected if one.expected.strip() else self._written[one.instruction.id]

    def _references(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Have the teacher answer what has no answer; what it fails on, with the reason."""
        owed = [
            one.instruction for one in prompts if not one.expected.strip() and one.instruction.id not in self._written
        ]
        missing = {}
        for name, reply in self._teacher.answer(owed):
            text, why = usable(reply)
            if text is None:
                missing[name] = why or ""
            else:
                self._written[name] = text
        return missing


def _grade(verdict: Verdict) -> Grade | Unscored:
    if isinstance(verdict, Unscored):
        return verdict
    mean = sum(one.student for one in verdict) / len(verdict)
    return Grade((mean - LOWEST_SCORE) / (HIGHEST_SCORE - LOWEST_SCORE), difficulty(verdict).gap <= 0)
