"""Task types and the target distribution over them (METHOD section 6)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

from tapir.domain.apportion import apportion

_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class TaskTag:
    """t(x): one label of the taxonomy, and how sure the tagger is (0 to 1)."""

    task: str
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class TaskDistribution:
    """P(t): a share for every label; the shares sum to 1."""

    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        total = sum(self.shares.values())
        if not self.shares or any(not share >= 0 for share in self.shares.values()):
            raise ValueError(f"shares must be non-negative, got {dict(self.shares)}")
        if abs(total - 1) > _SUM_TOLERANCE:
            raise ValueError(f"shares sum to {total:.6f}, not to 1")

    @classmethod
    def of(cls, weights: Mapping[str, float]) -> TaskDistribution:
        """Return the distribution in proportion to `weights`."""
        total = sum(weights.values())
        if not total > 0:
            raise ValueError("a distribution needs at least one positive weight")
        return cls({label: weight / total for label, weight in weights.items()})

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label, in the taxonomy's order."""
        return tuple(self.shares)

    def counts(self, total: int) -> dict[str, int]:
        """Return whole numbers in proportion to the shares; their sum is exactly `total`."""
        return dict(zip(self.shares, apportion(list(self.shares.values()), total).tolist(), strict=True))

    def distance(self, other: Mapping[str, float]) -> float:
        """Return the total variation distance to other shares: 0 (equal) to 1 (disjoint)."""
        labels = {*self.shares, *other}
        return 0.5 * sum(abs(self.shares.get(label, 0.0) - other.get(label, 0.0)) for label in labels)

    def leaning(self, room: Mapping[str, float], minimum: float) -> TaskDistribution:
        """Return these shares, moved towards tasks with room to grow.

        Args:
            room: for each label how much the student can still gain, 0 to 1; an unknown task has 1.
            minimum: share that every label with a target keeps, at most 1 / number of labels.
        """
        weights = {label: share * room.get(label, 1.0) for label, share in self.shares.items()}
        active = {label for label, share in self.shares.items() if share > 0}
        if not sum(weights.values()) > 0:
            weights = dict(self.shares)
        rest, total = 1 - minimum * len(active), sum(weights.values())
        return TaskDistribution(
            {label: (minimum if label in active else 0.0) + rest * weight / total for label, weight in weights.items()}
        )


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """A closed, versioned set of task labels with its target distribution."""

    name: str
    version: str
    target: TaskDistribution

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label, in published order."""
        return self.target.labels

    @classmethod
    def from_toml(cls, text: str) -> Taxonomy:
        """Read `name`, `version` and a `[shares]` table (label = share)."""
        try:
            content = tomllib.loads(text)
            return cls(content["name"], str(content["version"]), TaskDistribution(content["shares"]))
        except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a taxonomy: {error!r}") from error


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Return counts as shares; empty counts give all zeros."""
    total = float(sum(counts.values())) or 1.0
    return {label: count / total for label, count in counts.items()}
