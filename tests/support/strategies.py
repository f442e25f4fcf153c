"""Random pools, distributions and rounds that the properties of the domain are checked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tapir.domain.apportion import Counts, apportion
from tapir.domain.instruction import instruction_id
from tapir.domain.mixture import Mixture, Pool, hard_count, mix
from tapir.domain.task import TaskDistribution

LABELS = ("Math", "Reasoning", "Code Debug", "Writing", "Law")

seeds = st.integers(0, 2**31 - 1)
alphas = st.integers(0, 100).map(lambda percent: percent / 100)
weights = st.floats(0.001, 1000) | st.integers(1, 1000).map(float)
weights_or_zero = weights | st.just(0.0)


@dataclass(frozen=True)
class Round:
    """What `mix` and `resample` are given."""

    hard: Pool
    easy: Pool
    size: int
    share: float
    target: TaskDistribution
    seed: int

    @property
    def hard_wanted(self) -> int:
        return hard_count(self.size, self.share)

    def mixed(self) -> Mixture:
        return mix(self.hard, self.easy, self.size, self.share, self.target, self.seed)


def pool_of(name: str, counts: Sequence[int] | Counts, labels: tuple[str, ...] = LABELS) -> Pool:
    """A pool with so many items of each task; the name keeps two pools disjoint."""
    task_of = {
        instruction_id(f"{name}: {label} {number}"): label
        for label, count in zip(labels, counts, strict=True)
        for number in range(count)
    }
    return Pool.of(sorted(task_of), task_of, labels)


def counts_by_label(lowest: int = 0, highest: int = 15) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(lowest, highest), min_size=len(LABELS), max_size=len(LABELS))


def pools(name: str = "item") -> st.SearchStrategy[Pool]:
    return counts_by_label().map(lambda counts: pool_of(name, counts))


@st.composite
def distributions(draw: st.DrawFn, *, zeros: bool = False) -> TaskDistribution:
    several = st.lists(weights_or_zero if zeros else weights, min_size=len(LABELS), max_size=len(LABELS))
    found = draw(several.filter(any))
    return TaskDistribution.of(dict(zip(LABELS, found, strict=True)))


@st.composite
def rounds(draw: st.DrawFn, *, zeros: bool = False) -> Round:
    """Any pools, any size: much may be missing."""
    return Round(
        hard=draw(pools("hard")),
        easy=draw(pools("easy")),
        size=draw(st.integers(0, 120)),
        share=draw(alphas),
        target=draw(distributions(zeros=zeros)),
        seed=draw(seeds),
    )


@st.composite
def rounds_with_enough_in_all(draw: st.DrawFn) -> Round:
    """Each pool holds enough items, but of the wrong tasks perhaps."""
    hard, easy, share = draw(pools("hard")), draw(pools("easy")), draw(alphas)
    sizes = [
        size
        for size in range(len(hard.ids) + len(easy.ids) + 1)
        if hard_count(size, share) <= len(hard.ids) and size - hard_count(size, share) <= len(easy.ids)
    ]
    return Round(hard, easy, draw(st.sampled_from(sizes)), share, draw(distributions()), draw(seeds))


def task_totals(target: TaskDistribution, size: int) -> Counts:
    """Examples of each task that P(t) asks for."""
    return apportion(list(target.shares.values()), size)


def exact_shares(target: TaskDistribution, size: int) -> NDArray[np.float64]:
    """The same before rounding to whole numbers."""
    shares = np.array(list(target.shares.values()), dtype=np.float64)
    exact: NDArray[np.float64] = size * shares / shares.sum()
    return exact


def hard_needs(target: TaskDistribution, size: int, share: float) -> Counts:
    """Hard examples of each task that a round asks for."""
    totals = task_totals(target, size)
    return apportion(totals, hard_count(size, share), high=totals)


@st.composite
def rounds_with_room_in_every_task(draw: st.DrawFn) -> Round:
    """Each pool alone could fill the round, task by task."""
    target, size = draw(distributions()), draw(st.integers(0, 50))
    enough = np.ceil(exact_shares(target, size)).astype(np.int64)
    return Round(
        hard=pool_of("hard", enough + draw(counts_by_label(highest=5))),
        easy=pool_of("easy", enough + draw(counts_by_label(highest=5))),
        size=size,
        share=draw(alphas),
        target=target,
        seed=draw(seeds),
    )


def round_with_just_enough(
    target: TaskDistribution, size: int, share: float, spare: Sequence[Sequence[int]], seed: int
) -> Round:
    """Each pool holds what the round asks of it, and by task so many items more."""
    needs = hard_needs(target, size, share)
    return Round(
        hard=pool_of("hard", needs + np.array(spare[0]), target.labels),
        easy=pool_of("easy", task_totals(target, size) - needs + np.array(spare[1]), target.labels),
        size=size,
        share=share,
        target=target,
        seed=seed,
    )


@st.composite
def rounds_with_just_enough_of_every_task(draw: st.DrawFn) -> Round:
    """Each pool holds what the round asks of it, and for some tasks not one item more (as after `expand`)."""
    several = st.lists(st.integers(1, 9), min_size=len(LABELS), max_size=len(LABELS))
    target = TaskDistribution.of(dict(zip(LABELS, draw(several), strict=True)))
    spare = st.lists(st.sampled_from((0, 10)), min_size=len(LABELS), max_size=len(LABELS))
    return round_with_just_enough(
        target, draw(st.integers(0, 30)), draw(alphas), (draw(spare), draw(spare)), draw(seeds)
    )
