"""Scores a judge gives, and the absence of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

LOWEST_SCORE = 1.0
HIGHEST_SCORE = 10.0

Order: TypeAlias = Literal["student-first", "reference-first", "alone"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """f_J of both answers to one instruction, shown in one order.

    Attributes:
        student: score of the student's answer, 1 to 10.
        reference: score of the teacher's answer, 1 to 10.
        order: which answer the judge read first; "alone" if it read them separately.
    """

    student: float
    reference: float
    order: Order
    rationale: str
    judge: str

    def __post_init__(self) -> None:
        for score in (self.student, self.reference):
            if not LOWEST_SCORE <= score <= HIGHEST_SCORE:
                raise ValueError(f"a score of {score} is outside {LOWEST_SCORE:g} to {HIGHEST_SCORE:g}")


@dataclass(frozen=True, slots=True)
class Unscored:
    """A judge that could not be read: never a number, never a default."""

    reason: str
    raw: str = ""


Verdict: TypeAlias = tuple[Judgement, ...] | Unscored
