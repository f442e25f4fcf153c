"""GSM8K (Cobbe et al. 2021): grade-school mathematics, measured by the final number."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tapir.domain.instruction import instruction_id, normalised
from tapir.errors import DataError
from tapir.evaluation.exact import CheckedBenchmark, Figures, answers_of, failures, first_number, number, prompt_of
from tapir.evaluation.exact import graded as all_or_nothing
from tapir.evaluation.statistics import success_rate
from tapir.roles import Grade, Prompt
from tapir.store.rows import EvaluationRow

NAME = "gsm8k"
Ask: TypeAlias = Literal["steps", "question"]
"""steps: think aloud, then "#### number" (the default format of GSM8K); question: nothing but the question."""

_MARK = "####"
_DIRECTLY = re.compile(r"[ \t]*[-\u2212]?[$€£¥]?[-\u2212]?[\d.]")
_CALCULATOR = re.compile(r"<<[^>]*>>")
_ANOTHER = re.compile(r"\n\s*Question:")
_STEPS = (
    "{question}\n\nThink step by step. Then give the final answer on a line of its own, as #### and the number alone."
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, its worked answer, and the number that is right."""

    question: str
    answer: str
    final: str


@dataclass(frozen=True, slots=True)
class Asking:
    """How the question is put; `shots` stand before it as worked examples."""

    ask: Ask
    shots: tuple[Problem, ...] = ()

    def prompt(self, question: str) -> str:
        """What the student is given."""
        if not self.shots:
            return question if self.ask == "question" else _STEPS.format(question=question)
        worked = [f"Question: {one.question}\nAnswer: {_CALCULATOR.sub('', one.answer)}" for one in self.shots]
        return "\n\n".join([*worked, f"Question: {question}\nAnswer:"])


def read(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Problem]:
    """The problems of a file of GSM8K.

    Args:
        rows: place and fields of each row: `question`, and `answer` with its result after `####`.

    Raises:
        DataError: a row is none of GSM8K, or repeats a question; there is no row.
    """
    found: dict[str, Problem] = {}
    for place, row in rows:
        question, answer = row.get("question"), row.get("answer")
        if not isinstance(question, str) or not isinstance(answer, str) or not question.strip():
            raise DataError(
                f"{place} is no row of GSM8K: it has {sorted(row)}", remedy="Every row needs question and answer."
            )
        final = strict(answer)
        if final is None:
            raise DataError(f"{place}: the answer has no number after ####: {answer[-60:]!r}", remedy="Mend the row.")
        if question in found:
            raise DataError(f"{place} repeats the question {question[:80]!r}", remedy="Keep one of them.")
        found[question] = Problem(question, answer, final)
    if not found:
        raise DataError("the file holds no problems", remedy="Bring a file of GSM8K, such as its test.jsonl.")
    return list(found.values())


def texts(problems: Iterable[Problem]) -> list[str]:
    """What must never be trained on."""
    return [one.question for one in problems]


def chosen_shots(train: Sequence[Problem], tested: Sequence[Problem], n: int, seed: int) -> tuple[Problem, ...]:
    """The worked examples, the same for every question: `n` of `train` that are not tested.

    Raises:
        DataError: there are not so many.
    """
    held = {normalised(one.question) for one in tested}
    usable = [one for one in train if normalised(one.question) not in held]
    if len(usable) < n:
        raise DataError(f"{n} worked examples wanted, {len(usable)} there", remedy="Lower --shots.")
    return tuple(random.Random(seed).sample(usable, n))


def strict(answer: str) -> str | None:
    """The number that stands directly after the first ####, as it is asked for; None without one."""
    _, mark, rest = _one(answer).partition(_MARK)
    return first_number(rest.split("\n")[0]) if mark and _DIRECTLY.match(rest) else None


def flexible(answer: str) -> str | None:
    """The last number, wherever it stands; what follows a further "Question:" is not looked at."""
    return number(_one(answer))


RULES: Mapping[str, Callable[[str], str | None]] = {"flexible": flexible, "strict": strict}


def _one(answer: str) -> str:
    """The answer to this question alone: a student shown examples may go on with the next one."""
    return _ANOTHER.split(answer, maxsplit=1)[0]


class Gsm8kBenchmark(CheckedBenchmark):
    """A success is a right number by the flexible rule."""

    def __init__(self, problems: Callable[[], Sequence[Problem]], asking: Asking) -> None:
        """Take the problems when they are first asked for."""

        def prompts() -> list[Prompt]:
            return [prompt_of(asking.prompt(one.question), NAME, one.final) for one in problems()]

        super().__init__(NAME, prompts, _right)


def _right(prompt: Prompt, answer: str) -> Grade:
    return all_or_nothing(right=flexible(answer) == prompt.expected)


def figures(problems: Sequence[Problem], asking: Asking, rows: Sequence[EvaluationRow], source: str) -> Figures:
    """Accuracy by both rules, each with Wilson's interval; a problem without an answer is wrong.

    Raises:
        DataError: not one problem was answered.
    """
    answers = answers_of(rows, source)
    given = [(answers.get(instruction_id(asking.prompt(one.question)), ""), one.final) for one in problems]
    results = {
        name: success_rate(sum(rule(answer) == final for answer, final in given), len(given))
        for name, rule in RULES.items()
    }
    return Figures(NAME, len(problems), results, {}, failures(rows))
