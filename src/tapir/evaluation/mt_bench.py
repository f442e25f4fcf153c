"""MT-Bench (Zheng et al. 2023, arXiv 2306.05685): questions in two turns, graded from 1 to 10."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapir.data.files import nan_to_null
from tapir.data.run.rows import EvaluationRow
from tapir.domain.errors import DataError
from tapir.domain.evaluation import EvalResult, Grade, Prompt
from tapir.domain.instruction import Instruction, Origin, Turn, instruction_id
from tapir.domain.judgement import LOWEST_SCORE, RANGE, Unscored, share_of_scale
from tapir.evaluation.held_out import Fields, parse_rows, text
from tapir.evaluation.judged import failure_of, llm_judge
from tapir.evaluation.statistics import bootstrap
from tapir.models.context import BuildContext
from tapir.models.judge import GradedAnswer, LlmGrader

NAME = "mt_bench"
PROMPTS = (
    "judge-single",
    "reply-single-tagged",
    "reply-single-json",
    "reply-scores-tagged",
    "reply-scores-json",
    "judge-finish",
    "judge-repair",
    "rubric-turn",
    "rubric-reference",
)
"""Prompts of the judge that the grades depend on."""
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
WITH_REFERENCE = frozenset({"reasoning", "math", "coding"})
TURNS = (1, 2)

_MIDDLE = 0.5
_NAMED = 5


@dataclass(frozen=True, slots=True)
class TwoTurns:
    """A question of MT-Bench.

    Attributes:
        turns: the user's first and second message.
        references: reference answers to both; empty where there is none.
    """

    id: int
    category: str
    turns: tuple[str, str]
    references: tuple[str, ...] = ()

    def instruction_id(self, turn: int) -> str:
        """Return the id of a turn: a digest of the question's id (texts may repeat) and the messages until then."""
        return instruction_id("\n\n".join((str(self.id), *self.turns[:turn])))


class MtBench:
    """Both turns of every question; the score of an answer is its grade on a scale from 0 (1) to 1 (10).

    A success is a grade above the middle of the scale. The second turn follows from the first answer.
    """

    name = NAME

    def __init__(self, questions: Sequence[TwoTurns], context: BuildContext) -> None:
        """Take the questions; the grader is the judge of the context's recipe."""
        self._turns = {each.instruction_id(turn): (each, turn) for each in questions for turn in TURNS}
        self._grader = LlmGrader.build(llm_judge(context.recipe), context)
        self._rubrics = context.prompts

    def prompts(self) -> list[Prompt]:
        """Return both turns of every question; the task is the category."""
        return [
            Prompt(Instruction(name, each.turns[turn - 1], Origin("evaluation")), each.category, "")
            for name, (each, turn) in self._turns.items()
        ]

    def second_turns(self, answers: Mapping[str, str | None]) -> dict[str, Instruction | None]:
        """Return the second turns by instruction id; None where `answers` has none to the first."""
        turns: dict[str, Instruction | None] = {}
        for name, (each, turn) in self._turns.items():
            if turn > 1:
                first = answers[each.instruction_id(1)]
                before = (Turn("user", each.turns[0]), Turn("assistant", first or ""))
                second = Instruction(name, each.turns[1], Origin("evaluation"), before)
                turns[name] = None if first is None else second
        return turns

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade | Unscored]]:
        """Yield instruction id and grade of each answer; both turns of a question are graded in the same call."""
        texts = {prompt.instruction.id: answer for prompt, answer in answers}
        pending = []
        for name, answer in texts.items():
            if answer.strip():
                pending.append(self._item(name, texts))
            else:
                yield name, Grade(0.0, success=False)
        for name, scores in self._grader.grade(pending):
            if isinstance(scores, Unscored):
                yield name, scores
            else:
                score = share_of_scale(scores.values[0])
                yield name, Grade(score, score > _MIDDLE)

    def _item(self, name: str, given: Mapping[str, str]) -> GradedAnswer:
        each, turn = self._turns[name]
        answers = [given[each.instruction_id(number)] for number in range(1, turn + 1)]
        rubric = [self._rubrics["rubric-turn"].fill(turn=str(turn))] if turn > 1 else []
        if each.references:
            rubric.append(self._rubrics["rubric-reference"].fill(reference=each.references[turn - 1]))
        question, answer = (
            texts[0] if turn == 1 else "\n\n".join(f"{word} {number}:\n{text}" for number, text in enumerate(texts, 1))
            for word, texts in (("Question", each.turns[:turn]), ("Answer to question", answers))
        )
        return GradedAnswer(name, question, answer, "\n\n".join(rubric), each.category)

    def summarise(self, rows: Iterable[EvaluationRow], model: str) -> MtBenchScores:
        """Return mean grades of one model by category and turn, from the rows of an evaluation.

        The overall mean is the mean over all grades, as FastChat computes it.
        """
        answers = [(*self._turns[row.id], row) for row in rows]
        failures = Counter(why for *_, row in answers if row.score is not None and (why := failure_of(row)))
        return MtBenchScores(model, _means(answers), dict(failures))


