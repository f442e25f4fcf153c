"""BIG-Bench Hard (Suzgun et al. 2022): 27 reasoning tasks with exact answers.

Two rules, as for GSM8K. strict: what follows the last "the answer is", or else the whole answer, is the target and
nothing more. flexible: the answer is looked for in the text, in the form that the task has: a letter in brackets, one
of the allowed words, a number, closing brackets, or the listed words in order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tapir.domain.instruction import instruction_id
from tapir.errors import DataError
from tapir.evaluation.exact import (
    CheckedBenchmark,
    Figures,
    answers_of,
    failures,
    first_number,
    number,
    plain,
    prompt_of,
)
from tapir.evaluation.exact import graded as all_or_nothing
from tapir.evaluation.statistics import success_rate, summarise
from tapir.roles import Grade, Prompt
from tapir.store.rows import EvaluationRow

NAME = "bbh"
Ask: TypeAlias = Literal["steps", "question"]
"""steps: think aloud, then "the answer is ..."; question: nothing but the question."""
Pick: TypeAlias = Literal[0, -1]
"""Of several candidates the first, where an answer was announced, or else the last."""

_WORDS: Mapping[str, tuple[str, ...]] = {
    "boolean_expressions": ("True", "False"),
    "causal_judgement": ("Yes", "No"),
    "formal_fallacies": ("valid", "invalid"),
    "navigate": ("Yes", "No"),
    "sports_understanding": ("yes", "no"),
    "web_of_lies": ("Yes", "No"),
}
_NUMBERS = ("multistep_arithmetic_two", "object_counting")
_COUNTS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_COUNTED = {word: str(place) for place, word in enumerate(f"{_COUNTS} seventeen eighteen nineteen twenty".split())}
_BRACKETS, _SORTED = "dyck_languages", "word_sorting"
_STEPS = '{question}\n\nThink step by step. End with "So the answer is", followed by nothing but the answer.'
_ANNOUNCED = re.compile(
    r"\banswer\b[*_]*(?:\s+to\b[^.\n]{1,60}?)?(?:\s+(?:is|would\s+be|must\s+be)\b[*_]*:?|[*_]*\s*:)", re.IGNORECASE
)
_OPTION = re.compile(r"^\(([A-Z])\)[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_LETTER = re.compile(r"\(([A-Z])\)")
_COMPLETE = r"(?=[*_)\]\"']*(?:[.,:;!\n]|$|\s+(?:because|since|as)\b|\s+[-\u2013\u2014]\s))"
"""After a word at the beginning of a text that is the answer, not the beginning of a sentence about the question."""
_BARE = re.compile(r"\W*(?:[Oo]ption\s+)?\(?([A-Z])\)?(?!['\u2019\w])")
_WORD = re.compile(r"[\w'&-]+")
_RUN = re.compile(r"[\[\](){}<>](?:[\s,]*[\[\](){}<>])*")
_NO_BRACKET = re.compile(r"[^\[\](){}<>]")


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of one task."""

    task: str
    question: str
    target: str


def read(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Problem]:
    """The problems of a file of BBH.

    Args:
        rows: place and fields of each row: `task`, `input`, `target`.

    Raises:
        DataError: a row is none of BBH; there is no row.
    """
    found = []
    for place, row in rows:
        fields = [row.get(key) for key in ("task", "input", "target")]
        if not all(isinstance(one, str) and one.strip() for one in fields):
            raise DataError(
                f"{place} is no row of BBH: it has {sorted(row)}", remedy="Every row needs task, input and target."
            )
        found.append(Problem(*(str(one) for one in fields)))
    if not found:
        raise DataError("the file holds no problems", remedy="Bring the tasks of BIG-Bench Hard, one problem a line.")
    return found


def texts(problems: Iterable[Problem]) -> list[str]:
    """What must never be trained on."""
    return [one.question for one in problems]


def asked(question: str, ask: Ask) -> str:
    """What the student is given."""
    return question if ask == "question" else _STEPS.format(question=question)


def strict(problem: Problem, answer: str) -> bool:
    """Whether the announced answer, or the whole text where none is announced, is the target and nothing more."""
    found = plain(_announced(answer) or answer)
    return found is not None and found == plain(problem.target)


def flexible(problem: Problem, answer: str) -> bool:
    """Whether the answer that the text comes to, in the form the task has, is the target.

    It is looked for in what follows the last "the answer is" (or "Answer:"), then in the whole text: there a first
    line that is nothing but an answer counts, else the last one that can be found.
    """
    form = _FORMS.get(problem.task, _option if _LETTER.fullmatch(problem.target) else _same)
    announced = _announced(answer)
    if announced is not None and (found := form(problem, announced, 0)) is not None:
        return found == _target(problem)
    return form(problem, answer, -1) == _target(problem)


RULES: Mapping[str, Callable[[Problem, str], bool]] = {"flexible": flexible, "strict": strict}


def _announced(answer: str) -> str | None:
    """What follows the last "the answer is", if anything does."""
    parts = _ANNOUNCED.split(answer)
    return parts[-1] if len(parts) > 1 and parts[-1].strip() else None


def _target(problem: Problem) -> str:
    return problem.target.casefold() if problem.task != _BRACKETS else "".join(problem.target.split())


