"""Intervals and tests that assume little: the bootstrap, permutations, and corrections for many comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tapir.domain.round import EvalResult

Floats: TypeAlias = NDArray[np.float64]

RESAMPLES = 4_000
EXACT = 12  # paired differences up to which every one of the 2^n sign patterns is looked at
_FEWEST = 2
_ROUNDING = 1e-12  # of the sum of all sizes: equal sums may differ by so much


def bootstrap(
    statistic: Callable[..., float],
    *columns: ArrayLike,
    groups: Sequence[Any] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> EvalResult:
    """A statistic of paired columns with its 95 % percentile bootstrap interval (Efron and Tibshirani 1993).

    Args:
        statistic: of the columns, each shape (n,); a resample it gives NaN for (a correlation of constants) is left
            out of the interval.
        columns: each shape (n,); rows are drawn together.
        groups: shape (n,), the cluster of each row (prompt, annotator, seed): whole clusters are drawn. None draws
            rows.
        resamples: how often to draw.
        seed: the same seed gives the same interval.

    Returns:
        The value, n rows, and the interval; with fewer than two rows or clusters the interval is NaN.

    Raises:
        ValueError: there is no row, or the columns differ in length.
    """
    data = [np.asarray(column) for column in columns]
    n = len(data[0])
    if n == 0 or any(len(column) != n for column in data):
        raise ValueError(f"columns of {[len(column) for column in data]} rows have no statistic")
    value = float(statistic(*data))
    places = _clusters(groups, n)
    if len(places) < _FEWEST:
        return EvalResult(value, n, float("nan"), float("nan"))
    dice = np.random.default_rng(seed)
    found = np.empty(resamples)
    for turn in range(resamples):
        drawn = dice.integers(len(places), size=len(places))
        rows = drawn if groups is None else np.concatenate([places[one] for one in drawn])
        found[turn] = statistic(*(column[rows] for column in data))
    found = found[np.isfinite(found)]
    if not found.size:
        return EvalResult(value, n, float("nan"), float("nan"))
    low, high = np.percentile(found, [2.5, 97.5])
    return EvalResult(value, n, float(low), float(high))


def _clusters(groups: Sequence[Any] | None, n: int) -> Sequence[Any]:
    """Row numbers of every cluster; without clusters every row is its own."""
    if groups is None:
        return range(n)
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} rows")
    members: dict[Any, list[int]] = {}
    for place, one in enumerate(groups):
        members.setdefault(one, []).append(place)
    return [np.asarray(rows) for rows in members.values()]


def sign_flip(differences: ArrayLike, *, resamples: int = 20_000, seed: int = 0) -> float:
    """Two-sided p-value of a paired permutation test of mean 0: each difference keeps or changes its sign.

    Exact for up to 12 differences that are not zero; above that a random sample of sign patterns, with one added to
    both counts (Phipson and Smyth 2010), so that it is never 0. Without any difference it is 1.

    Args:
        differences: shape (n,), for example one per prompt or one per seed.
        resamples: sign patterns where not all are looked at.
        seed: of the sample.

    Raises:
        ValueError: a difference is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not np.all(np.isfinite(values)):
        raise ValueError("a difference that is not finite cannot be tested")
    values = values[values != 0]
    if not values.size:
        return 1.0
    least = abs(values.sum()) - _ROUNDING * np.abs(values).sum()
    if values.size <= EXACT:
        patterns = 1 - 2 * ((np.arange(2**values.size)[:, None] >> np.arange(values.size)) & 1)
        return float(np.mean(np.abs(patterns @ values) >= least))
    dice = np.random.default_rng(seed)
    hits, batch = 0, max(1, 2_000_000 // values.size)
    for start in range(0, resamples, batch):
        rows = min(batch, resamples - start)
        signs = 1 - 2 * dice.integers(0, 2, size=(rows, values.size), dtype=np.int8)
        hits += int(np.sum(np.abs(signs @ values) >= least))
    return (hits + 1) / (resamples + 1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values adjusted for their number by Holm's step-down method (1979), which controls the family-wise error."""
    found: dict[str, float] = {}
    most = 0.0
    for place, (name, p) in enumerate(sorted(p_values.items(), key=itemgetter(1))):
        most = max(most, min(1.0, (len(p_values) - place) * p))
        found[name] = most
    return {name: found[name] for name in p_values}


def mean_over_seeds(values: ArrayLike) -> EvalResult:
    """A mean over independent runs with its 95 % interval from Student's t; NaN bounds for a single run.

    Args:
        values: shape (n,), one figure per seed, for example a success rate or a paired difference.

    Raises:
        ValueError: there is no value.
    """
    from scipy import stats

    found: Floats = np.asarray(values, dtype=np.float64)
    if not found.size:
        raise ValueError("a mean needs at least one run")
    mean = float(found.mean())
    if found.size < _FEWEST:
        return EvalResult(mean, int(found.size), float("nan"), float("nan"))
    half = float(stats.t.ppf(0.975, found.size - 1) * found.std(ddof=1) / np.sqrt(found.size))
    return EvalResult(mean, int(found.size), mean - half, mean + half)
