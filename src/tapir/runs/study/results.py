"""Results of a study: success, effort, efficiency and paired differences of every variant."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

import numpy as np
import pyarrow.parquet as pq

from tapir.data.files import read_json
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import EvaluationRow
from tapir.data.run.store import RunStore
from tapir.domain.evaluation import EvalResult
from tapir.evaluation.paired import SeedResult, over_seeds, with_holm
from tapir.evaluation.statistics import mean_over_seeds
from tapir.report.summary import working_time
from tapir.runs.study.grid import UNTUNED, StudyConfig, StudyRun
from tapir.runs.study.run import is_finished

_TEACHER = ("responses", "labels", "refinements")
_JUDGE = ("judgements", "preferences", "canary")


@dataclass(frozen=True, slots=True)
class Effort:
    """Effort of one run, or the mean of several.

    Attributes:
        examples: trained on over all rounds, repetitions counted, epochs not.
        distinct: different ones among them.
        tokens: read in training, over all epochs.
        teacher: texts requested from the teacher: answers, labels, new instructions with the answers to those accepted,
            refinements.
        judge: judgements; of a difficulty by pass rate one for each sample.
        answers: of the student to the corpus, to measure its difficulty.
        seconds: of work, without the prelude in runs that copied it.
    """

    examples: float = 0
    distinct: float = 0
    tokens: float = 0
    teacher: float = 0
    judge: float = 0
    answers: float = 0
    seconds: float = 0

    @classmethod
    def mean(cls, efforts: Sequence[Effort]) -> Effort:
        """Return the mean of each number; zeros for none."""
        return cls(*(fmean(column) for column in zip(*map(astuple, efforts), strict=True)))


def effort(store: RunStore, rounds: int) -> Effort:
    """Count the effort of a finished run from its folder."""
    run = RunReader(store)
    trainings = [run.json(f"round-{number}/training.json") for number in range(rounds + 1)]
    mixtures = [[row.id for row in run.mixture(number)] for number in range(1, rounds + 1)]
    expansions = [row for number in range(1, rounds + 1) for row in run.expansions(number)]
    difficulty = read_json(store.folder / "recipe.json")["curriculum"].get("difficulty", {})
    samples = int(difficulty["samples"]) if difficulty.get("kind") == "pass-rate" else 0
    sampled = samples * _row_count(store, ("estimates",), rounds)
    return Effort(
        examples=sum(map(len, mixtures)),
        distinct=len(set(itertools.chain(*mixtures))),
        tokens=sum(int(training["tokens"]) for training in trainings if training),
        teacher=_row_count(store, _TEACHER, rounds) + len(expansions) + sum(row.reason is None for row in expansions),
        judge=_row_count(store, _JUDGE, rounds) + sampled,
        answers=_row_count(store, ("answers",), rounds) + sampled,
        seconds=working_time(run),
    )


def _row_count(store: RunStore, tables: Sequence[str], rounds: int) -> int:
    paths = [store.round(number) / f"{name}.parquet" for number in range(rounds + 1) for name in tables]
    return sum(int(pq.read_metadata(path).num_rows) for path in paths if path.exists())


Curve: TypeAlias = tuple[tuple[float, float], ...]
"""Training examples so far and success, round by round, from 0 examples on."""

_RESAMPLES = 4_000  # drawn where there are more seeds than five: up to there every one of the n^n draws is looked at
_FEWEST = 2


@dataclass(frozen=True, slots=True)
class Efficiency:
    """A share of the baseline's examples: 0.5 means half as many; inf means that it never reaches the same success.

    Attributes:
        share: where the mean curve over the seeds first reaches the baseline's mean final success, between two rounds
            by a straight line.
        low: lower end of the 95 % bootstrap interval over the seeds; NaN for one seed.
        high: upper end; inf where it does not reach it in some of the draws.
        reached: share of the draws in which it did.
    """

    share: float
    low: float
    high: float
    reached: float


def efficiency(curves: Sequence[tuple[Curve, Curve]]) -> Efficiency:
    """Compare curves of the same seeds, at least one: (the variant's, the baseline's)."""
    value = _share(curves)
    if len(curves) < _FEWEST:
        return Efficiency(value, math.nan, math.nan, float(math.isfinite(value)))
    drawn = np.array([_share([curves[place] for place in places]) for places in _draws(len(curves))])
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return Efficiency(value, float(low), float(high), float(np.mean(np.isfinite(drawn))))


def _draws(count: int) -> Iterable[Sequence[int]]:
    """Return draws with replacement: all of them where they are few, else a random sample."""
    if count**count <= _RESAMPLES:
        return itertools.product(range(count), repeat=count)
    draws: list[list[int]] = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count)).tolist()
    return draws


def _share(curves: Sequence[tuple[Curve, Curve]]) -> float:
    ours, theirs = (
        [np.mean(points, axis=0).tolist() for points in zip(*side, strict=False)] for side in zip(*curves, strict=True)
    )
    examples, goal = theirs[-1]
    return crossing(ours, goal) / examples if examples else math.inf


def crossing(curve: Sequence[tuple[float, float]], goal: float) -> float:
    """Return the examples at which a curve first reaches `goal`, by straight lines; inf where it never does."""
    if curve[0][1] >= goal:
        return curve[0][0]
    for (before, low), (after, high) in itertools.pairwise(curve):
        if high >= goal:
            return before + (after - before) * ((goal - low) / (high - low))
    return math.inf


@dataclass(frozen=True, slots=True)
class RunMeasurement:
    """Measurements of one finished run.

    Attributes:
        curve: training examples so far and success on the deciding benchmark, for S_0, S_1, ... S_N.
        success: of the last student, by benchmark.
        rows: its graded answers, of every benchmark.
    """

    curve: Curve
    success: Mapping[str, float]
    rows: Sequence[EvaluationRow]
    effort: Effort


Measurements: TypeAlias = Mapping[str, Mapping[int, RunMeasurement]]
"""By variant and seed."""


@dataclass(frozen=True, slots=True)
class VariantResult:
    """Result of a variant over its seeds.

    Attributes:
        success: mean over the seeds by benchmark, with the t interval over them.
        curve: examples and success after every round, means over the seeds.
        against: its difference to the baseline by benchmark, on the seeds both have; empty for the baseline itself.
        p_holm: of the difference on the deciding benchmark (paired t test), adjusted for the number of variants; None
            where it cannot be computed.
        efficiency: share of the baseline's examples it needs for the same success; None for the baseline, and where
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
    """Results of all finished runs of a study.

    Attributes:
        missing: variant and seed of the runs that are not finished.
        failed: those that were tried, with their error.
        parts: every variant again, its differences being those to the study's `method`; empty without one.
    """

    study: StudyConfig
    variants: Sequence[VariantResult]
    missing: Sequence[tuple[str, int]]
    failed: Sequence[tuple[str, int, str]] = ()
    parts: Sequence[VariantResult] = ()