@dataclass(frozen=True, slots=True)
class MeanGrade:
    """A mean with its interval (bootstrap by question), and what it does not contain.

    Attributes:
        result: over what was graded, its n the number of grades; None where nothing was.
        unscored: reason and number of the answers without a grade; they count for nothing.
    """

    result: EvalResult | None
    unscored: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class MtBenchScores:
    """The result of one model.

    Attributes:
        by: means by category and turn; (category, 0) is both turns, ("", turn) all categories, ("", 0) everything.
        failures: kind and number of the answers the student did not give; each has the lowest grade.
    """

    model: str
    by: Mapping[tuple[str, int], MeanGrade]
    failures: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON; what cannot be computed is null."""
        figures = [
            {"category": category or "all", "turn": turn or "both"}
            | {name: getattr(mean.result, name, None) for name in ("value", "n", "low", "high")}
            | {"unscored": dict(mean.unscored)}
            for (category, turn), mean in self.by.items()
        ]
        content: dict[str, Any] = nan_to_null(
            {"model": self.model, "failures": dict(self.failures), "figures": figures}
        )
        return content


def _means(answers: Sequence[tuple[TwoTurns, int, EvaluationRow]]) -> dict[tuple[str, int], MeanGrade]:
    categories = {question.category for question, *_ in answers}
    names = [name for name in CATEGORIES if name in categories] + sorted(categories - set(CATEGORIES))
    return {
        (category, turn): _mean(
            [(each.id, row) for each, at, row in answers if category in {"", each.category} and turn in {0, at}]
        )
        for category in ("", *names)
        for turn in (0, *TURNS)
    }


def _mean(answers: Sequence[tuple[int, EvaluationRow]]) -> MeanGrade:
    unscored = dict(Counter(failure_of(row) for _, row in answers if row.score is None))
    by_question: dict[int, list[float]] = {}
    for question, row in answers:
        if row.score is not None:
            by_question.setdefault(question, []).append(round(LOWEST_SCORE + RANGE * row.score, 9))
    if not by_question:
        return MeanGrade(None, unscored)
    sums, counts = np.array([(sum(values), len(values)) for values in by_question.values()]).T
    n = int(counts.sum())
    if len(set(sums / counts)) == 1:  # resampling equal questions would feign certainty
        return MeanGrade(EvalResult(_ratio(sums, counts), n, math.nan, math.nan), unscored)
    return MeanGrade(replace(bootstrap(_ratio, sums, counts), n=n), unscored)  # by question, not by grade


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """Return the mean grade of questions from the sum and the number of the grades of each."""
    return float(sums.sum() / counts.sum())


def with_references(questions: Sequence[TwoTurns], references: Mapping[int, Sequence[str]]) -> list[TwoTurns]:
    """Return the questions with their reference answers, which mathematics, reasoning and coding must have."""
    both = {name: tuple(turns) for name, turns in references.items() if len(turns) == len(TURNS)}
    complete = {name: turns for name, turns in both.items() if all(turn.strip() for turn in turns)}
    lacking = [each.id for each in questions if each.category in WITH_REFERENCE and each.id not in complete]
    if lacking:
        raise DataError(
            f"{len(lacking):,} questions about mathematics, reasoning or coding have no reference answer to both "
            f"turns: {', '.join(map(str, lacking[:_NAMED]))}{', ...' if len(lacking) > _NAMED else ''}",
            remedy="Give a reference file that has them (--references), as FastChat's reference_answer/gpt-4.jsonl;"
            " --without-references grades without any.",
        )
    return [replace(each, references=complete.get(each.id, ())) for each in questions]


def parse_questions(rows: Iterable[tuple[str, Fields]], source: str) -> list[TwoTurns]:
    """Return the rows of a question.jsonl."""
    ids: set[int] = set()

    def question(fields: Fields) -> TwoTurns:
        name, turns = int(fields["question_id"]), fields["turns"]
        if not isinstance(turns, list) or len(turns) != len(TURNS) or not all(isinstance(text, str) for text in turns):
            raise ValueError("turns are not two texts")
        if name in ids:
            raise ValueError(f"question {name} comes twice")
        ids.add(name)
        return TwoTurns(name, text(fields, "category"), (turns[0], turns[1]))

    return parse_rows(rows, question, source, "question_id, category and two turns, as FastChat's question.jsonl")


def parse_answers(rows: Iterable[tuple[str, Fields]], source: str) -> dict[str, dict[int, list[str]]]:
    """Return answers by model and question from files as FastChat's model_answer and reference_answer."""
    models: dict[str, dict[int, list[str]]] = {}

    def add(fields: Fields) -> None:
        turns, model, question = fields["choices"][0]["turns"], text(fields, "model_id"), int(fields["question_id"])
        if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
            raise ValueError("turns are not texts")
        if models.setdefault(model, {}).setdefault(question, turns) != turns:
            raise ValueError(f"a second answer of {model} to question {question}")

    parse_rows(rows, add, source, "question_id, model_id and choices with turns, as FastChat's model_answer/NAME.jsonl")
    return models


def recorded_turns(questions: Sequence[TwoTurns], answers: Mapping[int, Sequence[str]]) -> dict[str, str]:
    """Return recorded answers by the instruction id of the turn that they answer."""
    return {
        question.instruction_id(turn): text
        for question in questions
        for turn, text in enumerate(answers.get(question.id, ())[: len(TURNS)], 1)
    }
