"""Benchmarks with expected answers, exact-match grading, and counts of truncated, empty and failed answers."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import cache
from typing import TypeAlias

from tapir.config.evaluation import ExactEvaluationConfig
from tapir.data.run.rows import EvaluationRow
from tapir.domain.evaluation import Grade, Prompt
from tapir.domain.judgement import Unscored
from tapir.evaluation.held_out import held_out_sets
from tapir.models.context import BuildContext

Normalise: TypeAlias = Callable[[str], str | None]
"""The part of a text that is compared; None where it holds none."""

TRUNCATED = "cut at length"
EMPTY = "no answer"

_NUMBER = re.compile(
    r"(?<![\d.])(?P<before>(?<![\w)\]])[-\u2212])?(?:[$€£¥](?P<after>[-\u2212])?)?"  # -$3 and $-3, but 16-3 is no sign
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?P<power>[eE][+-]?\d{1,3}(?![^\W_]|\.\d))?"
)
_AROUND = "\"'`*_\u201c\u201d\u2018\u2019\u00ab\u00bb \t"
_END = ".!,;:"


class ExactBenchmark:
    """An answer is right where it equals the expected one after normalisation: `plain`, or `number`, or your own."""

    def __init__(self, name: str, read: Callable[[], Sequence[Prompt]], normalise: Normalise) -> None:
        """Take the prompts when they are first needed; one without an expected answer cannot be graded."""
        self.name = name
        self._read = cache(read)
        self._normalise = normalise

    @classmethod
    def build(cls, section: ExactEvaluationConfig, context: BuildContext) -> list[ExactBenchmark]:
        """Return a benchmark for the held-out part of the corpus, and one for the file of prompts."""
        normalise = plain if section.match == "plain" else number
        return [cls(name, read, normalise) for name, read in held_out_sets(section, context, answered=True)]

    def prompts(self) -> Sequence[Prompt]:
        """Return the prompts; the same in every round."""
        return self._read()

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade | Unscored]]:
        """Yield instruction id and grade of each answer."""
        for prompt, answer in answers:
            expected = self._normalise(prompt.expected)
            if not expected:
                yield prompt.instruction.id, Unscored("no expected answer", prompt.expected)
            else:
                right = self._normalise(answer) == expected
                yield prompt.instruction.id, Grade(float(right), right)


def plain(text: str) -> str | None:
    """Return a text without case, white space, and the marks around and after it; None where nothing is left."""
    short = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    before = None
    while short != before:
        before, short = short, short.strip(_AROUND).rstrip(_END)
    return short or None


def number(text: str) -> str | None:
    """Return the last number of a text; equal numbers are equal strings: 1,234.50 and $1234.5 are "1234.5"."""
    matches = list(_NUMBER.finditer(text))
    if not matches:
        return None
    last = matches[-1]
    value = f"{Decimal(last['digits'].replace(',', '') + (last['power'] or '')):f}"
    value = (value.rstrip("0").rstrip(".") if "." in value else value) or "0"
    return f"-{value}" if (last["before"] or last["after"]) and value != "0" else value


def answer_problems(rows: Sequence[EvaluationRow]) -> dict[str, dict[str, int]]:
    """Count the answers of each benchmark that failed, could not be graded, are empty or truncated, by kind.

    Each counts once. Kinds are those of `Failure` ("missing", "too long"), "unscored: REASON", `EMPTY`, `TRUNCATED`.
    """
    counts: dict[str, Counter[str]] = {row.benchmark: Counter() for row in rows}
    for row in rows:
        empty = EMPTY if not (row.answer or "").strip() else ""
        if kind := row.failure or empty or (TRUNCATED if row.finish_reason == "length" else ""):
            counts[row.benchmark][kind] += 1
    return {name: dict(count.most_common()) for name, count in counts.items()}
