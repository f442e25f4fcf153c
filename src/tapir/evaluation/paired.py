"""Paired comparison of two checkpoints on the same prompts, or of two methods over runs that differ in their seed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from tapir.data.files import nan_to_null
from tapir.data.run.rows import EvaluationRow
from tapir.domain.errors import DataError
from tapir.domain.evaluation import EvalResult
from tapir.evaluation.statistics import RESAMPLES, Floats, holm, mean_over_seeds, sign_flip, stratified_bootstrap

Places: TypeAlias = NDArray[np.int64]

TASK_DIFFERS = "tagged differently"
_NAMED = 3  # prompts that an error quotes
_FEWEST = 2
_ROUNDING = 1e-12  # means of the same outcomes may differ by so much, which is no difference


@dataclass(frozen=True, slots=True)
class Pairs:
    """Graded pairs of one benchmark in the order of their ids.

    Attributes:
        strata: places of every task's pairs, tasks in the order of the alphabet.
        groups: shape (n,): pairs of one conversation (the turns of a question of MT-Bench) have the same number.
        success: of A and of B, each shape (n,), 0 or 1.
        score: of A and of B, each shape (n,), 0 to 1.
        counts: the counts of `PairedResult`, by name.
    """

    strata: Mapping[str, Places]
    groups: Places
    success: tuple[Floats, Floats]
    score: tuple[Floats, Floats]
    counts: Mapping[str, int]


def benchmarks_of(rows: Iterable[EvaluationRow]) -> list[str]:
    """Return the names of the benchmarks in a table, in the order they are met."""
    return list(dict.fromkeys(row.benchmark for row in rows))


def match_pairs(a: Iterable[EvaluationRow], b: Iterable[EvaluationRow], benchmark: str, *, common: bool) -> Pairs:
    """Match the rows of one benchmark by the id of their instruction; raises what `compare_pairs` does."""
    left, right = _by_id(a, benchmark, "A"), _by_id(b, benchmark, "B")
    only_a, only_b = sorted(left.keys() - right.keys()), sorted(right.keys() - left.keys())
    both = [(left[name], right[name]) for name in sorted(left.keys() & right.keys())]
    if (only_a or only_b) and not (common and both):
        first = [f"\n  only A: {left[name].instruction[:80]!r}" for name in only_a[:_NAMED]]
        first += [f"\n  only B: {right[name].instruction[:80]!r}" for name in only_b[:_NAMED]]
        raise DataError(
            f"A and B were not asked the same prompts of {benchmark}: {len(both)} are in both, {len(only_a)} only in A,"
            f" {len(only_b)} only in B" + "".join(first),
            remedy="Add --common to compare on those that are in both." if both else "There is nothing to compare.",
        )
    pairs = [pair for pair in both if all(map(_is_graded, pair))]
    if not pairs:
        why = Counter(row.failure or "no score" for pair in both for row in pair if not _is_graded(row))
        raise DataError(
            f"none of the {len(both)} pairs of {benchmark} is graded on both sides"
            + "".join(f"; {name}: {count} rows" for name, count in why.most_common(_NAMED)),
            remedy="There is no difference to compute; have the answers graded again, or choose another benchmark.",
        )
    tasks = np.array([row.task if row.task == other.task else TASK_DIFFERS for row, other in pairs])
    success, score = (
        tuple(np.array([float(getattr(pair[side], name)) for pair in pairs]) for side in (0, 1))
        for name in ("success", "score")
    )
    counts = {
        "only_a": len(only_a),
        "only_b": len(only_b),
        "unscored": len(both) - len(pairs),
        "retagged": sum(row.task != other.task for row, other in pairs),
        "references": sum(row.expected != other.expected for row, other in pairs),
    }
    strata = {task: np.flatnonzero(tasks == task) for task in sorted(set(tasks.tolist()))}
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(_opening(row), len(numbers)) for row, _ in pairs]
    return Pairs(strata, np.array(groups), (success[0], success[1]), (score[0], score[1]), counts)


def _by_id(rows: Iterable[EvaluationRow], benchmark: str, side: str) -> dict[str, EvaluationRow]:
    rows, by_id = list(rows), dict[str, EvaluationRow]()
    for row in (row for row in rows if row.benchmark == benchmark):
        if by_id.setdefault(row.id, row) is not row:
            raise DataError(
                f"{side} answers the prompt {row.id} of {benchmark} twice: {row.instruction[:80]!r}",
                remedy="Keep one row for each prompt.",
            )
    if not by_id:
        there = f"only of {', '.join(benchmarks_of(rows))}" if rows else "it is empty"
        raise DataError(
            f"{side} has no row of the benchmark {benchmark!r}: {there}", remedy="Choose one that both have."
        )
    return by_id


def _opening(row: EvaluationRow) -> str:
    """Return what the user says first in the conversation of a row."""
    return next((turn.content for turn in row.context if turn.role == "user"), row.instruction)


def _is_graded(row: EvaluationRow) -> bool:
    return row.score is not None and math.isfinite(row.score)


@dataclass(frozen=True, slots=True)
class Contrast:
    """How A and B differ on some pairs.

    Attributes:
        a: success of A, 0 to 1; b that of B.
        difference: a - b with its 95 % percentile bootstrap interval by prompt, drawn within every task where it is a
            mean of tasks; NaN bounds where redrawing shows nothing: a single pair, or equal differences.
        wins: pairs in which only A succeeds; losses those in which only B does; ties the others.
        p: two-sided, for equal success: the exact McNemar test (1947) by prompt and for a task; for a mean of the
            tasks a permutation test (`sign_flip`) with every prompt weighted as it is in that mean.
        score: mean score of A minus that of B, -1 to 1, with its interval as above.
        score_p: two-sided, for equal scores: `sign_flip`.
        p_holm: `p` adjusted for the number of tasks; None where it is not one of many.
        score_p_holm: `score_p` adjusted in the same way.
    """

    a: float
    b: float
    difference: EvalResult
    wins: int
    losses: int
    p: float
    score: EvalResult
    score_p: float
    p_holm: float | None = None
    score_p_holm: float | None = None
    ties: int = field(kw_only=True)

    @property
    def n(self) -> int:
        """Pairs."""
        return self.difference.n


@dataclass(frozen=True, slots=True)
class PairedResult:
    """A and B on one benchmark.

    Attributes:
        prompts: every prompt counts the same.
        mean_of_tasks: every task counts the same; prompts are drawn within their task.
        tasks: each task by itself, with Holm's correction over them.
        only_a: prompts that only A was asked; only_b those that only B was.
        unscored: pairs left out because A's or B's answer could not be graded.
        retagged: pairs whose task A and B disagree on; together they count as the task `TASK_DIFFERS`.
        references: pairs graded against different expected answers, so that the two successes mean different things.
    """

    benchmark: str
    prompts: Contrast
    mean_of_tasks: Contrast
    tasks: Mapping[str, Contrast]
    only_a: int
    only_b: int
    unscored: int
    retagged: int
    references: int


def compare_pairs(
    a: Iterable[EvaluationRow], b: Iterable[EvaluationRow], benchmark: str, *, common: bool = False
) -> PairedResult:
    """Compare A with B on one benchmark; rows of other benchmarks are passed over.

    With `common` the prompts that both were asked are compared, where they were not asked the same.

    Raises:
        DataError: one side has no row, the prompts differ (unless `common`), a prompt is there twice, or no pair is
            graded on both sides.
    """
    pairs = match_pairs(a, b, benchmark, common=common)
    contrast = partial(_contrast, pairs, rng=np.random.default_rng(0))
    mean_of_tasks, prompts = contrast(pairs.strata), contrast({"": np.arange(len(pairs.success[0]))})
    tasks = {task: contrast({task: places}) for task, places in pairs.strata.items()}
    return PairedResult(benchmark, prompts, mean_of_tasks, with_holm(tasks, "p", "score_p"), **pairs.counts)


def mcnemar(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of McNemar's test of equally many wins and losses; 1 without either."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _contrast(pairs: Pairs, strata: Mapping[str, Places], *, rng: np.random.Generator) -> Contrast:
    """Return the mean over the strata of their mean differences."""
    success, score = (a - b for a, b in (pairs.success, pairs.score))
    places = np.concatenate(list(strata.values()))
    weights = np.concatenate([np.full(len(rows), len(places) / len(strata) / len(rows)) for rows in strata.values()])
    wins, losses = int(np.sum(success[places] > 0)), int(np.sum(success[places] < 0))
    groups = pairs.groups[places]
    by_prompt = len(strata) == 1 and len(set(groups.tolist())) == len(groups)
    return Contrast(
        _mean_of_strata(pairs.success[0], strata),
        _mean_of_strata(pairs.success[1], strata),
        paired_interval(success, strata, pairs.groups, rng=rng),
        wins,
        losses,
        mcnemar(wins, losses) if by_prompt else sign_flip(_totals(success[places] * weights, groups)),
        paired_interval(score, strata, pairs.groups, rng=rng),
        sign_flip(_totals(score[places] * weights, groups)),
        ties=len(places) - wins - losses,
    )


def _mean_of_strata(values: Floats, strata: Mapping[str, Places]) -> float:
    return float(np.mean([values[rows].mean() for rows in strata.values()]))


def _totals(values: Floats, groups: Places) -> Floats:
    """Return the sum of the values of each conversation, in the order they are met."""
    return np.bincount(np.unique(groups, return_inverse=True)[1], weights=values).astype(np.float64)


def paired_interval(
    values: Floats, strata: Mapping[str, Places], groups: Places, *, rng: np.random.Generator
) -> EvalResult:
    """Return the mean over the strata, and its interval from drawing whole conversations within each of them."""
    drawn, n = [], sum(map(len, strata.values()))
    for rows in strata.values():
        totals = _totals(values[rows], groups[rows])
        drawn.append(totals * len(totals) / len(rows))  # their mean is that of the stratum
    bounds = stratified_bootstrap(drawn, resamples=RESAMPLES, rng=rng)
    return EvalResult(_mean_of_strata(values, strata), n, *bounds)


def as_json(result: PairedResult) -> dict[str, Any]:
    """Return everything of a comparison as JSON."""
    return {**nan_to_null(result), "remarks": list(remarks(result))}


def remarks(result: PairedResult) -> Iterator[str]:
    """Yield what a reader must know besides the numbers."""
    overall = result.prompts
    if result.only_a or result.only_b:
        yield f"left out: {result.only_a} prompts that only A was asked, {result.only_b} that only B was asked"
    if result.unscored:
        yield f"left out: {result.unscored} pairs that are not graded on both sides"
    if result.retagged:
        yield f"{result.retagged} prompts have another task in A than in B; they count as the task {TASK_DIFFERS!r}"
    if result.references:
        yield (
            f"{result.references} prompts were graded against different expected answers, so a success of A and one of "
            "B do not mean the same"
        )
    if overall.n == 1:
        yield "a single prompt: no interval can be computed, and no p-value can be below 1"
    elif overall.ties == overall.n:
        yield (
            f"A and B succeed and fail on the same {overall.n} prompts: no interval can be computed; they may still "
            f"differ on up to {100 * (1 - 0.05 ** (1 / overall.n)):.1f} % of all such prompts"  # 95 % upper bound
        )
    elif math.isnan(overall.difference.low):
        yield f"the difference is the same on all {overall.n} prompts: no interval can be computed"
    alike = sum(task.n >= _FEWEST and math.isnan(task.difference.low) for task in result.tasks.values())
    if alike and len(result.tasks) > 1 and overall.ties < overall.n:
        yield (
            f"in {alike} of {len(result.tasks)} tasks all differences are equal: the bootstrap sees no chance there, so"
            " the interval of the mean of the tasks is rather too narrow"
        )


@dataclass(frozen=True, slots=True)
class SeedContrast:
    """How A and B differ over runs with the same seeds.

    Attributes:
        a: success of A, the mean over the seeds; b that of B.
        difference: a - b; n is the number of seeds; the 95 % interval is Student's t over the seeds' differences.
        by_seed: the difference of every seed.
        p: two-sided `sign_flip` over the seeds; it can never be below 2^(1 - seeds).
        t_p: two-sided paired t test, which agrees with the interval but takes the seeds' differences for normal; NaN
            where it cannot be computed: one seed, or the same difference for all.
        p_holm: `p` adjusted for the number of tasks; None where it is not one of many, or cannot be computed.
        t_p_holm: `t_p` adjusted in the same way.
    """

    a: float
    b: float
    difference: EvalResult
    by_seed: Mapping[int, float]
    p: float
    t_p: float
    p_holm: float | None = None
    t_p_holm: float | None = None


@dataclass(frozen=True, slots=True)
class SeedResult:
    """A and B on one benchmark over several seeds.

    Attributes:
        mean_of_tasks: every task counts the same.
        tasks: each task by itself, with Holm's correction over them.
        unpaired: seeds left out because only A or only B has them.
        unscored: as in `PairedResult`, over all seeds.
    """

    benchmark: str
    mean_of_tasks: SeedContrast
    tasks: Mapping[str, SeedContrast]
    unpaired: tuple[int, ...]
    unscored: int


_ContrastT = TypeVar("_ContrastT", Contrast, SeedContrast)


def with_holm(contrasts: Mapping[str, _ContrastT], *names: str) -> dict[str, _ContrastT]:
    """Return the contrasts with Holm's correction over them for each of these p-values; NaN is not counted."""
    adjusted: dict[str, Any] = {}
    for name in names:
        values = {task: getattr(contrast, name) for task, contrast in contrasts.items()}
        adjusted[f"{name}_holm"] = holm({task: p for task, p in values.items() if not math.isnan(p)})
    return {
        task: replace(contrast, **{name: values.get(task) for name, values in adjusted.items()})
        for task, contrast in contrasts.items()
    }


