"""Which of two answers is better: a judge that names one, in both orders, weighted by its log-probabilities."""

from __future__ import annotations

import math
import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal, TypeAlias

from tapir.domain.completion import Completion, Token
from tapir.domain.judgement import Order, Unscored
from tapir.llm.asking import Asking
from tapir.llm.book import Book, quoted
from tapir.llm.judge import WAVE
from tapir.llm.quotation import own_words
from tapir.llm.switchboard import Caller
from tapir.llm.verdict import read_preference
from tapir.llm.wire import Request, Sampling, encodable
from tapir.roles import Comparison

Better: TypeAlias = Literal["student", "reference", "tie"]
ORDERS: tuple[Order, Order] = ("student-first", "reference-first")

_VERDICT = re.compile(r"\[\[\s*(?P<letter>[ABC])\s*\]\]")
_LETTERS = "ABC"
_TIE = 0.5


@dataclass(frozen=True, slots=True)
class PreferenceSettings:
    """How the judge is asked.

    Attributes:
        reasoned: a rationale before the verdict, and ties allowed; else the verdict alone, and one must be better.
        weighted: ask for log-probabilities and let the share of the two letters count.
        samples: verdicts in each order.
        wave: comparisons whose unreadable replies are asked for again together; all of them for a batch.
    """

    endpoints: tuple[str, ...]
    reasoned: bool
    weighted: bool
    samples: int
    temperature: float
    max_tokens: int
    wave: int = WAVE

    @classmethod
    def wave_for(cls, *, batch: bool) -> int:
        """All comparisons at once where replies come hours later, as from a batch."""
        return sys.maxsize if batch else WAVE


@dataclass(frozen=True, slots=True)
class Choice:
    """One verdict.

    Attributes:
        better: what the judge wrote.
        student: 0 (the reference is better) to 1 (the student's answer is): a share of probability where
            `weighted`, else 0, 0.5 or 1.
    """

    order: Order
    better: Better
    student: float
    weighted: bool
    rationale: str
    judge: str


@dataclass(slots=True)
class _Case:
    owed: int
    choices: dict[tuple[Order, int], Choice] = field(default_factory=dict)
    unscored: dict[tuple[Order, int], Unscored] = field(default_factory=dict)


