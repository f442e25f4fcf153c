"""Two checkpoints on the same prompts: A minus B, prompt by prompt.

A difference is positive where A is better. Rows that could not be graded on either side say nothing about the
difference: their pairs are left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tapir.domain.round import EvalResult
from tapir.errors import DataError
from tapir.evaluation.matching import Pairs, pairs
from tapir.evaluation.resampling import RESAMPLES, Floats, holm, mean_over_seeds, sign_flip
from tapir.store.rows import EvaluationRow

Places: TypeAlias = NDArray[np.int64]

_FEWEST = 2
_ROUNDING = 1e-12  # means of the same outcomes may differ by so much, which is no difference
_BATCH = 2_000_000  # drawn numbers in memory at once


@dataclass(frozen=True, slots=True)
class Contrast:
    """How A and B differ on some pairs.

    Attributes:
        a: success of A, 0 to 1.
        b: success of B, 0 to 1.
        difference: a - b with its 95 % percentile bootstrap interval by prompt, drawn within every task where it is a
            mean of tasks; NaN bounds where redrawing shows nothing: a single pair, or equal differences.
        wins: pairs in which only A succeeds.
        losses: pairs in which only B succeeds.
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

    @property
    def n(self) -> int:
        """Pairs."""
        return self.difference.n

    @property
    def ties(self) -> int:
        """Pairs in which both succeed or both fail."""
        return self.n - self.wins - self.losses

    @property
    def most_unlike(self) -> float:
        """Where all n pairs are ties: the share of all prompts on which A and B may still differ (95 % upper bound)."""
        return 1 - 0.05 ** (1 / self.n) if self.ties == self.n else math.nan


