"""What a run shows: read from its folder, the one source for the table, the page and the API."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tapir.domain.round import EvalResult, Evaluation
from tapir.domain.spending import Spending
from tapir.domain.task import shares
from tapir.report.checks import Check, checks
from tapir.report.estimators import Agreement, read_agreements
from tapir.report.histogram import Cut
from tapir.report.intake import Intake, read_intake
from tapir.report.judging import Alarm, alarms
from tapir.report.rounds import RoundSummary, read_rounds
from tapir.report.scale import Scale, read_scale
from tapir.report.tagger import TaggerSummary, read_tagger
from tapir.report.training import Training, read_trainings
from tapir.store.files import read_json
from tapir.store.rows import CorpusRow, DifficultyRow, EvaluationRow, TagRow
from tapir.store.run import RunStore


@dataclass(frozen=True, slots=True)
class Summary:
    """A run at a glance.

    Attributes:
        intake: the corpus: what passed, what was set aside, what nearly repeats.
        corpus_shares: share of each task in the corpus.
        scale: of the estimator that difficulty was measured with; None where nothing was measured.
        parts: corpus items by part of the first split; empty where nothing was measured.
        gaps: difficulty of the scored corpus items, first scoring.
        cut: what parts them.
        agreements: rank correlations between the estimators measured on the corpus.
        tagger: how good it is; None where it had nothing to learn, or has not learnt yet.
        evaluations: every benchmark after every round; round 0 is S_0.
        ungraded: held-out answers that could not be judged and do not count, by benchmark and round.
        alarms: what tells whether the judge can be trusted.
        spending: what calls to models took, by round, stage and task; empty where none was called.
        trainings: every finished training; round 0 is the warm-up.
        seconds: working time over all sessions of the run.
    """

    recipe: Mapping[str, Any]
    manifest: Mapping[str, Any]
    finished: bool
    intake: Intake
    corpus_shares: Mapping[str, float]
    scale: Scale | None
    parts: Mapping[str, int]
    gaps: Sequence[float]
    cut: Cut
    tagger: TaggerSummary | None
    rounds: Sequence[RoundSummary]
    evaluations: Sequence[Evaluation]
    checks: Sequence[Check]
    seconds: float
    ungraded: Mapping[tuple[str, int], int] = field(default_factory=dict)
    alarms: Sequence[Alarm] = ()
    spending: Sequence[Spending] = ()
    trainings: Sequence[Training] = ()
    agreements: Sequence[Agreement] = ()

    def benchmark(self, name: str) -> list[Evaluation]:
        """One benchmark over the rounds."""
        return [one for one in self.evaluations if one.benchmark == name]

    @property
    def benchmarks(self) -> list[str]:
        """Names, in the recipe's order."""
        return list(dict.fromkeys(one.benchmark for one in self.evaluations))

    @property
    def examples(self) -> int:
        """Distinct examples over the mixtures of all rounds."""
        return sum(one.new for one in self.rounds)


def summarise(store: RunStore) -> Summary:
    """Read everything that is finished in a run directory."""
    recipe, manifest = read_json(store.folder / "recipe.json"), read_json(store.folder / "manifest.json")
    intake = read_intake(store)
    scale = read_scale(store, recipe)
    first = store.read("round-1/difficulty", DifficultyRow) if store.has("round-1/difficulty") else []
    gaps = {row.id: row.gap for row in first if row.gap is not None and math.isfinite(row.gap)}
    rounds, evaluations = read_rounds(store, one_pool=scale is None), _evaluations(store)
    trainings = read_trainings(store, recipe)
    wanted_rounds = _wanted_rounds(recipe)
    corpus_shares = shares(_tasks(store))
    ungraded, graded = _grades(store)
    return Summary(
        recipe=recipe,
        manifest=manifest,
        finished=any(one.round == wanted_rounds for one in evaluations),
        intake=intake,
        corpus_shares=corpus_shares,
        scale=scale,
        parts=Counter(row.part for row in first),
        gaps=list(gaps.values()),
        cut=_cut(recipe, first),
        tagger=read_tagger(store),
        rounds=rounds,
        evaluations=evaluations,
        checks=checks(recipe, rounds, evaluations, corpus_shares, trainings, scale),
        seconds=working_time(store.folder),
        ungraded=ungraded,
        alarms=alarms(store, recipe, ungraded.total(), graded),
        spending=_spending(store.folder),
        trainings=trainings,
        agreements=read_agreements(store, recipe, scale, gaps),
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


def tasks_of(evaluations: Sequence[Evaluation]) -> list[str]:
    """Every task that any of the evaluations has a result for; one may lack a task whose answers were not graded."""
    return sorted({task for one in evaluations for task in one.tasks})


def _wanted_rounds(recipe: Mapping[str, Any]) -> int:
    plan = recipe["curriculum"]
    return 1 if plan["variant"] == "single-round" else int(plan["rounds"])


def _cut(recipe: Mapping[str, Any], rows: Sequence[DifficultyRow]) -> Cut:
    """δ itself, or the largest gap that was not hard where a quantile or budget decided; and what is hopeless."""
    threshold = recipe["curriculum"].get("threshold")
    if threshold is None:
        return Cut(0.0)  # nothing is measured, so nothing is parted
    most = float(threshold.get("most", 0.0)) or math.inf  # the first version knew no limit
    if threshold["rule"] == "delta":
        return Cut(float(threshold["value"]), most)
    below = [row.gap for row in rows if row.part in {"easy", "withheld"} and row.gap is not None]
    return Cut(max(0.0, *below) if below else 0.0, most)


def _tasks(store: RunStore) -> Counter[str]:
    """Instructions of the corpus by task; held-out ones are tagged beside them and do not count."""
    if not store.has("round-0/tags"):
        return Counter()
    corpus = {row.id for row in store.each("corpus", CorpusRow)}
    tags = store.each("round-0/tags", TagRow)
    return Counter(row.task for row in tags if row.task is not None and row.id in corpus)


def _evaluations(store: RunStore) -> list[Evaluation]:
    found = []
    number = 0
    while (path := store.round(number) / "metrics.json").exists():
        for one in read_json(path):
            tasks = {task: EvalResult(**result) for task, result in one["tasks"].items()}
            found.append(Evaluation(one["benchmark"], one["round"], EvalResult(**one["overall"]), tasks))
        number += 1
    return found


def _grades(store: RunStore) -> tuple[Counter[tuple[str, int]], int]:
    """Answers that could not be graded, by benchmark and round; and how many could."""
    without, graded = Counter[tuple[str, int]](), 0
    number = 0
    while store.has(f"round-{number}/evaluation"):
        for row in store.each(f"round-{number}/evaluation", EvaluationRow):
            if row.score is None:
                without[row.benchmark, number] += 1
            else:
                graded += 1
        number += 1
    return without, graded


def _spending(folder: Path) -> list[Spending]:
    path = folder / "spending.json"
    return [Spending(**one) for one in read_json(path)] if path.exists() else []
