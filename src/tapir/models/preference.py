"""Pairwise preference: a judge that names the better of two answers, in both orders, weighted by log-probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Literal, TypeAlias

import numpy as np

from tapir.domain.completion import Completion
from tapir.domain.judgement import Order, Unscored
from tapir.domain.roles import Comparison
from tapir.models.api.protocol import Message
from tapir.models.judge import ORDERS, JudgeClient, in_order
from tapir.models.logprobs import share_of_first
from tapir.models.prompts import quoted_conversation
from tapir.models.replies import read_preference

Better: TypeAlias = Literal["student", "reference"]

_LETTERS = "ABC"


@dataclass(frozen=True, slots=True)
class Choice:
    """One verdict.

    Attributes:
        better: what the judge wrote.
        student: 0 (the reference is better) to 1 (the student's answer is): a share of probability where
            `weighted`, else 0 or 1.
    """

    order: Order
    better: Better
    student: float
    weighted: bool


_Reading: TypeAlias = tuple[str, float | None]
"""The letter, and the weighted share of the answer shown first."""


class LlmPreference(JudgeClient[Comparison, _Reading]):
    """Names the better answer in both orders; an order without a single readable verdict leaves the item unscored.

    One answer must be better: there are no ties. With `section.expected_score` the share of the letters'
    log-probabilities counts.
    """

    shown = ORDERS

    @cached_property
    def form(self) -> tuple[str, None]:
        """The text that says how to reply; a reply is prose."""
        return self.prompts["reply-prefer-short"].fill(), None

    def prefer(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, tuple[Choice, ...] | Unscored]]:
        """Yield instruction id and all verdicts (those with the student's answer first come first), as they come."""
        for name, outcome in self.ask((each.instruction.id, each.task, each) for each in comparisons):
            if isinstance(outcome, Unscored):
                yield name, outcome
                continue
            readings = ((order, each) for order in ORDERS for each in outcome[order])
            yield name, tuple(_choice(order, each) for order, each in readings if not isinstance(each, Unscored))

    def messages(self, comparison: Comparison, shown: str) -> list[Message]:
        """Return the chat that shows both answers in an order."""
        first, second = in_order(shown, comparison.student, comparison.reference)
        instruction = quoted_conversation(comparison.instruction)
        return self.chat("prefer", instruction=instruction, answer_a=first, answer_b=second, rubric="")

    def read(self, reply: Completion, rationale: str = "") -> _Reading | Unscored:  # noqa: ARG002 (of a verdict alone)
        """Return the letter of a complete reply, with its share."""
        mark = read_preference(reply.text)
        if isinstance(mark, Unscored):
            return mark
        if mark["letter"] == "C":
            return Unscored("a tie where none was offered", reply.text)
        if not self.section.expected_score:
            return mark["letter"], None
        return mark["letter"], share_of_first(reply.text, mark.start("letter"), reply.tokens, _LETTERS)


def _choice(order: Order, reading: _Reading) -> Choice:
    (letter, share), student_first = reading, order == "student-first"
    first = float(letter == "A") if share is None else share
    better: Better = "student" if (letter == "A") == student_first else "reference"
    return Choice(order, better, first if student_first else 1.0 - first, share is not None)


def preference(choices: Sequence[Choice]) -> float:
    """Return the mean over both orders of the mean over their verdicts, 0 to 1."""
    orders = dict.fromkeys(choice.order for choice in choices)
    return fmean(fmean(choice.student for choice in choices if choice.order == order) for order in orders)


def flipped(choices: Sequence[Choice]) -> bool:
    """Return whether the two orders name different answers, each by the majority of its verdicts."""
    leads = dict.fromkeys(ORDERS, 0)
    for choice in choices:
        leads[choice.order] += (choice.better == "student") - (choice.better == "reference")
    first, second = (np.sign(lead) for lead in leads.values())
    return bool(first != second)
