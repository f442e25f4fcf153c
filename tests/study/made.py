"""Studies written for a test, and finished runs made by hand: what a study reads of them, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tapir.evaluation.statistics import summarise
from tapir.store.files import write_json
from tapir.store.rows import (
    AnswerRow,
    EstimateRow,
    EvaluationRow,
    ExpansionRow,
    JudgementRow,
    MixtureRow,
    RefinementRow,
)
from tapir.store.run import RunStore
from tapir.study import Job, Study, jobs

TASKS = ("gcd", "chain_sum")
BENCHMARKS = ("in-distribution", "harder")


def study(variants: Sequence[str] | Mapping[str, object] = ("tapir", "random"), **changed: object) -> Study:
    """Two variants and two seeds of the gym; the baseline is random."""
    content: dict[str, Any] = {
        "name": "made",
        "recipe": "gym",
        "seeds": [1, 2],
        "baseline": "random",
        "set": {"curriculum.rounds": 2, "curriculum.size": 10, "evaluation.unseen_per_task": 0},
        "variants": variants
        if isinstance(variants, Mapping)
        else {name: {"about": f"the variant {name}"} for name in variants},
    }
    return Study.model_validate(content | changed)


def job_of(grid: Study, variant: str, seed: int) -> Job:
    """One of its runs."""
    return next(job for job in jobs(grid) if (job.variant, job.seed) == (variant, seed))


def outcomes(right: Mapping[str, float], prompts: int = 10) -> list[EvaluationRow]:
    """Graded answers to every benchmark: for each task that share of its prompts is answered right."""
    return [
        EvaluationRow(benchmark, f"{task}-{number:02}", task, "?", "1", "1" if won else "0", float(won), won, None)
        for benchmark in BENCHMARKS
        for task in TASKS
        for number in range(prompts)
        for won in (number < round(right[task] * prompts),)
    ]


def finish(job: Job, folder: Path, by_round: Sequence[Mapping[str, float]], examples: int = 10) -> RunStore:
    """Leave what a finished run leaves: success of S_0, S_1, ... by task, and what each round trained on.

    Every round trains on `examples` items; item 0 of a round is in every round.
    """
    store = RunStore(job.folder(folder))
    write_json(store.folder / "recipe.json", job.recipe.resolved())
    for number, right in enumerate(by_round):
        rows = outcomes(right)
        found = [
            summarise(name, number, [(row.task, row.success) for row in rows if row.benchmark == name])
            for name in BENCHMARKS
        ]
        store.write(f"round-{number}/evaluation", EvaluationRow, rows)
        write_json(store.round(number) / "metrics.json", [asdict(one) for one in found])
        if number:
            names = ["always", *(f"{number}-{turn}" for turn in range(1, examples))]
            mixture = [MixtureRow(name, "?", "1", "gcd", "hard", "corpus", refined=False) for name in names]
            store.write(f"round-{number}/mixture", MixtureRow, mixture)
            write_json(store.round(number) / "training.json", {"examples": examples, "tokens": 1000 * number})
    return store


def asked(store: RunStore) -> None:
    """Leave tables that say how often the roles were asked: 6 answers, 12 judgements, 2 refinements, 3 expansions."""
    answers = [AnswerRow(str(number), "1", "stop", 1, None) for number in range(6)]
    store.write("round-0/answers", AnswerRow, answers)
    judged = [
        JudgementRow(str(number), order, 1.0, 9.0, "", "judge", None, None)
        for number in range(6)
        for order in ("student-first", "reference-first")
    ]
    store.write("round-0/judgements", JudgementRow, judged)
    refined = [RefinementRow("a", "gcd", "1", "teacher", None), RefinementRow("b", "gcd", None, "teacher", "timeout")]
    store.write("round-1/refinements", RefinementRow, refined)
    written = [
        ExpansionRow(str(number), "?", "1", "teacher", "", (), "gcd", "gcd", reason, "")
        for number, reason in enumerate((None, "duplicate", None))
    ]
    store.write("round-2/expansions", ExpansionRow, written)


def estimates(store: RunStore, count: int) -> None:
    """Leave so many estimates of difficulty."""
    rows = [EstimateRow(str(number), "pass-rate", 0.5, "2 of 4 samples pass", None) for number in range(count)]
    store.write("round-0/estimates", EstimateRow, rows)


def events(store: RunStore, *moments: tuple[float, str]) -> None:
    """Leave events at these seconds."""
    lines = [json.dumps({"time": moment, "event": kind}) for moment, kind in moments]
    (store.folder / "events.jsonl").write_text("\n".join(lines) + "\n")