def _allowed(problem: Problem, text: str, pick: Pick) -> str | None:
    """Yes or no, true or false, valid or invalid."""
    words = "|".join(_WORDS[problem.task])
    if opening := re.match(rf"\W*({words})\b{'' if pick == 0 else _COMPLETE}", text, re.IGNORECASE):
        return opening[1].casefold()
    found: list[str] = re.findall(rf"\b(?:{words})\b", text, re.IGNORECASE)
    return found[pick].casefold() if found else None


def _option(problem: Problem, text: str, pick: Pick) -> str | None:
    """A letter in brackets; or a letter alone; or the text of one option and no other."""
    options = {letter: plain(said) or "" for letter, said in _OPTION.findall(problem.question)}
    first = text.strip().split("\n")[0]
    if (bare := _BARE.match(first)) and _ends(first[bare.end() :], options.get(bare[1]), pick):
        return f"({bare[1].casefold()})"
    if letters := _LETTER.findall(text):
        return f"({letters[pick].casefold()})"
    short = plain(text) or ""
    said = {letter: option for letter, option in options.items() if option and option in short}
    whole = [
        one for one, option in said.items() if not any(option != other and option in other for other in said.values())
    ]
    return f"({whole[0].casefold()})" if len(whole) == 1 else None


def _ends(rest: str, option: str | None, pick: Pick) -> bool:
    """Whether what follows a letter leaves it the answer: nothing, the text of its option, or (announced) a reason."""
    return plain(rest) in {None, option} or (
        pick == 0 and re.match(r"[).,:;]|\s+(?:because|since|as)\b", rest) is not None
    )


def _number(problem: Problem, text: str, pick: Pick) -> str | None:  # noqa: ARG001
    """A number in digits, or else a small one in words; after an equals sign if one is announced as a sum."""
    first = text.strip().split("\n")[0]
    if pick == 0 and (found := (number if "=" in first else first_number)(first)) is not None:
        return found
    if re.fullmatch(r"\W*\d[\d,.]*\W*", first):
        return number(first)
    counts = [_COUNTED[word] for word in _WORD.findall(text.casefold()) if word in _COUNTED]
    return number(text) or (counts[pick] if counts else None)


def _brackets(problem: Problem, text: str, pick: Pick) -> str | None:  # noqa: ARG001
    """The last line of nothing but brackets, or else the last run of them; the given ones may stand before."""
    lines = [_NO_BRACKET.sub("", line) for line in text.split("\n") if not any(map(str.isalnum, line))]
    runs = [one for one in lines if one] or [_NO_BRACKET.sub("", run) for run in _RUN.findall(text)]
    given = _NO_BRACKET.sub("", problem.question.rpartition("Input:")[2])
    return runs[-1].removeprefix(given) if runs else None


def _sorted(problem: Problem, text: str, pick: Pick) -> str | None:
    """The listed words in the order of their last (announced: first) complete mention."""
    wanted = set(problem.target.casefold().split())
    words = [word.strip("'-&") for word in _WORD.findall(text.casefold().replace("\u2019", "'"))]
    listed = [word for word in words if word in wanted]
    n = len(problem.target.split())
    return None if len(listed) < n else " ".join(listed[:n] if pick == 0 else listed[-n:])


def _same(problem: Problem, text: str, pick: Pick) -> str | None:
    """The target itself, for rows of other forms; announced, it is all of its line."""
    found = plain(text.strip().split("\n")[0] if pick == 0 else text)
    return problem.target.casefold() if found == plain(problem.target) else found


_FORMS: Mapping[str, Callable[[Problem, str, Pick], str | None]] = {
    **dict.fromkeys(_WORDS, _allowed),
    **dict.fromkeys(_NUMBERS, _number),
    _BRACKETS: _brackets,
    _SORTED: _sorted,
}


class BbhBenchmark(CheckedBenchmark):
    """A success is a right answer by the flexible rule.

    A question that the data set has twice is asked once, and its answer counts for each of its rows.
    """

    def __init__(self, problems: Callable[[], Sequence[Problem]], ask: Ask) -> None:
        """Take the problems when they are first asked for."""
        self._problems: dict[str, Problem] = {}

        def prompts() -> list[Prompt]:
            for one in problems():
                self._problems.setdefault(instruction_id(asked(one.question, ask)), one)
            return [prompt_of(asked(one.question, ask), one.task, one.target) for one in self._problems.values()]

        super().__init__(NAME, prompts, self._right)

    def _right(self, prompt: Prompt, answer: str) -> Grade:
        self.prompts()
        return all_or_nothing(right=flexible(self._problems[prompt.instruction.id], answer))


def figures(problems: Sequence[Problem], ask: Ask, rows: Sequence[EvaluationRow], source: str) -> Figures:
    """Accuracy by task with Wilson's interval, and the mean of the tasks; a problem without an answer is wrong.

    Raises:
        DataError: not one problem was answered.
    """
    answers = answers_of(rows, source)
    given = [(one, answers.get(instruction_id(asked(one.question, ask)), "")) for one in problems]
    right = {name: [(one.task, rule(one, answer)) for one, answer in given] for name, rule in RULES.items()}
    means = {name: summarise(NAME, 0, found) for name, found in right.items()}
    results = {f"mean of the tasks, {name}": found.overall for name, found in means.items()}
    results |= {f"all problems, {name}": success_rate(sum(good for _, good in f), len(f)) for name, f in right.items()}
    groups = {task: {name: one.tasks[task] for name, one in means.items()} for task in means["flexible"].tasks}
    return Figures(NAME, len(problems), results, groups, failures(rows))
