"""What a study found: every variant over its seeds, and against the baseline on the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from pathlib import Path
from statistics import fmean

from tapir.domain.round import EvalResult
from tapir.evaluation.paired import SeedResult, over_seeds
from tapir.evaluation.resampling import holm, mean_over_seeds
from tapir.store.files import read_json
from tapir.store.rows import EvaluationRow
from tapir.store.run import RunStore
from tapir.study.efficiency import Curve, Efficiency, efficiency
from tapir.study.effort import Effort, effort
from tapir.study.grid import UNTUNED, Job, Study
from tapir.study.runs import finished


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished run of a study.

    Attributes:
        curve: training examples so far and success on the deciding benchmark, for S_0, S_1, ... S_N.
        success: of the last student, by benchmark.
        rows: its graded answers, of every benchmark.
        first: the same of S_0.
    """

    seed: int
    curve: Curve
    success: Mapping[str, float]
    untuned: Mapping[str, float]
    rows: Sequence[EvaluationRow]
    first: Sequence[EvaluationRow]
    effort: Effort


@dataclass(frozen=True, slots=True)
class VariantResult:
    """A variant over its seeds.

    Attributes:
        success: mean over the seeds by benchmark, with the t interval over them.
        curve: examples and success after every round, means over the seeds.
        effort: means over the seeds.
        against: its difference to the baseline by benchmark, on the seeds both have; empty for the baseline itself.
        p_holm: of the difference on the deciding benchmark (paired t test), adjusted for the number of variants; None
            where it cannot be computed.
        efficiency: what share of the baseline's examples it needs to come as far; None for the baseline, and where
            one of the two is the untuned student.
    """

    name: str
    about: str
    seeds: tuple[int, ...]
    success: Mapping[str, EvalResult]
    curve: Sequence[tuple[float, EvalResult]]
    effort: Effort
    against: Mapping[str, SeedResult] = field(default_factory=dict)
    p_holm: float | None = None
    efficiency: Efficiency | None = None


@dataclass(frozen=True, slots=True)
class StudyResult:
    """Everything a study found so far.

    Attributes:
        missing: variant and seed of the runs that are not finished.
        parts: every variant again, its differences being those to the study's `method`; empty without one.
        failed: those of them that were tried, with what they ended with.
    """

    study: Study
    variants: Sequence[VariantResult]
    missing: Sequence[tuple[str, int]]
    failed: Sequence[tuple[str, int, str]] = ()
    parts: Sequence[VariantResult] = ()


def results(study: Study, jobs: Sequence[Job], folder: Path) -> StudyResult:
    """Read every finished run of a study.

    Args:
        study: the grid.
        jobs: its runs.
        folder: of the study.
    """
    done: dict[str, dict[int, Measured]] = {}
    missing: list[tuple[str, int]] = []
    for job in jobs:
        if finished(job, folder):
            done.setdefault(job.variant, {})[job.seed] = _measured(job, folder, study.benchmark)
        else:
            missing.append((job.variant, job.seed))
    done = _with_untuned(done)
    parts = _against(study, study.method, done) if study.method in done else ()
    return StudyResult(study, _against(study, study.baseline, done), missing, parts=parts)


def _against(study: Study, baseline: str, done: Mapping[str, Mapping[int, Measured]]) -> list[VariantResult]:
    """Every variant, with its difference to one of them."""
    found = [_variant(study, name, runs, baseline, done.get(baseline, {})) for name, runs in done.items()]
    return _adjusted(found, study.benchmark)


def _measured(job: Job, folder: Path, benchmark: str) -> Measured:
    store = RunStore(job.folder(folder))
    rounds = job.recipe.curriculum.alpha().rounds
    metrics = [read_json(store.round(number) / "metrics.json") for number in range(rounds + 1)]
    trained = [read_json(store.round(number) / "training.json") for number in range(1, rounds + 1)]
    by_round = [{one["benchmark"]: float(one["overall"]["value"]) for one in found} for found in metrics]
    sizes = [0]
    for one in trained:
        sizes.append(sizes[-1] + int(one["examples"]))
    return Measured(
        job.seed,
        tuple((float(size), values[benchmark]) for size, values in zip(sizes, by_round, strict=True)),
        by_round[-1],
        by_round[0],
        store.read(f"round-{rounds}/evaluation", EvaluationRow),
        store.read("round-0/evaluation", EvaluationRow),
        effort(store, rounds),
    )


def _with_untuned(done: Mapping[str, Mapping[int, Measured]]) -> dict[str, dict[int, Measured]]:
    """The student before any round, measured at the beginning of every run, as a variant of its own."""
    untuned: dict[int, Measured] = {}
    for runs in done.values():
        for seed, run in runs.items():
            untuned.setdefault(
                seed, Measured(seed, run.curve[:1], run.untuned, run.untuned, run.first, run.first, Effort())
            )
    return {UNTUNED: dict(sorted(untuned.items())), **{name: dict(runs) for name, runs in done.items()}}


def _variant(
    study: Study, name: str, runs: Mapping[int, Measured], baseline: str, base: Mapping[int, Measured]
) -> VariantResult:
    benchmarks = next(iter(runs.values())).success if runs else {}
    success = {one: mean_over_seeds([run.success[one] for run in runs.values()]) for one in benchmarks}
    lengths = {len(run.curve) for run in runs.values()}
    curve = [
        (
            fmean(run.curve[place][0] for run in runs.values()),
            mean_over_seeds([run.curve[place][1] for run in runs.values()]),
        )
        for place in range(min(lengths, default=0))
    ]
    about = "before any round" if name == UNTUNED else study.variants[name].about
    plain = VariantResult(name, about, tuple(runs), success, curve, Effort.mean([run.effort for run in runs.values()]))
    shared = sorted(runs.keys() & base.keys())
    if name == baseline or not shared:
        return plain
    ours, theirs = ({seed: side[seed].rows for seed in shared} for side in (runs, base))
    against = {one: over_seeds(ours, theirs, one) for one in benchmarks}
    curves = [(runs[seed].curve, base[seed].curve) for seed in shared]
    return replace(plain, against=against, efficiency=None if UNTUNED in {name, baseline} else efficiency(curves))


def _adjusted(found: Sequence[VariantResult], benchmark: str) -> list[VariantResult]:
    """Holm's correction over all variants compared with the baseline."""
    raw = {
        one.name: one.against[benchmark].mean_of_tasks.t_p
        for one in found
        if benchmark in one.against and not isnan(one.against[benchmark].mean_of_tasks.t_p)
    }
    adjusted = holm(raw)
    return [replace(one, p_holm=adjusted.get(one.name)) for one in found]