def over_seeds(
    a: Mapping[int, Iterable[EvaluationRow]],
    b: Mapping[int, Iterable[EvaluationRow]],
    benchmark: str,
) -> SeedResult:
    """Compare A with B over runs that differ in their seed: run s of A is paired with run s of B."""
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        raise DataError(
            f"A has the seeds {sorted(a)} and B {sorted(b)}: none is in both",
            remedy="Run both with the same seeds; a seed fixes the corpus and the order of training.",
        )
    runs = {seed: match_pairs(a[seed], b[seed], benchmark, common=False) for seed in seeds}
    by_task: dict[str, dict[int, list[float]]] = {}
    for seed, pairs in runs.items():
        for task, places in pairs.strata.items():
            by_task.setdefault(task, {})[seed] = [float(side[places].mean()) for side in pairs.success]
    whole = {seed: [_mean_of_strata(side, pairs.strata) for side in pairs.success] for seed, pairs in runs.items()}
    return SeedResult(
        benchmark,
        _seed_contrast(whole),
        with_holm({task: _seed_contrast(by_task[task]) for task in sorted(by_task)}, "p", "t_p"),
        tuple(sorted(a.keys() ^ b.keys())),
        sum(pairs.counts["unscored"] for pairs in runs.values()),
    )


def _seed_contrast(rates: Mapping[int, Sequence[float]]) -> SeedContrast:
    """Return the contrast of the rates of A and B by seed."""
    from scipy import stats

    a, b = np.array(list(rates.values())).T
    difference = np.where(abs(a - b) < _ROUNDING, 0.0, a - b)
    varying = len(difference) >= _FEWEST and np.ptp(difference) >= _ROUNDING
    return SeedContrast(
        float(a.mean()),
        float(b.mean()),
        mean_over_seeds(difference),
        dict(zip(rates, difference.tolist(), strict=True)),
        sign_flip(difference),
        float(stats.ttest_1samp(difference, 0).pvalue) if varying else math.nan,
    )