def results(study: StudyConfig, runs: Sequence[StudyRun], folder: Path) -> StudyResult:
    """Read every finished run of a study in its folder."""
    untuned: dict[int, RunMeasurement] = {}
    done: dict[str, dict[int, RunMeasurement]] = {UNTUNED: untuned}
    missing: list[tuple[str, int]] = []
    for run in runs:
        if is_finished(run, folder):
            first, last = _measure(run, folder, study.benchmark)
            untuned.setdefault(run.seed, first)
            done.setdefault(run.variant, {})[run.seed] = last
        else:
            missing.append((run.variant, run.seed))
    done[UNTUNED] = dict(sorted(untuned.items()))
    parts = _compare(study, study.method, done) if study.method in done else ()
    return StudyResult(study, _compare(study, study.baseline, done), missing, parts=parts)


def _measure(run: StudyRun, folder: Path, benchmark: str) -> tuple[RunMeasurement, RunMeasurement]:
    """Measure S_0, which every run evaluates before its first round, and S_N."""
    store = RunStore(run.folder(folder))
    rounds = run.recipe.curriculum.alpha().rounds
    sizes = [int(read_json(store.round(number) / "training.json")["examples"]) for number in range(1, rounds + 1)]
    metrics = [read_json(store.round(number) / "metrics.json") for number in range(rounds + 1)]
    success = [{entry["benchmark"]: float(entry["overall"]["value"]) for entry in entries} for entries in metrics]
    curve = tuple(
        (float(examples), values[benchmark])
        for examples, values in zip(itertools.accumulate(sizes, initial=0), success, strict=True)
    )
    first, last = (store.read(f"round-{number}/evaluation", EvaluationRow) for number in (0, rounds))
    untuned = RunMeasurement(curve[:1], success[0], first, Effort())
    return untuned, RunMeasurement(curve, success[-1], last, effort(store, rounds))


def _compare(study: StudyConfig, baseline: str, done: Measurements) -> list[VariantResult]:
    """Return every variant with its difference to one of them, p-values adjusted by Holm's method."""
    variants = [_variant_result(study, name, runs, baseline, done.get(baseline, {})) for name, runs in done.items()]
    against = {variant.name: variant.against.get(study.benchmark) for variant in variants}
    adjusted = with_holm({name: each.mean_of_tasks for name, each in against.items() if each}, "t_p")
    return [replace(each, p_holm=adjusted[each.name].t_p_holm if against[each.name] else None) for each in variants]


def _variant_result(
    study: StudyConfig, name: str, runs: Mapping[int, RunMeasurement], baseline: str, base: Mapping[int, RunMeasurement]
) -> VariantResult:
    measured = list(runs.values())
    benchmarks = measured[0].success if measured else {}
    curve = [
        (fmean(examples for examples, _ in points), mean_over_seeds([success for _, success in points]))
        for points in zip(*(run.curve for run in measured), strict=False)
    ]
    result = VariantResult(
        name,
        "before any round" if name == UNTUNED else study.variants[name].about,
        tuple(runs),
        {benchmark: mean_over_seeds([run.success[benchmark] for run in measured]) for benchmark in benchmarks},
        curve,
        Effort.mean([run.effort for run in measured]),
    )
    shared = sorted(runs.keys() & base.keys())
    if name == baseline or not shared:
        return result
    ours, theirs = ({seed: side[seed].rows for seed in shared} for side in (runs, base))
    curves = [(runs[seed].curve, base[seed].curve) for seed in shared]
    return replace(
        result,
        against={benchmark: over_seeds(ours, theirs, benchmark) for benchmark in benchmarks},
        efficiency=None if UNTUNED in {name, baseline} else efficiency(curves),
    )
