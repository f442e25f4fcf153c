"""The curriculum: the hard share α by round, and P(t) (METHOD sections 3, 4.5 and 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tapir.domain.task import TaskDistribution

TargetRule: TypeAlias = Literal["fixed", "room", "competence", "pool"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """α_1, α_2, ...: one share per round, each in [0, 1] as a recipe's are, never changing direction."""

    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if list(self.shares) not in (sorted(self.shares), sorted(self.shares, reverse=True)):
            raise ValueError(f"the hard share must rise or fall, not both: {list(self.shares)}")

    @classmethod
    def paper(cls, start: float, step: float, rounds: int) -> Schedule:
        """Return α_{r+1} = min(1, α_r + Δα)."""
        return cls(tuple(min(1.0, round(start + step * done, 12)) for done in range(rounds)))

    @classmethod
    def constant(cls, share: float, rounds: int) -> Schedule:
        """Return the same share in every round."""
        return cls((share,) * rounds)

    @classmethod
    def linear(cls, start: float, end: float, rounds: int) -> Schedule:
        """Return shares from `start` in the first round to `end` in the last."""
        if rounds == 1:
            return cls((start,))
        return cls(tuple(round(start + (end - start) * done / (rounds - 1), 12) for done in range(rounds)))

    @property
    def rounds(self) -> int:
        """N."""
        return len(self.shares)

    def share(self, number: int) -> float:
        """Return α of round `number`, counted from 1."""
        return self.shares[number - 1]


def competence_share(start: float, end: float, competence: float) -> float:
    """Return the hard share for a student that solves a share `competence` of the corpus (not in the paper)."""
    return min(1.0, max(0.0, start + (end - start) * competence))


def target_distribution(
    rule: TargetRule,
    target: TaskDistribution,
    *,
    minimum: float,
    success: Mapping[str, float],
    competence: Mapping[str, float],
    counts: Mapping[str, int],
) -> TaskDistribution:
    """Return P(t) of a round.

    Args:
        rule: "fixed" is the target as it is (paper); "room" and "competence" move it towards tasks where the last
            evaluation or the last scoring left room; "pool" takes the tasks as the corpus has them.
        target: of the taxonomy.
        minimum: share that every task keeps.
        success: success rate of the last evaluation by task, 0 to 1.
        competence: share of each task that is not hard, 0 to 1.
        counts: instructions of each task in the pools.
    """
    match rule:
        case "room":
            return target.leaning({task: 1 - value for task, value in success.items()}, minimum)
        case "competence":
            return target.leaning({task: 1 - value for task, value in competence.items()}, minimum)
        case "pool":
            return TaskDistribution.of({label: float(counts.get(label, 0)) for label in target.labels})
        case _:
            return target
