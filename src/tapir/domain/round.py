"""Plans and results of a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tapir.domain.task import TaskDistribution


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A student on disk.

    Attributes:
        path: folder that `transformers` loads.
        round: 0 for the warm-up checkpoint S_0.
    """

    path: str
    round: int


@dataclass(frozen=True, slots=True)
class EvalResult:
    """A success rate.

    Attributes:
        value: 0 to 1.
        n: prompts it was measured on.
        low: lower end of the 95 % interval.
        high: upper end.
    """

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
class RoundPlan:
    """What a round sets out to do: its number, n, α, P(t).

    Attributes:
        balanced: whether the mixture is brought to P(t); else tasks come as the pools have them.
    """

    number: int
    size: int
    hard_share: float
    target: TaskDistribution
    balanced: bool = True
