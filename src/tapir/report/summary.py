"""What a run shows: read from its folder, the one source for the table, the page and the API."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tapir.domain.round import EvalResult, Evaluation
from tapir.domain.task import TaskDistribution, shares
from tapir.store.files import read_json
from tapir.store.rows import CorpusRow, DifficultyRow, DrawRow, DropRow, ExpansionRow, MixtureRow, TagRow
from tapir.store.run import RunStore


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """What one round was made of.

    Attributes:
        hard_share: achieved α.
        counts: examples by task.
        distance: total variation distance of the achieved shares to P(t), 0 to 1.
        minimum: smallest share of any task with a target.
        difficulty: mean MFD (by the last scoring) of the examples that have one.
        hard_pool: D_P: hard seeds and expansions to choose from.
        expanded: instructions the teacher wrote and that were kept.
        dropped: expansions dropped, by reason.
    """

    number: int
    size: int
    wanted: int
    hard_share: float
    counts: Mapping[str, int]
    target: Mapping[str, float]
    distance: float
    minimum: float
    difficulty: float | None
    hard_pool: int
    easy_pool: int
    refined: int
    expanded: int
    dropped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Check:
    """One of the paper's quick checks: a claim, whether it holds here, and the figures."""

    claim: str
    holds: bool
    figures: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A run at a glance.

    Attributes:
        evaluations: every benchmark after every round; round 0 is S_0.
        corpus_shares: share of each task in the corpus.
        gaps: MFD of the scored corpus items, first scoring.
        seconds: working time over all sessions of the run.
    """

    recipe: Mapping[str, Any]
    manifest: Mapping[str, Any]
    finished: bool
    corpus: int
    corpus_shares: Mapping[str, float]
    corpus_drops: Mapping[str, int]
    parts: Mapping[str, int]
    gaps: Sequence[float]
    delta: float
    tagger: Mapping[str, Any]
    rounds: Sequence[RoundSummary]
    evaluations: Sequence[Evaluation]
    checks: Sequence[Check]
    seconds: float

    def benchmark(self, name: str) -> list[Evaluation]:
        """One benchmark over the rounds."""
        return [one for one in self.evaluations if one.benchmark == name]

    @property
    def benchmarks(self) -> list[str]:
        """Names, in the recipe's order."""
        return list(dict.fromkeys(one.benchmark for one in self.evaluations))


def summarise(store: RunStore) -> Summary:
    """Read everything that is finished in a run directory."""
    recipe, manifest = read_json(store.folder / "recipe.json"), read_json(store.folder / "manifest.json")
    corpus = store.read("corpus", CorpusRow) if store.has("corpus") else []
    drops = store.read("drops", DropRow) if store.has("drops") else []
    tags = {row.id: row.task for row in store.read("round-0/tags", TagRow)} if store.has("round-0/tags") else {}
    first = store.read("round-1/difficulty", DifficultyRow) if store.has("round-1/difficulty") else []
    gaps = [row.gap for row in first if row.gap is not None]
    rounds = _rounds(store)
    evaluations = _evaluations(store)
    tagger = store.folder / "round-0" / "tagger.json"
    wanted_rounds = _wanted_rounds(recipe)
    corpus_shares = shares(Counter(task for task in tags.values() if task is not None))
    return Summary(
        recipe=recipe,
        manifest=manifest,
        finished=any(one.round == wanted_rounds for one in evaluations),
        corpus=len(corpus),
        corpus_shares=corpus_shares,
        corpus_drops=Counter(row.reason for row in drops),
        parts=Counter(row.part for row in first),
        gaps=gaps,
        delta=_delta(recipe, first),
        tagger=read_json(tagger) if tagger.exists() else {},
        rounds=rounds,
        evaluations=evaluations,
        checks=_checks(rounds, evaluations, corpus_shares),
        seconds=working_time(store.folder),
    )


def working_time(folder: Path) -> float:
    """Seconds of work over all sessions; time between sessions does not count."""
    import json

    total, started, last = 0.0, None, 0.0
    path = folder / "events.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    for line in lines:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if event["event"] == "session" and started is not None:
            total += last - started
            started = None
        if started is None:
            started = event["time"]
        last = event["time"]
    return total + (last - started if started is not None else 0.0)


def _wanted_rounds(recipe: Mapping[str, Any]) -> int:
    plan = recipe["curriculum"]
    return 1 if plan["variant"] == "single-round" else int(plan["rounds"])


def _delta(recipe: Mapping[str, Any], rows: Sequence[DifficultyRow]) -> float:
    """δ itself, or the largest gap that was not hard where a quantile or budget decided."""
    threshold = recipe["curriculum"]["threshold"]
    if threshold["rule"] == "delta":
        return float(threshold["value"])
    return max((row.gap for row in rows if row.part != "hard" and row.gap is not None), default=0.0)


