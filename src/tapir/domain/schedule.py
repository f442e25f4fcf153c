"""α by round: the share of hard examples (METHOD section 3 and 4.5)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """α_1, α_2, ...: one share per round, each in [0, 1], never changing direction."""

    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.shares:
            raise ValueError("a schedule needs at least one round")
        for share in self.shares:
            if not 0 <= share <= 1:
                raise ValueError(f"a hard share of {share} is outside 0 to 1")
        steps = [after - before for before, after in itertools.pairwise(self.shares)]
        if any(step > 0 for step in steps) and any(step < 0 for step in steps):
            raise ValueError(f"the hard share must rise or fall, not both: {list(self.shares)}")

    @classmethod
    def paper(cls, start: float, step: float, rounds: int) -> Schedule:
        """α_{r+1} = min(1, α_r + Δα)."""
        return cls(tuple(min(1.0, round(start + step * done, 12)) for done in range(rounds)))

    @classmethod
    def constant(cls, share: float, rounds: int) -> Schedule:
        """The same share in every round."""
        return cls((share,) * rounds)

    @classmethod
    def linear(cls, start: float, end: float, rounds: int) -> Schedule:
        """From `start` in the first round to `end` in the last."""
        if rounds == 1:
            return cls((start,))
        return cls(tuple(round(start + (end - start) * done / (rounds - 1), 12) for done in range(rounds)))

    @property
    def rounds(self) -> int:
        """N."""
        return len(self.shares)

    def share(self, number: int) -> float:
        """α of round `number`, counted from 1.

        Raises:
            IndexError: there is no such round.
        """
        if not 1 <= number <= self.rounds:
            raise IndexError(f"round {number} is not one of 1 to {self.rounds}")
        return self.shares[number - 1]


def following(start: float, end: float, competence: float) -> float:
    """Hard share of a student that can do a share `competence` of the corpus; beyond the paper."""
    return min(1.0, max(0.0, start + (end - start) * competence))
