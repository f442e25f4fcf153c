"""Answers that a program can check against the one expected answer, and the figures that come of it."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, TypeAlias

from tapir.domain.instruction import Instruction, Origin
from tapir.domain.judgement import Unscored
from tapir.domain.round import EvalResult
from tapir.errors import DataError
from tapir.roles import Grade, Prompt
from tapir.store.rows import EvaluationRow

Normalise: TypeAlias = Callable[[str], str | None]
"""The part of a text that is compared; None where it holds none."""

_NUMBER = re.compile(
    r"(?<![\d.])(?P<before>(?<![\w)\]])[-\u2212])?[$€£¥]?(?P<after>[-\u2212])?"  # -$3 and $-3, but 16-3 is no sign
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?P<power>[eE][+-]?\d{1,3}(?![\w.]))?"
)
_AROUND = "\"'`*_\u201c\u201d\u2018\u2019\u00ab\u00bb \t"
_END = ".!,;:"


class CheckedBenchmark:
    """Prompts whose answers a function grades, one by one; it needs no judge."""

    def __init__(
        self, name: str, read: Callable[[], Sequence[Prompt]], check: Callable[[Prompt, str], Grade | Unscored]
    ) -> None:
        """Take the prompts when they are first asked for."""
        self.name = name
        self._read = read
        self._check = check

    def prompts(self) -> Sequence[Prompt]:
        """The same prompts in every round."""
        return self._prompts

    @cached_property
    def _prompts(self) -> Sequence[Prompt]:
        return self._read()

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade | Unscored]]:
        """Instruction id and grade of each answer."""
        for prompt, answer in answers:
            yield prompt.instruction.id, self._check(prompt, answer)


class ExactBenchmark(CheckedBenchmark):
    """An answer is right where it equals the expected one after normalisation: `plain`, or `number`, or your own."""

    def __init__(self, name: str, read: Callable[[], Sequence[Prompt]], normalise: Normalise) -> None:
        """Take the prompts when they are first asked for; one without an expected answer cannot be graded."""
        super().__init__(name, read, self._equal)
        self._normalise = normalise

    def _equal(self, prompt: Prompt, answer: str) -> Grade | Unscored:
        wanted = self._normalise(prompt.expected)
        if not wanted:
            return Unscored("no expected answer", prompt.expected)
        return graded(right=self._normalise(answer) == wanted)


def graded(*, right: bool) -> Grade:
    """All or nothing."""
    return Grade(float(right), right)


def plain(text: str) -> str | None:
    """Without case, white space, and the marks around and after it; None where nothing is left."""
    short = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    before = None
    while short != before:
        before, short = short, short.strip(_AROUND).rstrip(_END)
    return short or None


def number(text: str) -> str | None:
    """The last number of a text; equal numbers are equal strings: 1,234.50 and $1234.5 are "1234.5"."""
    found = list(_NUMBER.finditer(text))
    return _written(found[-1]) if found else None


def first_number(text: str) -> str | None:
    """The first number of a text, written as `number` does it."""
    found = _NUMBER.search(text)
    return _written(found) if found else None


def _written(found: re.Match[str]) -> str:
    value = f"{Decimal(found['digits'].replace(',', '') + (found['power'] or '')):f}"
    value = (value.rstrip("0").rstrip(".") if "." in value else value) or "0"
    return f"-{value}" if (found["before"] or found["after"]) and value != "0" else value


def prompt_of(text: str, task: str, expected: str) -> Prompt:
    """A prompt of an evaluation set."""
    return Prompt(Instruction.of(text, Origin("evaluation")), task, expected)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured on one benchmark.

    Attributes:
        results: the main figures by name.
        groups: the same by part of the benchmark (task, kind of instruction); empty where it has none.
        failures: prompts without a gradable answer, by kind; they count as wrong.
    """

    benchmark: str
    n: int
    results: Mapping[str, EvalResult]
    groups: Mapping[str, Mapping[str, EvalResult]]
    failures: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """For a file; a bound that cannot be computed is null."""
        return {
            "benchmark": self.benchmark,
            "n": self.n,
            "results": {name: _bounds(one) for name, one in self.results.items()},
            "groups": {
                group: {name: _bounds(one) for name, one in found.items()} for group, found in self.groups.items()
            },
            "failures": dict(self.failures),
        }


def _bounds(one: EvalResult) -> dict[str, float | int | None]:
    return {name: None if math.isnan(value) else value for name, value in asdict(one).items()}


def failures(rows: Iterable[EvaluationRow]) -> dict[str, int]:
    """How often there was no gradable answer, by kind, the most frequent first."""
    return dict(Counter(row.failure for row in rows if row.failure).most_common())


def answers_of(rows: Sequence[EvaluationRow], source: str) -> dict[str, str]:
    """The answers that are there, by instruction id.

    Raises:
        DataError: not one prompt was answered.
    """
    found = {row.id: row.answer for row in rows if row.answer is not None}
    if not found:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in failures(rows).items())
        raise DataError(
            f"{source} answered none of the {len(rows)} prompts: {kinds or 'there are no prompts'}",
            remedy="Answers in a file must be to exactly these prompts; of a model, its log in the folder says more.",
        )
    return found