@dataclass(frozen=True, slots=True)
class PairedResult:
    """A and B on one benchmark.

    Attributes:
        prompts: every prompt counts the same.
        mean_of_tasks: every task counts the same; prompts are drawn within their task.
        tasks: each task by itself, with Holm's correction over them.
        only_a: prompts that only A was asked.
        only_b: prompts that only B was asked.
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


def paired(
    a: Iterable[EvaluationRow],
    b: Iterable[EvaluationRow],
    benchmark: str,
    *,
    common: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedResult:
    """Compare A with B on one benchmark.

    Args:
        a: rows of A; those of other benchmarks are passed over.
        b: rows of B.
        benchmark: its name.
        common: compare on the prompts both were asked, where they were not asked the same.
        resamples: of the bootstrap.
        seed: the same seed gives the same intervals.

    Raises:
        DataError: one side has no row, the prompts differ (unless `common`), a prompt is there twice, or no pair is
            graded on both sides.
    """
    found = pairs(a, b, benchmark, common=common)
    strata = found.strata()
    dice = np.random.default_rng(seed)
    everything = {"": np.arange(len(found.ids))}
    tasks = {task: _contrast(found, {task: places}, resamples=resamples, dice=dice) for task, places in strata.items()}
    p = holm({task: one.p for task, one in tasks.items()})
    score_p = holm({task: one.score_p for task, one in tasks.items()})
    return PairedResult(
        benchmark,
        _contrast(found, everything, resamples=resamples, dice=dice),
        _contrast(found, strata, resamples=resamples, dice=dice),
        {task: replace(one, p_holm=p[task], score_p_holm=score_p[task]) for task, one in tasks.items()},
        found.only_a,
        found.only_b,
        found.unscored,
        found.retagged,
        found.references,
    )


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p-value of McNemar's test: whether wins and losses are equally likely; 1 without either."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _contrast(found: Pairs, strata: Mapping[str, Places], *, resamples: int, dice: np.random.Generator) -> Contrast:
    """The mean over the strata of their mean differences."""
    (a, b), (score_a, score_b) = found.success, found.score
    success, score = a - b, score_a - score_b
    places = np.concatenate(list(strata.values()))
    wins, losses = int(np.sum(success[places] > 0)), int(np.sum(success[places] < 0))
    weights = {task: len(places) / len(strata) / len(rows) for task, rows in strata.items()}
    weighted = np.concatenate([success[rows] * weights[task] for task, rows in strata.items()])
    weighted_score = np.concatenate([score[rows] * weights[task] for task, rows in strata.items()])
    return Contrast(
        _mean(a, strata),
        _mean(b, strata),
        _interval(success, strata, resamples=resamples, dice=dice),
        wins,
        losses,
        mcnemar(wins, losses) if len(strata) == 1 else sign_flip(weighted),
        _interval(score, strata, resamples=resamples, dice=dice),
        sign_flip(weighted_score),
    )


def _mean(values: Floats, strata: Mapping[str, Places]) -> float:
    return float(np.mean([values[rows].mean() for rows in strata.values()]))


def _interval(values: Floats, strata: Mapping[str, Places], *, resamples: int, dice: np.random.Generator) -> EvalResult:
    """The mean over the strata, and its interval from drawing within each of them."""
    n = sum(map(len, strata.values()))
    mean = _mean(values, strata)
    same = all(np.ptp(values[rows]) == 0 for rows in strata.values())
    if n < _FEWEST or same:
        return EvalResult(mean, n, math.nan, math.nan)
    total = np.zeros(resamples)
    for rows in strata.values():
        total += _drawn_means(values[rows], resamples, dice)
    low, high = np.percentile(total / len(strata), [2.5, 97.5])
    return EvalResult(mean, n, float(low), float(high))


def _drawn_means(values: Floats, resamples: int, dice: np.random.Generator) -> Floats:
    """Means of n - 1 values drawn with replacement, shape (resamples,).

    Drawing n would make the variance too small by the factor (n - 1) / n, which adds up over many small tasks
    (McCarthy and Snowden 1985; Rao and Wu 1988). A single value cannot be drawn; it stays as it is.
    """
    n = len(values)
    if n < _FEWEST:
        return np.full(resamples, values[0])
    found = np.empty(resamples)
    batch = max(1, _BATCH // n)
    for start in range(0, resamples, batch):
        turns = min(batch, resamples - start)
        found[start : start + turns] = values[dice.integers(n, size=(turns, n - 1))].mean(axis=1)
    return found


@dataclass(frozen=True, slots=True)
class SeedContrast:
    """How A and B differ over runs with the same seeds.

    Attributes:
        a: success of A, the mean over the seeds.
        b: success of B.
        difference: a - b; n is the number of seeds; the 95 % interval is Student's t over the seeds' differences.
        by_seed: the difference of every seed.
        p: two-sided `sign_flip` over the seeds; it can never be below `least_p`.
        t_p: two-sided paired t test, which agrees with the interval but takes the seeds' differences for normal; NaN
            where it cannot be computed: one seed, or the same difference for all.
        p_holm: `p` adjusted for the number of tasks; None where it is not one of many.
        t_p_holm: `t_p` adjusted in the same way; None also where there is no `t_p`.
    """

    a: float
    b: float
    difference: EvalResult
    by_seed: Mapping[int, float]
    p: float
    t_p: float
    p_holm: float | None = None
    t_p_holm: float | None = None

    @property
    def least_p(self) -> float:
        """The smallest p-value that so many seeds can give when their signs are flipped."""
        return float(2.0 ** (1 - len(self.by_seed)))


@dataclass(frozen=True, slots=True)
class SeedResult:
    """A and B on one benchmark over several seeds.

    Attributes:
        mean_of_tasks: every task counts the same.
        hierarchical: the same difference with the 95 % interval of a bootstrap that draws both seeds and prompts
            (prompts within their task, and the same ones for every seed that was asked them); n is the number of
            graded pairs. With few seeds it is too narrow: the t interval is the one to report. NaN bounds for one seed.
        tasks: each task by itself, with Holm's correction over them.
        unpaired: seeds left out because only A or only B has them.
        unscored: pairs left out because an answer could not be graded.
        only_a: prompts that only A was asked, over all seeds.
        only_b: prompts that only B was asked.
    """

    benchmark: str
    mean_of_tasks: SeedContrast
    hierarchical: EvalResult
    tasks: Mapping[str, SeedContrast]
    unpaired: tuple[int, ...]
    unscored: int
    only_a: int
    only_b: int


def over_seeds(
    a: Mapping[int, Iterable[EvaluationRow]],
    b: Mapping[int, Iterable[EvaluationRow]],
    benchmark: str,
    *,
    common: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> SeedResult:
    """Compare A with B over runs that differ in their seed: run s of A is paired with run s of B.

    Args:
        a: rows of A's runs by seed; those of other benchmarks are passed over.
        b: rows of B's runs by seed.
        benchmark: its name.
        common: as in `paired`.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        DataError: no seed is in both, or a pair of runs cannot be compared (`paired`).
    """
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        raise DataError(
            f"A has the seeds {sorted(a)} and B {sorted(b)}: none is in both",
            remedy="Run both with the same seeds; a seed fixes the corpus and the order of training.",
        )
    found = {one: pairs(a[one], b[one], benchmark, common=common) for one in seeds}
    by_task: dict[str, dict[int, tuple[float, float]]] = {}
    whole: dict[int, tuple[float, float]] = {}
    for one, them in found.items():
        strata = them.strata()
        for task, places in strata.items():
            rates = tuple(float(side[places].mean()) for side in them.success)
            by_task.setdefault(task, {})[one] = (rates[0], rates[1])
        whole[one] = (_mean(them.success[0], strata), _mean(them.success[1], strata))
    tasks = {task: _seed_contrast(by_task[task]) for task in sorted(by_task)}
    p = holm({task: one.p for task, one in tasks.items()})
    t_p = holm({task: one.t_p for task, one in tasks.items() if not math.isnan(one.t_p)})
    return SeedResult(
        benchmark,
        _seed_contrast(whole),
        _hierarchical(found, resamples=resamples, seed=seed),
        {task: replace(one, p_holm=p[task], t_p_holm=t_p.get(task)) for task, one in tasks.items()},
        tuple(sorted(a.keys() ^ b.keys())),
        *(sum(getattr(one, name) for one in found.values()) for name in ("unscored", "only_a", "only_b")),
    )


def _seed_contrast(rates: Mapping[int, tuple[float, float]]) -> SeedContrast:
    a, b = (np.array([pair[side] for pair in rates.values()]) for side in (0, 1))
    difference = np.where(abs(a - b) < _ROUNDING, 0.0, a - b)
    return SeedContrast(
        float(a.mean()),
        float(b.mean()),
        mean_over_seeds(difference),
        dict(zip(rates, difference.tolist(), strict=True)),
        sign_flip(difference),
        _t_test(difference),
    )


def _t_test(differences: Floats) -> float:
    """Two-sided p-value of a mean of 0; NaN where the differences do not vary."""
    from scipy import stats

    n = len(differences)
    if n < _FEWEST or np.ptp(differences) < _ROUNDING:
        return math.nan
    return float(2 * stats.t.sf(abs(differences.mean()) / differences.std(ddof=1) * np.sqrt(n), n - 1))


def _hierarchical(found: Mapping[int, Pairs], *, resamples: int, seed: int) -> EvalResult:
    """Draw prompts within their task, take every seed's mean of the tasks over them, and draw seeds.

    One less than there are is drawn each time, as in `_drawn_means`.
    """
    dice = np.random.default_rng(seed)
    n = sum(len(one.ids) for one in found.values())
    sums = np.zeros((resamples, len(found)))
    tasks_seen = np.zeros_like(sums)
    for values in _cells(found).values():  # (seeds, prompts), NaN where a seed has no graded pair
        there = ~np.isnan(values)
        prompts = values.shape[1]
        weights = dice.multinomial(max(1, prompts - 1), np.full(prompts, 1 / prompts), size=resamples)
        counts = (weights @ there.T).astype(np.float64)
        sums += np.divide(weights @ np.where(there, values, 0).T, counts, out=np.zeros_like(counts), where=counts > 0)
        tasks_seen += counts > 0
    value = float(np.mean([_mean(one.success[0] - one.success[1], one.strata()) for one in found.values()]))
    if len(found) < _FEWEST:
        return EvalResult(value, n, math.nan, math.nan)
    means = np.divide(sums, tasks_seen, out=np.zeros_like(sums), where=tasks_seen > 0)
    drawn = dice.integers(len(found), size=(resamples, len(found) - 1))
    low, high = np.percentile(np.take_along_axis(means, drawn, axis=1).mean(axis=1), [2.5, 97.5])
    return EvalResult(value, n, float(low), float(high))


def _cells(found: Mapping[int, Pairs]) -> dict[str, Floats]:
    """Differences of success by task, each shape (seeds, prompts of that task in any seed), NaN where there is none."""
    by_task: dict[str, dict[str, int]] = {}
    for one in found.values():
        for name, task in zip(one.ids, one.tasks, strict=True):
            columns = by_task.setdefault(task, {})
            columns.setdefault(name, len(columns))
    cells = {task: np.full((len(found), len(columns)), np.nan) for task, columns in sorted(by_task.items())}
    for row, one in enumerate(found.values()):
        difference = one.success[0] - one.success[1]
        for name, task, value in zip(one.ids, one.tasks, difference, strict=True):
            cells[task][row, by_task[task][name]] = value
    return cells
