"""Held-out prompts, grades and evaluation results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tapir.domain.instruction import Instruction


@dataclass(frozen=True, slots=True)
class EvalResult:
    """A success rate, 0 to 1, measured on `n` prompts, with its 95 % interval."""

    value: float
    n: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One checkpoint on one benchmark: overall (mean of the tasks) and by task."""

    benchmark: str
    round: int
    overall: EvalResult
    tasks: Mapping[str, EvalResult]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One held-out instruction with the task it counts for; an empty task is left to the tagger."""

    instruction: Instruction
    task: str
    expected: str


@dataclass(frozen=True, slots=True)
class Grade:
    """How good an answer is, 0 to 1, and whether that counts as a success."""

    score: float
    success: bool
