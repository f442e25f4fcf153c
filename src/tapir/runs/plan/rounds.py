"""Expected number of items in every round, by the counting that the run itself uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tapir.config.curriculum import CompetenceScheduleConfig, CurriculumConfig
from tapir.domain.apportion import Counts, apportion
from tapir.domain.mixture import hard_count, hard_counts, mixture_counts
from tapir.domain.task import TaskDistribution
from tapir.runs.plan.tokens import Bounds


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Shares that only a run finds out: hard instructions (1 where there is one pool), tasks, and usable new ones."""

    hard: float
    tasks: Mapping[str, float]
    kept: float


@dataclass(frozen=True, slots=True)
class Round:
    """Items of one round."""

    number: int
    known: Bounds  # instructions that may be trained on when it begins
    added: Bounds  # those of them that the round before added
    requests: Bounds  # calls for new instructions
    written: Bounds  # new instructions
    answered: Bounds  # new instructions that pass the checks and need an answer
    refined: Bounds  # examples that no earlier round refined
    trained: Bounds


@dataclass(slots=True)
class _Pool:
    """Items by task, and the expected number of them that earlier rounds trained on; both of shape (k,)."""

    items: Counts
    used: NDArray[np.float64]

    def train(self, drawn: Counts, *, avoid: bool) -> float:
        """Count a draw; return how many of its items no earlier round drew (with `avoid`, those are drawn first)."""
        left = self.items - self.used
        new = np.minimum(drawn, left) if avoid else drawn * left / np.maximum(self.items, 1)
        self.used += new
        return float(new.sum())


def expected_rounds(
    plan: CurriculumConfig, size: int, assumed: Assumptions, target: TaskDistribution, *, at_once: int
) -> Iterator[Round]:
    """Yield every round: what is expected, and the most that the recipe's limits allow.

    `size` is that of the corpus, `target` P(t) at the start, `at_once` the number of new instructions in one call.
    """
    weights = [assumed.tasks.get(label, 0.0) for label in target.labels]
    tasks = apportion(weights, size)
    seeds = apportion(tasks, round(assumed.hard * size), high=tasks)
    hard, easy = (_Pool(items, np.zeros(items.size)) for items in (seeds, tasks - seeds))
    schedule, balance, avoid = plan.alpha(), target if plan.target.shares != "pool" else None, plan.repeats == "last"
    known, added = Bounds.sure(size), Bounds()
    for number in range(1, schedule.rounds + 1):
        share = highest = schedule.share(number)
        n = plan.size_of(number)
        if plan.variant == "multi-round" and isinstance(plan.schedule, CompetenceScheduleConfig):
            highest = max(plan.schedule.start, plan.schedule.end)  # one that follows competence is planned as it starts
        most = hard_count(n, highest)
        fresh = np.floor(hard.items - hard.used).astype(np.int64) if avoid else hard.items
        need = hard_counts(fresh, easy.items, n, share, balance)
        pending = np.maximum(0, need - fresh) * (seeds > 0) * plan.expand
        new = float(pending.sum())
        requests, written = _requests(pending, plan.expand_attempts, assumed.kept, at_once)
        hard.items = hard.items + pending
        inside, outside = mixture_counts(hard.items, easy.items, n, share, balance)
        refined = hard.train(inside, avoid=avoid) + easy.train(outside, avoid=avoid)
        worst = most * plan.expand_attempts * plan.expand
        calls = min(most, most // at_once + len(target.labels)) * plan.expand_attempts * plan.expand
        yield Round(
            number=number,
            known=known,
            added=added,
            requests=Bounds(requests, calls),
            written=Bounds(written, worst),
            answered=Bounds(new, worst),
            refined=Bounds(refined, n) if plan.refine else Bounds(),
            trained=Bounds(float(inside.sum() + outside.sum()), n),
        )
        added = Bounds(new, most * plan.expand)
        known += added


def _requests(pending: Counts, attempts: int, kept: float, at_once: int) -> tuple[float, float]:
    """Return the calls and new instructions until nothing is pending or the attempts are used up."""
    left, calls, written = pending.astype(np.float64), 0.0, 0.0
    for _ in range(attempts):
        left[left < 0.5] = 0.0  # noqa: PLR2004 (less than half an instruction is none)
        calls += float(np.ceil(left / at_once).sum())
        written += float(left.sum())
        left *= 1 - kept
    return calls, written
