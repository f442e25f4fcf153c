"""What the calls to models took, and what that is for each thing gained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tapir.domain.spending import Spending
from tapir.report.summary import Summary

EXPAND = "expand"

KeyT = TypeVar("KeyT")


@dataclass(frozen=True, slots=True)
class Amount:
    """Calls, tokens and money; `cached_tokens` are part of `prompt_tokens`."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    @classmethod
    def of(cls, entries: Iterable[Spending]) -> Amount:
        """The sum of some entries."""
        found = list(entries)
        return cls(
            sum(one.calls for one in found),
            sum(one.prompt_tokens for one in found),
            sum(one.cached_tokens for one in found),
            sum(one.completion_tokens for one in found),
            sum(one.cost for one in found),
        )

    @property
    def tokens(self) -> int:
        """Read and written."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Rate:
    """What one unit took.

    Attributes:
        what: the unit.
        of: what was shared out among the units: everything, or one stage.
        units: how many there are, more than 0.
    """

    what: str
    of: str
    units: float
    amount: Amount

    @property
    def cost(self) -> float:
        """Money for one unit."""
        return self.amount.cost / self.units

    @property
    def calls(self) -> float:
        """Calls for one unit."""
        return self.amount.calls / self.units


@dataclass(frozen=True, slots=True)
class Costs:
    """What a run took.

    Attributes:
        priced: whether any price is set; without one there is no money to show.
        stages: by round and stage, within a round the dearest first.
        tasks: by task, the dearest first; what belongs to no task comes last under the name "".
        rates: for each thing gained.
    """

    priced: bool
    total: Amount
    stages: Sequence[tuple[int, str, Amount]]
    tasks: Sequence[tuple[str, Amount]]
    rates: Sequence[Rate]


def costs(summary: Summary) -> Costs | None:
    """The run's costs, or None where no model was called."""
    total = Amount.of(summary.spending)
    if not total.calls:
        return None
    stages = [(number, stage, amount) for (number, stage), amount in _by(summary, lambda one: (one.round, one.stage))]
    return Costs(
        priced=total.cost > 0,
        total=total,
        stages=sorted(stages, key=lambda row: (row[0], *_dearest(row[2]), row[1])),
        tasks=sorted(_by(summary, lambda one: one.task), key=lambda row: (not row[0], *_dearest(row[1]), row[0])),
        rates=list(_rates(summary, total)),
    )


def _by(summary: Summary, key: Callable[[Spending], KeyT]) -> list[tuple[KeyT, Amount]]:
    groups: dict[KeyT, list[Spending]] = {}
    for one in summary.spending:
        groups.setdefault(key(one), []).append(one)
    return [(name, Amount.of(several)) for name, several in groups.items()]


def _dearest(amount: Amount) -> tuple[float, int]:
    return -amount.cost, -amount.tokens


def _rates(summary: Summary, total: Amount) -> Iterable[Rate]:
    if summary.examples:
        yield Rate("kept training example", "all calls", summary.examples, total)
    kept = sum(one.expanded for one in summary.rounds)
    if kept:
        spent = Amount.of(one for one in summary.spending if one.stage == EXPAND)
        yield Rate("kept expansion", "calls of the stage expand", kept, spent)
    if summary.evaluations:
        first = summary.benchmark(summary.benchmarks[0])
        points = 100 * (first[-1].overall.value - first[0].overall.value)
        if points > 0:
            yield Rate(f"point gained on {first[0].benchmark}", "all calls", points, total)
