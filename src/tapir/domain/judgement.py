"""Scores of a judge, and the absence of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

LOWEST_SCORE = 1.0
HIGHEST_SCORE = 10.0
RANGE = HIGHEST_SCORE - LOWEST_SCORE

Order: TypeAlias = Literal["student-first", "reference-first", "alone"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """f_J of the student's and the teacher's answer to one instruction, 1 to 10 each, shown in one order.

    Attributes:
        order: the answer the judge read first; "alone" if it read them separately.
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
    """A reply of the judge that has no valid scores; `raw` is its text."""

    reason: str
    raw: str = ""


def share_of_scale(score: float) -> float:
    """Return a score as a share of the scale: 0 for the lowest to 1 for the highest."""
    return (score - LOWEST_SCORE) / RANGE


Verdict: TypeAlias = tuple[Judgement, ...] | Unscored
