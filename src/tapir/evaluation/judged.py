"""Held-out instructions whose answers the judge compares with the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

from tapir.config.annotators import LlmJudgeConfig
from tapir.config.evaluation import JudgedEvaluationConfig
from tapir.config.recipe import Recipe
from tapir.data.run.rows import EvaluationRow
from tapir.domain.completion import usable
from tapir.domain.difficulty import difficulty
from tapir.domain.errors import RecipeError
from tapir.domain.evaluation import Grade, Prompt
from tapir.domain.judgement import Unscored, share_of_scale
from tapir.domain.roles import Comparison, Judge, Teacher
from tapir.evaluation.held_out import held_out_sets
from tapir.models.context import BuildContext


class JudgedBenchmark:
    """An answer is a success if the judge scores it at least as high as the teacher's.

    Its grade is the judge's score on a scale from 0 (a score of 1) to 1 (a score of 10).
    """

    def __init__(self, name: str, read: Callable[[], Sequence[Prompt]], judge: Judge, teacher: Teacher) -> None:
        """Take the prompts when they are first asked for; the teacher answers those that have no answer yet."""
        self.name = name
        self._read = cache(read)
        self._judge = judge
        self._teacher = teacher
        self._answered: dict[str, str] = {}  # by the teacher

    @classmethod
    def build(cls, section: JudgedEvaluationConfig, context: BuildContext) -> list[JudgedBenchmark]:
        """Return a benchmark for the held-out part of the corpus, and one for the file of prompts."""
        assert context.judge and context.teacher  # noqa: S101, PT018 (they are built before the evaluation)
        sets = held_out_sets(section, context, answered=context.recipe.answers() != "teacher")
        return [cls(name, read, context.judge, context.teacher) for name, read in sets]

    def prompts(self) -> Sequence[Prompt]:
        """Return the prompts; their tasks are left to the tagger."""
        return self._read()

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade | Unscored]]:
        """Yield instruction id and grade of each answer, or why there is none."""
        references = {prompt.instruction.id: prompt.expected for prompt, _ in answers if prompt.expected.strip()}
        pending = [prompt.instruction for prompt, _ in answers if prompt.instruction.id not in references]
        for name, reply in self._teacher.answer([each for each in pending if each.id not in self._answered]):
            text, why = usable(reply)
            if text is None:
                yield name, Unscored("no reference answer", why or "")
            else:
                self._answered[name] = text
        references |= {each.id: self._answered[each.id] for each in pending if each.id in self._answered}
        comparisons = [
            Comparison(prompt.instruction, references[prompt.instruction.id], answer, prompt.task)
            for prompt, answer in answers
            if prompt.instruction.id in references
        ]
        for name, verdict in self._judge.judge(comparisons):
            if isinstance(verdict, Unscored):
                yield name, verdict
            else:
                mean = sum(judgement.student for judgement in verdict) / len(verdict)
                yield name, Grade(share_of_scale(mean), difficulty(verdict).gap <= 0)


def failure_of(row: EvaluationRow) -> str:
    """Return why there is no answer, or no grade; empty where there are both."""
    if row.score is None:
        return (row.failure or "no grade").removeprefix("unscored: ")
    if row.answer is None:
        return f"student: {row.failure}"
    return "" if row.answer.strip() else "student: empty answer"


def llm_judge(recipe: Recipe) -> LlmJudgeConfig:
    """Return the judge section of a recipe; a judge that is no language model is a `RecipeError`."""
    if not isinstance(recipe.judge, LlmJudgeConfig):
        raise RecipeError(
            f"the recipe {recipe.name!r} has no language model as judge: judge.kind is {recipe.judge.kind!r}",
            remedy='Give a recipe with [judge] kind = "llm" and its endpoints with --recipe (`tapir recipe show'
            " alpaca-api` prints one).",
        )
    return recipe.judge