class LlmPreference:
    """Names the better answer in both orders; an order without a single readable verdict leaves the item unscored."""

    def __init__(self, caller: Caller, book: Book, settings: PreferenceSettings, name: str) -> None:
        """Take the way to call, the prompts and the settings; `name` is recorded with every verdict."""
        self.name = name
        self._settings = settings
        self._prompt = book["prefer"]
        self._reply = book["reply-prefer-reasoned" if settings.reasoned else "reply-prefer-short"].fill()
        self._asking = Asking(caller, settings.endpoints, book["judge-repair"], self._reply, settings.wave)

    def prefer(
        self, comparisons: Iterable[Comparison], rubrics: Mapping[str, str]
    ) -> Iterator[tuple[str, tuple[Choice, ...] | Unscored]]:
        """Instruction id and all verdicts (those with the student's answer first come first), as they are finished.

        Args:
            comparisons: ids are distinct.
            rubrics: what to look for, by instruction id; nothing for ids it does not have.
        """
        parts = [(order, sample) for order in ORDERS for sample in range(self._settings.samples)]
        cases: dict[str, _Case] = {}

        def requests() -> Iterator[tuple[tuple[str, Order, int], Request]]:
            for one in comparisons:
                cases[one.instruction.id] = _Case(len(parts))
                for order, sample in parts:
                    rubric = rubrics.get(one.instruction.id, "")
                    yield (one.instruction.id, order, sample), self._request(one, order, sample, rubric)

        for (name, order, sample), found in self._asking.each(requests(), self._read):
            case = cases[name]
            case.owed -= 1
            if isinstance(found, Unscored):
                case.unscored[order, sample] = found
            else:
                case.choices[order, sample] = self._choice(order, *found)
            if not case.owed:
                yield name, self._verdict(cases.pop(name))

    def _request(self, one: Comparison, order: Order, sample: int, rubric: str) -> Request:
        settings = self._settings
        student, reference = quoted(one.student), quoted(one.reference)
        first, second = (student, reference) if order == "student-first" else (reference, student)
        messages = self._prompt.messages(
            instruction=quoted(one.instruction.text),
            answer_a=first,
            answer_b=second,
            rubric=quoted(rubric),
            reply=self._reply,
        )
        sampling = Sampling(settings.temperature, settings.max_tokens, settings.weighted)
        return Request(messages, sampling, sample=sample, task=one.task)

    def _read(self, reply: Completion) -> tuple[str, float, bool, str] | Unscored:
        """The letter, how far it speaks for A, whether that comes from log-probabilities, and the rationale."""
        found = read_preference(reply.text)
        if isinstance(found, Unscored):
            return found
        letter = "C" if found == "tie" else found
        if letter == "C" and not self._settings.reasoned:
            return Unscored("a tie where none was offered", reply.text)
        marks = [mark for mark in _VERDICT.finditer(own_words(reply.text)) if mark["letter"] == letter]
        share = None
        if self._settings.weighted and marks:
            share = share_of_first(reply.text, marks[-1].start("letter"), reply.tokens, _LETTERS)
        rationale = encodable(_VERDICT.sub("", reply.text).strip())
        plain = {"A": 1.0, "B": 0.0, "C": _TIE}[letter]
        return letter, plain if share is None else share, share is not None, rationale

    def _choice(self, order: Order, letter: str, first: float, weighted: bool, rationale: str) -> Choice:  # noqa: FBT001 (a reading taken apart)
        student_first = order == "student-first"
        better: Better = "tie" if letter == "C" else "student" if (letter == "A") == student_first else "reference"
        return Choice(order, better, first if student_first else 1.0 - first, weighted, rationale, self.name)

    def _verdict(self, case: _Case) -> tuple[Choice, ...] | Unscored:
        for order in ORDERS:
            missing = [sample for one, sample in case.unscored if one == order]
            if len(missing) == self._settings.samples:
                return case.unscored[order, min(missing)]
        return tuple(case.choices[key] for key in sorted(case.choices, key=lambda key: (ORDERS.index(key[0]), key[1])))


def share_of_first(text: str, at: int, tokens: Sequence[Token], letters: str) -> float | None:
    """Probability of the first letter among the letters, from the token that holds the verdict; a third is a tie.

    Args:
        text: the reply.
        at: where in it the verdict's letter stands.
        tokens: the reply token by token; natural logarithms.
        letters: first, second, and the tie where there is one.

    Returns:
        None where the tokens do not spell the text, or the verdict is not among the alternatives of its token.
    """
    if "".join(token.text for token in tokens) != text:
        return None
    starts = [0, *accumulate(len(token.text) for token in tokens)]
    turn = bisect_right(starts, at) - 1
    token, place = tokens[turn], at - starts[turn]
    before, after = token.text[:place].lstrip(), token.text[place + 1 :].rstrip()
    weights = dict.fromkeys(letters, 0.0)
    for written, logarithm in token.alternatives:
        letter = written.strip().removeprefix(before).removesuffix(after)
        if letter in weights and written.strip() == f"{before}{letter}{after}":
            weights[letter] += math.exp(logarithm)
    if not weights.get(text[at]):
        return None
    first, _, *tie = weights.values()
    return min(1.0, math.fsum([first, *(_TIE * one for one in tie)]) / math.fsum(weights.values()))


def preference(choices: Sequence[Choice]) -> float:
    """0 to 1: the mean over both orders of the mean over their verdicts."""
    means = []
    for order in dict.fromkeys(one.order for one in choices):
        values = [one.student for one in choices if one.order == order]
        means.append(math.fsum(values) / len(values))
    return math.fsum(means) / len(means)


def flipped(choices: Sequence[Choice]) -> bool:
    """Whether the two orders name different answers, each by the majority of its verdicts."""
    sides = []
    for order in ORDERS:
        votes = [one.better for one in choices if one.order == order]
        sides.append(
            (votes.count("student") > votes.count("reference")) - (votes.count("student") < votes.count("reference"))
        )
    return sides[0] != sides[1]