def _rounds(store: RunStore) -> list[RoundSummary]:
    found: list[RoundSummary] = []
    gaps: dict[str, float | None] = {}
    expansions: set[str] = set()
    number = 1
    while store.has(f"round-{number}/mixture"):
        part: Counter[str] = Counter()
        judged: set[str] = set()
        if store.has(f"round-{number}/difficulty"):
            rows = store.read(f"round-{number}/difficulty", DifficultyRow)
            gaps |= {row.id: row.gap for row in rows}
            part = Counter(row.part for row in rows)
            judged = {row.id for row in rows}
        written: list[ExpansionRow] = []
        if store.has(f"round-{number}/expansions"):
            written = store.read(f"round-{number}/expansions", ExpansionRow)
        expansions |= {row.id for row in written if row.reason is None}
        mixture = store.read(f"round-{number}/mixture", MixtureRow)
        draws = store.read(f"round-{number}/draws", DrawRow)
        found.append(
            _round(number, mixture, draws, written, part["hard"] + len(expansions - judged), part["easy"], gaps)
        )
        number += 1
    return found


def _round(
    number: int,
    mixture: Sequence[MixtureRow],
    draws: Sequence[DrawRow],
    written: Sequence[ExpansionRow],
    hard_pool: int,
    easy_pool: int,
    gaps: Mapping[str, float | None],
) -> RoundSummary:
    counts = {row.task: 0 for row in draws} | Counter(row.task for row in mixture)
    target = TaskDistribution({row.task: row.target_share for row in draws})
    known = [gap for row in mixture if (gap := gaps.get(row.id)) is not None]
    achieved = shares(counts)
    return RoundSummary(
        number=number,
        size=len(mixture),
        wanted=sum(row.wanted for row in draws),
        hard_share=sum(row.pool == "hard" for row in mixture) / max(1, len(mixture)),
        counts=counts,
        target=target.shares,
        distance=target.distance(achieved),
        minimum=min(achieved[task] for task, share in target.shares.items() if share > 0),
        difficulty=fmean(known) if known else None,
        hard_pool=hard_pool,
        easy_pool=easy_pool,
        refined=sum(row.refined for row in mixture),
        expanded=sum(row.reason is None for row in written),
        dropped=Counter(row.reason for row in written if row.reason is not None),
    )


def _evaluations(store: RunStore) -> list[Evaluation]:
    found = []
    number = 0
    while (path := store.round(number) / "metrics.json").exists():
        for one in read_json(path):
            tasks = {task: EvalResult(**result) for task, result in one["tasks"].items()}
            found.append(Evaluation(one["benchmark"], one["round"], EvalResult(**one["overall"]), tasks))
        number += 1
    return found


def _checks(
    rounds: Sequence[RoundSummary], evaluations: Sequence[Evaluation], corpus_shares: Mapping[str, float]
) -> list[Check]:
    """The paper's quick checks, as far as the run has come."""
    checks = []
    if len(rounds) > 1:
        hard = [one.hard_share for one in rounds]
        checks.append(Check("The share of hard examples rises round by round", _rises(hard), _percent(hard)))
        gaps = [one.difficulty for one in rounds if one.difficulty is not None]
        figures = " -> ".join(f"{gap:.2f}" for gap in gaps) or "nothing was scored"
        holds = len(gaps) == len(rounds) and _rises(gaps)
        checks.append(Check("The mean difficulty (MFD) of the examples rises round by round", holds, figures))
    if rounds:
        low = [one.minimum for one in rounds]
        claim = "Every task keeps a share in every round (smallest share)"
        checks.append(Check(claim, min(low) > 0, _percent(low)))
        before = TaskDistribution(rounds[0].target).distance(corpus_shares)
        distance = [one.distance for one in rounds]
        claim = "Every round is closer to the target than the corpus (total variation distance)"
        checks.append(Check(claim, max(distance) < before, _percent([before, *distance])))
    first = [one for one in evaluations if evaluations and one.benchmark == evaluations[0].benchmark]
    if len(first) > 1:
        means = [one.overall.value for one in first]
        gains = ", ".join(f"{100 * (after - before):+.1f}" for before, after in itertools.pairwise(means))
        checks.append(Check("Every round gains success (percentage points)", _rises(means), gains))
    return checks


def _rises(values: Sequence[float]) -> bool:
    return all(after > before for before, after in itertools.pairwise(values))


def _percent(values: Sequence[float]) -> str:
    return " -> ".join(f"{100 * value:.1f} %" for value in values)
