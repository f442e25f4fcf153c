"""Checkpoints and the plan of a round."""

from __future__ import annotations

from dataclasses import dataclass

from tapir.domain.task import TaskDistribution


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A student on disk, in a folder that `transformers` loads; round 0 is the warm-up checkpoint S_0."""

    path: str
    round: int


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """The plan of a round: its number, n, α, P(t), and whether tasks have these shares or those of the pools."""

    number: int
    size: int
    hard_share: float
    target: TaskDistribution
    balanced: bool = True
