"""What each round of a run was made of, counted from its tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from tapir.domain.judgement import Unscored
from tapir.domain.task import TaskDistribution, shares
from tapir.stages.judge import difficulties
from tapir.store.files import read_json
from tapir.store.rows import (
    CorpusRow,
    DifficultyRow,
    DrawRow,
    ExpansionRow,
    JudgementRow,
    MixtureRow,
    RefinementRow,
    ResponseRow,
)
from tapir.store.run import RunStore


@dataclass(frozen=True, slots=True)
class Rewrites:
    """What became of the answers the teacher was asked to rewrite in a round.

    Attributes:
        asked: answers to rewrite.
        failed: no usable text came back.
        refused: the judge preferred the original, which is trained on.
        unjudged: the judge could not compare the two; the original is trained on.
    """

    asked: int = 0
    failed: int = 0
    refused: int = 0
    unjudged: int = 0


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """What one round was made of.

    Attributes:
        new: examples that no earlier round trained on.
        too_long: examples left out of the training because they are longer than the recipe allows.
        wanted: examples that the hard pool was asked for: α·n, rounded; all of them where there is one pool.
        hard_share: achieved α; None where there is one pool.
        counts: examples by task.
        distance: total variation distance of the achieved shares to P(t), 0 to 1.
        minimum: smallest share of any task with a target.
        difficulty: mean difficulty (by the last scoring) of the examples that have one.
        hard_pool: D_P: hard seeds and expansions to choose from; or the one pool.
        refined: examples trained on with the rewritten answer.
        expanded: instructions the teacher wrote and that were kept.
        dropped: expansions dropped, by reason.
    """

    number: int
    size: int
    wanted: int
    new: int
    too_long: int
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
class _Known:
    """What earlier rounds leave to the next: last gaps, expansions kept, examples trained on.

    Attributes:
        one_pool: size of the corpus where difficulty was not measured and all of it may be drawn; else None.
    """

    one_pool: int | None = None
    gaps: dict[str, float | None] = field(default_factory=dict)
    expansions: set[str] = field(default_factory=set)
    trained: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Mixed:
    """A mixture in figures; its texts stay on disk."""

    tasks: Counter[str] = field(default_factory=Counter)
    gaps: list[float] = field(default_factory=list)
    hard: int = 0
    refined: int = 0
    new: int = 0


def read_rounds(store: RunStore, *, one_pool: bool) -> list[RoundSummary]:
    """Every round that has been composed, in order.

    Args:
        store: the run.
        one_pool: whether difficulty was not measured, so that there is no hard and no easy part.
    """
    found: list[RoundSummary] = []
    known = _Known(_answered(store) if one_pool else None)
    while store.has(f"round-{len(found) + 1}/mixture"):
        found.append(_round(store, len(found) + 1, known))
    return found


def _round(store: RunStore, number: int, known: _Known) -> RoundSummary:
    parts, judged = _split(store, number, known)
    expanded, dropped = _expanded(store, number, known)
    mixed = _mixed(store, number, known)
    draws = store.read(f"round-{number}/draws", DrawRow)
    counts = {row.task: 0 for row in draws} | mixed.tasks
    size, achieved = mixed.tasks.total(), shares(counts)
    target = TaskDistribution({row.task: row.target_share for row in draws})
    return RoundSummary(
        number=number,
        size=size,
        wanted=sum(row.wanted for row in draws),
        new=mixed.new,
        too_long=_too_long(store, number),
        hard_share=mixed.hard / max(1, size) if known.one_pool is None else None,
        counts=counts,
        target=target.shares,
        distance=target.distance(achieved),
        minimum=min(achieved[task] for task, share in target.shares.items() if share > 0),
        difficulty=fmean(mixed.gaps) if mixed.gaps else None,
        hard_pool=(parts["hard"] if known.one_pool is None else known.one_pool) + len(known.expansions - judged),
        easy_pool=parts["easy"],
        refined=mixed.refined,
        rewrites=_rewrites(store, number),
        expanded=expanded,
        dropped=dropped,
    )


def _split(store: RunStore, number: int, known: _Known) -> tuple[Counter[str], set[str]]:
    """Items by part of the split, and the ids that were scored for it."""
    parts: Counter[str] = Counter()
    judged: set[str] = set()
    if store.has(f"round-{number}/difficulty"):
        for row in store.each(f"round-{number}/difficulty", DifficultyRow):
            known.gaps[row.id] = row.gap
            parts[row.part] += 1
            judged.add(row.id)
    return parts, judged


def _answered(store: RunStore) -> int:
    """Instructions of the corpus that have an answer to train on."""
    size = sum(1 for _ in store.each("corpus", CorpusRow)) if store.has("corpus") else 0
    if not store.has("round-0/responses"):
        return size
    return size - sum(row.text is None for row in store.each("round-0/responses", ResponseRow))


def _expanded(store: RunStore, number: int, known: _Known) -> tuple[int, Counter[str]]:
    """Expansions kept, and those dropped by reason."""
    kept, dropped = 0, Counter[str]()
    if store.has(f"round-{number}/expansions"):
        for row in store.each(f"round-{number}/expansions", ExpansionRow):
            if row.reason is None:
                kept += 1
                known.expansions.add(row.id)
            else:
                dropped[row.reason] += 1
    return kept, dropped


def _mixed(store: RunStore, number: int, known: _Known) -> _Mixed:
    found = _Mixed()
    for row in store.each(f"round-{number}/mixture", MixtureRow):
        found.tasks[row.task] += 1
        found.hard += row.pool == "hard"
        found.refined += row.refined
        found.new += row.id not in known.trained
        known.trained.add(row.id)
        if (gap := known.gaps.get(row.id)) is not None and math.isfinite(gap):
            found.gaps.append(gap)
    return found


def _rewrites(store: RunStore, number: int) -> Rewrites:
    asked = failed = 0
    if store.has(f"round-{number}/refinements"):
        for row in store.each(f"round-{number}/refinements", RefinementRow):
            asked += 1
            failed += row.text is None
    verdicts = list(preferences(store, number).values())
    return Rewrites(asked, failed, verdicts.count("refused"), verdicts.count("unjudged"))


def preferences(store: RunStore, number: int) -> dict[str, str]:
    """What the judge made of each rewritten answer of a round: "preferred", "refused" or "unjudged", by id."""
    name = f"round-{number}/preferences"
    if not store.has(name):
        return {}
    found = difficulties(store.each(name, JudgementRow))  # the rewritten answer stands in the student's place
    return {
        key: "unjudged" if isinstance(gap, Unscored) else "refused" if gap.gap > 0 else "preferred"
        for key, gap in found.items()
    }


def _too_long(store: RunStore, number: int) -> int:
    path = store.round(number) / "training.json"
    left_out: Sequence[str] = read_json(path).get("too_long", ()) if path.exists() else ()
    return len(left_out)
