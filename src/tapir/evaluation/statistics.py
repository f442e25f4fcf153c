"""Success rates, bootstrap intervals, permutation tests and corrections for multiple tests."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tapir.domain.evaluation import EvalResult, Evaluation

Floats: TypeAlias = NDArray[np.float64]
RankMethod: TypeAlias = Literal["kendall", "spearman"]

RESAMPLES = 4_000
_FEWEST = 2
_ROUNDING = 1e-12  # of the sum of all sizes: equal sums may differ by so much
_BATCH = 2**22  # numbers in memory at once
_Z = 1.959963984540054  # 97.5 % point of the normal distribution


def success_rate(successes: int, n: int) -> EvalResult:
    """Return a proportion with its 95 % Wilson score interval; there must be at least one prompt."""
    from scipy.stats import binomtest

    if n <= 0:
        raise ValueError("a success rate needs at least one prompt")
    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return EvalResult(successes / n, n, float(interval.low), float(interval.high))


def summarise(benchmark: str, number: int, outcomes: Sequence[tuple[str, bool]]) -> Evaluation:
    """Return success by task, and overall as the mean of the tasks (every task counts the same).

    The overall interval is the normal 95 % interval of a stratified mean. Each task's variance is that of n
    prompts at the rate of Agresti and Coull (1998), with two successes and two failures added, so that tasks at 0
    or 100 % do not pretend to be certain.
    """
    by_task: dict[str, list[bool]] = {}
    for task, success in outcomes:
        by_task.setdefault(task, []).append(success)
    tasks = {task: success_rate(sum(results), len(results)) for task, results in sorted(by_task.items())}
    mean = sum(task.value for task in tasks.values()) / len(tasks)
    rates = [((result.value * result.n + 2) / (result.n + 4), result.n) for result in tasks.values()]
    variance = sum(rate * (1 - rate) / n for rate, n in rates) / len(tasks) ** 2
    half = _Z * math.sqrt(variance)
    overall = EvalResult(mean, len(outcomes), max(0.0, mean - half), min(1.0, mean + half))
    return Evaluation(benchmark, number, overall, tasks)


def bootstrap(
    statistic: Callable[..., float],
    *columns: ArrayLike,
    groups: Sequence[Any] | None = None,
    resamples: int = RESAMPLES,
) -> EvalResult:
    """Return a statistic of paired columns with its 95 % percentile bootstrap interval (Efron and Tibshirani 1993).

    Args:
        statistic: of the columns, each shape (n,); a resample it gives NaN for (a correlation of constants) is left
            out of the interval.
        columns: each shape (n,); rows are drawn together.
        groups: shape (n,), the cluster of each row (prompt, annotator, seed): whole clusters are drawn. None draws
            rows.
        resamples: how often to draw; the draws are the same every time.

    Returns:
        The value, n rows, and the interval; with fewer than two rows or clusters the interval is NaN.
    """
    from scipy import stats

    data = [np.asarray(column) for column in columns]
    n = len(data[0])
    if n == 0 or any(len(column) != n for column in (*data, *([groups] if groups is not None else []))):
        raise ValueError(f"columns of {[len(column) for column in data]} rows have no statistic")
    value = float(statistic(*data))
    members: dict[Any, list[int]] = {}
    for row, group in enumerate(() if groups is None else groups):
        members.setdefault(group, []).append(row)
    clusters: Sequence[Any] = range(n) if groups is None else [np.asarray(rows) for rows in members.values()]
    if len(clusters) < _FEWEST:
        return EvalResult(value, n, math.nan, math.nan)

    mean = statistic is np.mean and groups is None  # of all resamples at once: many models have many intervals

    def of_clusters(drawn: NDArray[np.int64], axis: int = -1) -> Any:
        if mean:
            return data[0][drawn].mean(axis=axis)
        rows = drawn if groups is None else np.concatenate([clusters[number] for number in drawn])
        return statistic(*(column[rows] for column in data))

    with warnings.catch_warnings(category=stats.DegenerateDataWarning, action="ignore"):  # of NaN, which is left out
        result = stats.bootstrap(
            (np.arange(len(clusters)),),
            of_clusters,
            vectorized=mean,
            n_resamples=resamples,
            batch=max(1, _BATCH // len(clusters)),
            method="percentile",
            rng=np.random.default_rng(0),
        )
    return EvalResult(value, n, *percentile_interval(result.bootstrap_distribution))


def rank_correlation(first: ArrayLike, second: ArrayLike, method: RankMethod = "spearman") -> float:
    """Return Spearman's rank correlation (1904) or Kendall's tau-b (1945); NaN where a column does not vary."""
    from scipy import stats

    correlate = stats.kendalltau if method == "kendall" else stats.spearmanr
    return float(correlate(first, second).statistic) if np.ptp(first) and np.ptp(second) else math.nan


def percentile_interval(drawn: Floats) -> tuple[float, float]:
    """Return the 95 % percentile interval of the finite values among bootstrap statistics; NaN where there is none."""
    finite = drawn[np.isfinite(drawn)]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite.size else (math.nan, math.nan)
    return float(low), float(high)


def stratified_bootstrap(strata: Sequence[Floats], *, resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of the strata's means, drawing n - 1 within each stratum.

    Drawing n would make the variance too small by the factor (n - 1) / n, which adds up over many small strata
    (McCarthy and Snowden 1985; Rao and Wu 1988); scipy.stats.bootstrap always draws n. Strata of a single value show no
    variance of their own and are drawn as one, weighted by their number (collapsed strata, Cochran 1977, section
    5A.12): rather too wide where they differ. The only one of its kind is kept. NaN where no stratum varies.
    """
    singles = [values for values in strata if len(values) < _FEWEST]
    pools = [(values, 1) for values in strata if len(values) >= _FEWEST]
    pools += [(np.concatenate(singles), len(singles))] if singles else []
    if all(np.ptp(values) == 0 for values, _ in pools):
        return math.nan, math.nan
    total = np.zeros(resamples)
    for values, weight in pools:
        n = len(values)
        if n < _FEWEST:
            total += values[0]
            continue
        batch = max(1, _BATCH // n)
        for start in range(0, resamples, batch):
            turns = min(batch, resamples - start)
            total[start : start + turns] += weight * values[rng.integers(n, size=(turns, n - 1))].mean(axis=1)
    return percentile_interval(total / len(strata))


def sign_flip(differences: ArrayLike, *, resamples: int = 20_000) -> float:
    """Return the two-sided p-value of a paired permutation test of mean 0: each difference keeps or changes its sign.

    Exact where there are at most `resamples` sign patterns of the differences that are not zero; above that a random
    sample of them, with one added to both counts (Phipson and Smyth 2010), so that it is never 0. Without any
    difference it is 1. Sums that differ by rounding only are equal: 0.1 + 0.2 and 0.3.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not np.all(np.isfinite(values)):
        raise ValueError("a difference that is not finite cannot be tested")
    values = values[values != 0]
    n, least = values.size, abs(values.sum()) - _ROUNDING * np.abs(values).sum()
    if 2**n <= resamples:
        patterns = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float(np.mean(np.abs(patterns @ values) >= least))
    rng, hits, batch = np.random.default_rng(0), 0, max(1, _BATCH // n)
    for start in range(0, resamples, batch):
        signs = 1 - 2 * rng.integers(2, size=(min(batch, resamples - start), n), dtype=np.int8)
        hits += int(np.sum(np.abs(signs @ values) >= least))
    return (hits + 1) / (resamples + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted for their number by Holm's step-down method (1979): the family-wise error is kept."""
    from statsmodels.stats.multitest import multipletests

    adjusted = multipletests(list(p_values.values()), method="holm")[1] if p_values else []
    return dict(zip(p_values, map(float, adjusted), strict=True))


def mean_over_seeds(values: ArrayLike) -> EvalResult:
    """Return a mean over independent runs, shape (n,), with its 95 % interval from Student's t; none for a single run.

    A run gives a success rate, for example, or a paired difference.
    """
    from scipy import stats

    runs: Floats = np.asarray(values, dtype=np.float64)
    if not runs.size:
        raise ValueError("a mean needs at least one run")
    mean, n = float(runs.mean()), int(runs.size)
    half = float(stats.t.ppf(0.975, n - 1) * stats.sem(runs)) if n >= _FEWEST else math.nan
    return EvalResult(mean, n, mean - half, mean + half)
