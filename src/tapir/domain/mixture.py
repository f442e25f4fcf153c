"""Pools, draws and the round's mixture: exact counts, no repetition, every shortfall a value."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tapir.domain.apportion import Counts, apportion
from tapir.domain.difficulty import Split
from tapir.domain.instruction import Pair
from tapir.domain.randomness import priorities
from tapir.domain.task import TaskDistribution


@dataclass(frozen=True, slots=True)
class Pool:
    """Items to draw from.

    Attributes:
        tasks: shape (n,), for each item the index of its task in `labels`.
        last: ids that are drawn only where their task has no others left, such as what was trained on before.
    """

    ids: Sequence[str]
    tasks: NDArray[np.int64]
    labels: tuple[str, ...]
    last: Collection[str] = ()

    @classmethod
    def of(
        cls, ids: Sequence[str], task_of: Mapping[str, str], labels: tuple[str, ...], last: Collection[str] = ()
    ) -> Pool:
        """Return the pool of ids and the task of each; ids without a task are left out."""
        index = {label: position for position, label in enumerate(labels)}
        known = [name for name in ids if task_of.get(name) in index]
        return cls(known, np.fromiter((index[task_of[name]] for name in known), np.int64, len(known)), labels, last)

    @property
    def available(self) -> Counts:
        """Items by task, shape (k,)."""
        return np.bincount(self.tasks, minlength=len(self.labels)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Draw:
    """Items of a pool for a round, by task: what is wanted and what the pool gives."""

    wanted: Mapping[str, int]
    got: Mapping[str, int]

    @property
    def shortfall(self) -> dict[str, int]:
        """Missing items of every task that fell short."""
        return {task: count - self.got[task] for task, count in self.wanted.items() if count > self.got[task]}


@dataclass(frozen=True, slots=True)
class Mixture:
    """What one round trains on, before answers are attached."""

    hard: tuple[str, ...]
    easy: tuple[str, ...]

    @property
    def size(self) -> int:
        """Examples in the mixture."""
        return len(self.hard) + len(self.easy)


def hard_ids(split: Split, pairs: Mapping[str, Pair]) -> Iterator[str]:
    """Yield D_P: the hard seeds and every expansion that no later score calls easy, hopeless or unscored."""
    yield from split.hard
    scored = {*split.hard, *split.easy, *split.hopeless, *split.unscored}
    for name, pair in pairs.items():
        if pair.instruction.origin.kind == "expansion" and name not in scored:
            yield name


def easy_ids(split: Split) -> Iterator[str]:
    """Yield D without D_S, and without pairs whose answer the student beat."""
    return (name for name in split.easy if name not in split.withheld)


def hard_count(size: int, share: float) -> int:
    """Return round(α·n), halves up; α·n is taken to nine digits, so that 0.7 x 45 is 31.5."""
    return int(np.floor(round(share * size, 9) + 0.5))


def draw(pool: Pool, wanted: Sequence[int] | Counts, seed: int) -> tuple[str, ...]:
    """Draw the ids of `wanted[t]` items of every task t, or all there are, at random and without repetition.

    The same seed prefers the same items, whatever else is in the pool.
    """
    limit = np.minimum(np.asarray(wanted, np.int64), pool.available)
    late = np.fromiter((name in pool.last for name in pool.ids), np.bool_, len(pool.ids))
    order = np.lexsort((priorities(pool.ids, seed), late, pool.tasks)) if len(pool.ids) else np.empty(0, np.int64)
    starts = np.concatenate(([0], np.cumsum(pool.available)[:-1]))
    rank = np.arange(order.size) - starts[pool.tasks[order]]
    chosen = order[rank < limit[pool.tasks[order]]]
    return tuple(pool.ids[index] for index in chosen)


def hard_counts(hard: Counts, easy: Counts, size: int, share: float, target: TaskDistribution | None) -> Counts:
    """Return how many hard examples of each task a round needs, shape (k,).

    They number round(α·n) exactly; those of a task never exceed the task's own total by P(t). Where the easy pool
    cannot give a task its part, the hard examples go there first, so that the whole mixture comes as close to P(t) as
    α allows.

    Args:
        hard: shape (k,), items of the hard pool by task.
        easy: the same of the easy pool.
        size: n.
        share: α.
        target: P(t); None takes the tasks as the hard pool has them.
    """
    wanted = hard_count(size, share)
    if target is None:
        return apportion(hard, wanted)
    totals = apportion(list(target.shares.values()), size)
    pending = np.maximum(0, totals - easy)
    if pending.sum() > wanted:
        return apportion(pending, wanted, high=pending)
    return apportion(totals, wanted, low=pending, high=totals)


def mixture_counts(
    hard: Counts, easy: Counts, size: int, share: float, target: TaskDistribution | None
) -> tuple[Counts, Counts]:
    """Return how many hard and easy examples of each task a round trains on; the arguments are those of `hard_counts`.

    Task totals are those of P(t), in as much as the pools can fill, wherever the two hold enough of a task; what one
    task lacks goes to the others in proportion. The hard count is exact wherever the hard pool holds enough in all, if
    need be with items of another task. Without a target, a shortfall of the hard pool is not filled with easy examples.
    """
    hard_wanted = hard_count(size, share)
    easy_wanted = size - hard_wanted
    if target is None:
        return apportion(hard, hard_wanted, high=hard), apportion(easy, easy_wanted, high=easy)
    weights = np.array(list(target.shares.values()))
    reach = min(hard_wanted, int(hard @ (weights > 0))) + min(easy_wanted, int(easy @ (weights > 0)))
    totals = apportion(weights, reach, high=hard + easy)
    least, most = np.maximum(0, totals - easy).clip(max=hard), np.minimum(totals, hard)
    inside = apportion(totals, hard_wanted, low=least, high=most)
    surplus = int(inside.sum()) - hard_wanted
    if surplus < 0:
        inside = apportion(weights, hard_wanted, low=inside, high=hard)
    elif surplus > 0:
        inside = apportion(inside, hard_wanted, high=inside)
    outside = apportion(totals - np.minimum(inside, totals), easy_wanted, high=easy)
    if outside.sum() < easy_wanted:
        outside = apportion(weights, easy_wanted, low=outside, high=easy)
    return inside, outside


def resample(hard: Pool, easy: Pool, size: int, share: float, target: TaskDistribution | None) -> Draw:
    """Count what a round of `size` examples needs from the hard pool, by P(t) if there is a target, and what it has."""
    wanted = hard_counts(hard.available, easy.available, size, share, target)
    got = np.minimum(wanted, hard.available)
    return Draw(*(dict(zip(hard.labels, counts.tolist(), strict=True)) for counts in (wanted, got)))


def mix(hard: Pool, easy: Pool, size: int, share: float, target: TaskDistribution | None, seed: int) -> Mixture:
    """Compose a round: round(α·n) hard examples, the rest easy, nothing repeated; fewer where the pools have no more.

    Both parts are drawn by P(t); without a target, tasks have the shares they have in each pool.
    """
    inside, outside = mixture_counts(hard.available, easy.available, size, share, target)
    return Mixture(draw(hard, inside, seed), draw(easy, outside, seed))
