"""Pools, draws and the round's mixture: exact counts, no repeats, every shortfall a value."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tapir.domain.apportion import Counts, apportion, as_mapping
from tapir.domain.randomness import priorities
from tapir.domain.task import TaskDistribution, shares


@dataclass(frozen=True, slots=True)
class Pool:
    """Items to draw from.

    Attributes:
        ids: n distinct instruction ids.
        tasks: shape (n,), for each item the index of its task in `labels`.
        labels: k task labels.
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
        """A pool from ids and the task of each; ids without a task are left out."""
        index = {label: place for place, label in enumerate(labels)}
        known = [name for name in ids if task_of.get(name) in index]
        return cls(known, np.fromiter((index[task_of[name]] for name in known), np.int64, len(known)), labels, last)

    @property
    def available(self) -> Counts:
        """Items by task, shape (k,)."""
        return np.bincount(self.tasks, minlength=len(self.labels)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Draw:
    """Ids drawn without repetition, by task: what was wanted and what the pool gave."""

    ids: tuple[str, ...]
    wanted: Mapping[str, int]
    got: Mapping[str, int]

    @property
    def shortfall(self) -> dict[str, int]:
        """For every task that fell short, how many are missing."""
        return {task: count - self.got[task] for task, count in self.wanted.items() if count > self.got[task]}


@dataclass(frozen=True, slots=True)
class Mixture:
    """What one round trains on, before answers are attached.

    Attributes:
        hard: ids from the hard pool.
        easy: ids from the easy pool.
        wanted_hard: round(α·n).
        wanted_easy: n minus that.
        counts: examples by task.
        target: examples by task that P(t) asks for.
    """

    hard: tuple[str, ...]
    easy: tuple[str, ...]
    wanted_hard: int
    wanted_easy: int
    counts: Mapping[str, int]
    target: Mapping[str, int]

    @property
    def size(self) -> int:
        """Examples in the mixture."""
        return len(self.hard) + len(self.easy)

    @property
    def hard_share(self) -> float:
        """Achieved α."""
        return len(self.hard) / self.size if self.size else 0.0

    @property
    def shortfall(self) -> int:
        """Examples that the pools could not give."""
        return self.wanted_hard + self.wanted_easy - self.size

    @property
    def shares(self) -> dict[str, float]:
        """Achieved share of each task."""
        return shares(self.counts)


def hard_count(size: int, share: float) -> int:
    """round(α·n), halves up; α·n is taken to nine digits, so that 0.7 x 45 is 31.5."""
    return int(np.floor(round(share * size, 9) + 0.5))


def draw(pool: Pool, wanted: Sequence[int] | Counts, seed: int) -> Draw:
    """Draw `wanted[t]` items of every task t, or all there are, at random and without repetition.

    Args:
        pool: where to draw from.
        wanted: shape (k,), by task.
        seed: from `seed_for`; the same seed prefers the same items, whatever else is in the pool.
    """
    limit = np.minimum(np.asarray(wanted, np.int64), pool.available)
    late = np.fromiter((name in pool.last for name in pool.ids), np.bool_, len(pool.ids))
    order = np.lexsort((priorities(pool.ids, seed), late, pool.tasks)) if len(pool.ids) else np.empty(0, np.int64)
    starts = np.concatenate(([0], np.cumsum(pool.available)[:-1]))
    rank = np.arange(order.size) - starts[pool.tasks[order]]
    chosen = order[rank < limit[pool.tasks[order]]]
    return Draw(
        ids=tuple(pool.ids[place] for place in chosen),
        wanted=as_mapping(pool.labels, np.asarray(wanted, np.int64)),
        got=as_mapping(pool.labels, limit),
    )


def resample(hard: Pool, easy: Pool, size: int, share: float, target: TaskDistribution, seed: int) -> Draw:
    """What a round of `size` examples needs from the hard pool, by P(t), and what the pool lacks.

    The hard examples number round(α·n) exactly; those of a task never exceed the task's own total. Where
    the easy pool cannot give a task its part, the hard examples go there first, so that the whole mixture
    comes as close to P(t) as α allows.
    """
    totals = apportion(list(target.shares.values()), size)
    wanted = hard_count(size, share)
    owed = np.maximum(0, totals - easy.available)
    if owed.sum() > wanted:
        return draw(hard, apportion(owed, wanted, high=owed), seed)
    return draw(hard, apportion(totals, wanted, low=owed, high=totals), seed)


def mix(hard: Pool, easy: Pool, size: int, share: float, target: TaskDistribution, seed: int) -> Mixture:
    """Compose a round: round(α·n) hard examples, the rest easy, both by P(t).

    Task totals are those of P(t) wherever the two pools together hold enough of a task; what one
    task lacks goes to the others in proportion. The hard count is exact wherever the hard pool holds
    enough in all; to keep it, hard items of another task may stand in. Nothing is repeated, and what is
    missing after that stays missing.
    """
    weights = list(target.shares.values())
    hard_wanted = hard_count(size, share)
    in_hard, in_easy = hard.available, easy.available
    totals = apportion(weights, size, high=in_hard + in_easy)
    ideal = apportion(weights, size)
    inside = apportion(
        totals, hard_wanted, low=np.maximum(0, totals - in_easy).clip(max=in_hard), high=np.minimum(totals, in_hard)
    )
    surplus = int(inside.sum()) - hard_wanted
    if surplus < 0:
        inside = apportion(weights, hard_wanted, low=inside, high=in_hard)
    elif surplus > 0:
        inside = apportion(inside, hard_wanted, high=inside)
    easy_wanted = size - hard_wanted
    outside = apportion(totals - np.minimum(inside, totals), easy_wanted, high=in_easy)
    if outside.sum() < easy_wanted:
        outside = apportion(weights, easy_wanted, low=outside, high=in_easy)
    from_hard, from_easy = draw(hard, inside, seed), draw(easy, outside, seed)
    return Mixture(
        hard=from_hard.ids,
        easy=from_easy.ids,
        wanted_hard=hard_wanted,
        wanted_easy=easy_wanted,
        counts=as_mapping(hard.labels, inside + outside),
        target=as_mapping(hard.labels, ideal),
    )


def resample_as_found(hard: Pool, easy: Pool, size: int, share: float, seed: int) -> Draw:
    """As `resample`, without a target: tasks have the shares they have in the hard pool."""
    del easy  # what it lacks is given to no task
    return draw(hard, apportion(hard.available, hard_count(size, share)), seed)


def mix_as_found(hard: Pool, easy: Pool, size: int, share: float, seed: int) -> Mixture:
    """As `mix`, without a target: from each pool a sample in which tasks have the shares they have in the pool.

    What one pool cannot give stays missing: a shortfall of the hard pool is not filled with easy examples.
    """
    hard_wanted = hard_count(size, share)
    inside = apportion(hard.available, hard_wanted, high=hard.available)
    outside = apportion(easy.available, size - hard_wanted, high=easy.available)
    counts = as_mapping(hard.labels, inside + outside)
    return Mixture(
        hard=draw(hard, inside, seed).ids,
        easy=draw(easy, outside, seed).ids,
        wanted_hard=hard_wanted,
        wanted_easy=size - hard_wanted,
        counts=counts,
        target=counts,
    )
