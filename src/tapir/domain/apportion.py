"""Apportionment: whole numbers from shares by the largest-remainder method, with bounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64]

_ROUNDING = 1e-9
_NOTHING = 1e-100


def apportion(weights: ArrayLike, total: int, *, low: ArrayLike | None = None, high: ArrayLike | None = None) -> Counts:
    """Divide `total` by `weights` into whole numbers within bounds.

    Where no bound binds this is the largest-remainder (Hamilton) method. What a bound takes from one
    place goes to the others in proportion to their weights. A weight of 0 (or below 1e-100 of the largest)
    gets its lower bound.

    Args:
        weights: shape (k,), non-negative, in any unit.
        total: what to divide.
        low: shape (k,), at least this many each; 0 by default.
        high: shape (k,), at most this many each; `total` by default.

    Returns:
        Shape (k,), with the sum `total` or the nearest that the bounds allow.
    """
    share = np.asarray(weights, dtype=np.float64)
    if share.ndim != 1 or np.any(share < 0) or not np.all(np.isfinite(share)):
        raise ValueError(f"weights must be finite and non-negative, got {weights!r}")
    share = share / (share.max(initial=0.0) or 1.0)
    share = np.where(share < _NOTHING, 0.0, share)
    floor = np.zeros(share.size, np.int64) if low is None else np.asarray(low, np.int64)
    ceiling = np.full(share.size, max(total, 0), np.int64) if high is None else np.asarray(high, np.int64)
    ceiling = np.where(share > 0, np.maximum(ceiling, floor), floor)
    plain = _rounded(share, total, np.zeros_like(floor), np.full_like(ceiling, max(total, 0)))
    if np.all(plain >= floor) and np.all(plain <= ceiling):
        return plain
    return _rounded(share, int(np.clip(total, floor.sum(), ceiling.sum())), floor, ceiling)


def _rounded(share: NDArray[np.float64], goal: int, floor: Counts, ceiling: Counts) -> Counts:
    """Return the largest remainders of the exact division, within the bounds."""
    ceiling = np.where(share > 0, ceiling, floor)
    exact = _exact(share, goal, floor, ceiling)
    counts = np.clip(np.floor(exact + _ROUNDING).astype(np.int64), floor, ceiling)
    by_remainder = np.argsort(-(exact - counts), kind="stable")
    for index in by_remainder[counts[by_remainder] < ceiling[by_remainder]][: max(0, goal - int(counts.sum()))]:
        counts[index] += 1
    return counts


def _exact(share: NDArray[np.float64], goal: int, floor: Counts, ceiling: Counts) -> NDArray[np.float64]:
    """Return clip(λ·share, floor, ceiling) with the λ that makes the sum `goal`.

    The sum is piecewise linear in λ and bends only where some λ·share meets a bound.
    """
    positive = share > 0
    with np.errstate(over="ignore"):
        bends = np.concatenate((floor[positive] / share[positive], ceiling[positive] / share[positive]))
    bends = np.unique(bends[np.isfinite(bends)])
    if not bends.size:
        return floor.astype(np.float64)
    sums = np.clip(bends[:, None] * share, floor, ceiling).sum(axis=1)
    factor = float(np.interp(goal, sums, bends))
    return np.clip(factor * share, floor, ceiling).astype(np.float64)
