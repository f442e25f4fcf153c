"""Studies for tests, and finished runs: the files that a study reads of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tapir.data.files import write_json
from tapir.data.run.rows import (
    AnswerRow,
    EstimateRow,
    EvaluationRow,
    ExpansionRow,
    JudgementRow,
    MixtureRow,
    RefinementRow,
)
from tapir.data.run.store import RunStore
from tapir.evaluation.statistics import summarise
from tapir.runs.study.grid import StudyConfig, StudyRun, runs_of

TASKS = ("gcd", "chain_sum")
BENCHMARKS = ("in-distribution", "harder")


def study(variants: Sequence[str] | Mapping[str, object] = ("tapir", "random"), **changed: object) -> StudyConfig:
    """Two variants and two seeds of the gym; the baseline is random."""
    content: dict[str, Any] = {
        "name": "made",
        "recipe": "gym",
        "seeds": [1, 2],
        "baseline": "random",
        "set": {"curriculum.rounds": 2, "curriculum.size": 10, "evaluation.unseen_per_task": 0},
        "variants": variants,
    }
    if not isinstance(variants, Mapping):
        content["variants"] = {name: {"about": f"the variant {name}"} for name in variants}
    return StudyConfig.model_validate(content | changed)


def run_of(grid: StudyConfig, variant: str, seed: int) -> StudyRun:
    """Return one of its runs."""
    return next(run for run in runs_of(grid) if (run.variant, run.seed) == (variant, seed))


def outcomes(right: Mapping[str, float], prompts: int = 10) -> list[EvaluationRow]:
    """Graded answers to every benchmark: for each task that share of its prompts is answered right."""
    return [
        EvaluationRow(benchmark, f"{task}-{number:02}", task, "?", "1", "1" if won else "0", float(won), won, None)
        for benchmark in BENCHMARKS
        for task in TASKS
        for number in range(prompts)
        for won in (number < round(right[task] * prompts),)
    ]


def finish_run(run: StudyRun, folder: Path, by_round: Sequence[Mapping[str, float]], examples: int = 10) -> RunStore:
    """Write the files of a finished run: success of S_0, S_1, ... by task, and what each round trained on.

    Every round trains on `examples` items; item 0 of a round is in every round.
    """
    store = RunStore(run.folder(folder))
    write_json(store.folder / "recipe.json", run.recipe.resolved())
    for number, right in enumerate(by_round):
        rows = outcomes(right)
        by_benchmark = {name: [(row.task, row.success) for row in rows if row.benchmark == name] for name in BENCHMARKS}
        metrics = [asdict(summarise(name, number, results)) for name, results in by_benchmark.items()]
        store.write(f"round-{number}/evaluation", EvaluationRow, rows)
        write_json(store.round(number) / "metrics.json", metrics)
        if number:
            names = ["always", *(f"{number}-{turn}" for turn in range(1, examples))]
            mixture = [MixtureRow(name, "?", "1", "gcd", "hard", "corpus", refined=False) for name in names]
            store.write(f"round-{number}/mixture", MixtureRow, mixture)
            write_json(store.round(number) / "training.json", {"examples": examples, "tokens": 1000 * number})
    return store


def add_role_tables(store: RunStore) -> None:
    """Write the tables that count calls: 6 answers, 12 judgements, 2 refinements, 3 expansions."""
    answers = [AnswerRow(str(number), "1", "stop", 1, None) for number in range(6)]
    store.write("round-0/answers", AnswerRow, answers)
    judged = [JudgementRow(str(number // 2), "alone", 1.0, 9.0, "", "judge", None, None) for number in range(12)]
    store.write("round-0/judgements", JudgementRow, judged)
    refined = [RefinementRow("a", "gcd", "1", "teacher", None), RefinementRow("b", "gcd", None, "teacher", "timeout")]
    store.write("round-1/refinements", RefinementRow, refined)
    written = [
        ExpansionRow(str(number), "?", "1", "teacher", "", (), "gcd", "gcd", reason, "")
        for number, reason in enumerate((None, "duplicate", None))
    ]
    store.write("round-2/expansions", ExpansionRow, written)


def add_estimates(store: RunStore, count: int) -> None:
    """Write so many estimates of difficulty."""
    rows = [EstimateRow(str(number), "pass-rate", 0.5, "2 of 4 samples pass", None) for number in range(count)]
    store.write("round-0/estimates", EstimateRow, rows)


def add_events(store: RunStore, *moments: tuple[float, str]) -> None:
    """Write events at these seconds."""
    lines = [json.dumps({"time": moment, "event": kind}) for moment, kind in moments]
    (store.folder / "events.jsonl").write_text("\n".join(lines) + "\n")
