"""Composition of every round: shares of tasks, pools, expansions and rewritten answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean

from tapir.data.run.reader import RunReader, difficulties
from tapir.domain.difficulty import Difficulty
from tapir.domain.judgement import Unscored
from tapir.domain.task import TaskDistribution, shares


@dataclass(frozen=True, slots=True)
class Rewrites:
    """Outcomes of the answers requested from the teacher as rewrites in a round.

    `failed` brought no usable text, `unchanged` the same one. With `refine_keep = "judge"` the others were `better`,
    `equal` or `worse` than the original to the judge, which keeps the original of the worse ones, or `unjudged`: it
    could not compare them.
    """

    failed: int = 0
    unchanged: int = 0
    better: int = 0
    equal: int = 0
    worse: int = 0
    unjudged: int = 0


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """Composition of one round: examples by task, and how they came about.

    Attributes:
        wanted: examples requested from the hard pool: α·n, rounded; all of them where there is one pool.
        new: examples that no earlier round trained on.
        hard_share: achieved α; None where there is one pool.
        distance: total variation distance of the achieved shares to P(t), 0 to 1.
        minimum: smallest share of any task with a target.
        difficulty: mean of the examples that have one, by the last scoring.
        hard_pool: D_P: hard seeds and expansions to choose from; or the one pool.
        expanded: expansions that were kept; `dropped` counts the others by reason.
    """

    number: int
    size: int
    wanted: int
    new: int
    left_out: int
    hard_share: float | None
    counts: Mapping[str, int]
    target: Mapping[str, float]
    distance: float
    minimum: float
    difficulty: float | None
    hard_pool: int
    easy_pool: int
    refined: int
    rewrites: Rewrites
    expanded: int
    dropped: Mapping[str, int]


@dataclass(slots=True)
class _Earlier:
    """State that the rounds leave to the next: last gaps, expansions kept, examples trained on."""

    gaps: dict[str, float | None] = field(default_factory=dict)
    expansions: set[str] = field(default_factory=set)
    trained: set[str] = field(default_factory=set)


def read_rounds(run: RunReader, *, one_pool: bool) -> list[RoundSummary]:
    """Summarise every round that has been composed; with `one_pool` there is no hard and no easy part."""
    earlier = _Earlier()
    pool = sum(1 for _ in run.references(before=1)) if one_pool else None
    return [_round(run, number, earlier, pool) for number in run.rounds("mixture")]


def _round(run: RunReader, number: int, earlier: _Earlier, pool: int | None) -> RoundSummary:
    """Summarise a round; `pool` is the size of the one pool, None where there are a hard and an easy one."""
    scored = list(run.difficulty(number))
    parts = Counter(row.part for row in scored)
    earlier.gaps |= {row.id: row.gap for row in scored}
    expansions = [(row.id, row.reason) for row in run.expansions(number)]
    earlier.expansions |= {name for name, reason in expansions if reason is None}
    new_pool = len(earlier.expansions - {row.id for row in scored})
    tasks, hard, refined, kept = Counter[str](), 0, 0, 0
    rewritten = {row.id: row.text is not None for row in run.refinements(number)}
    gaps: list[float] = []
    for row in run.mixture(number):
        tasks[row.task] += 1
        hard += row.pool == "hard"
        refined += row.refined
        kept += rewritten.get(row.id, False) and not row.refined
        if (gap := earlier.gaps.get(row.id)) is not None and math.isfinite(gap):
            gaps.append(gap)
    new = {row.id for row in run.learnt(number)} - earlier.trained
    earlier.trained |= new
    verdicts = Counter(preferences(run, number).values())
    draws = run.draws(number)
    counts = {row.task: 0 for row in draws} | tasks
    achieved, target = shares(counts), TaskDistribution({row.task: row.target_share for row in draws})
    return RoundSummary(
        number=number,
        size=tasks.total(),
        wanted=sum(row.wanted for row in draws),
        new=len(new),
        left_out=len(run.left_out(number)),
        hard_share=hard / max(1, tasks.total()) if pool is None else None,
        counts=counts,
        target=target.shares,
        distance=target.distance(achieved),
        minimum=min(achieved[task] for task, share in target.shares.items() if share > 0),
        difficulty=fmean(gaps) if gaps else None,
        hard_pool=(parts["hard"] if pool is None else pool) + new_pool,
        easy_pool=parts["easy"],
        refined=refined,
        rewrites=Rewrites(
            failed=len(rewritten) - sum(rewritten.values()),
            unchanged=kept - verdicts["worse"] - verdicts["unjudged"],
            **verdicts,
        ),
        expanded=sum(reason is None for _, reason in expansions),
        dropped=Counter(reason for _, reason in expansions if reason is not None),
    )


def preferences(run: RunReader, number: int) -> dict[str, str]:
    """Return what the judge found each rewritten answer of a round, by id: "better", "equal", "worse" or "unjudged"."""
    gaps = difficulties(run.judgements(number, "preferences"))  # the rewritten answer stands in the student's place
    return {name: _verdict(gap) for name, gap in gaps.items()}


def _verdict(gap: Difficulty | Unscored) -> str:
    if isinstance(gap, Unscored):
        return "unjudged"
    return "worse" if gap.gap > 0 else "equal" if gap.gap == 0 else "better"
