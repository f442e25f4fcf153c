"""How many examples one variant needs to come as far as another came with all of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Curve: TypeAlias = tuple[tuple[float, float], ...]
"""Training examples so far and success, round by round, from 0 examples on."""

_RESAMPLES = 4_000  # drawn where there are more seeds than five: up to there every one of the n^n draws is looked at
_FEWEST = 2


@dataclass(frozen=True, slots=True)
class Efficiency:
    """A share of the baseline's examples: 0.5 means half as many; inf means that it never came as far.

    Attributes:
        share: where the mean curve over the seeds first reaches the baseline's mean final success, between two rounds
            by a straight line.
        low: lower end of the 95 % bootstrap interval over the seeds; NaN for one seed.
        high: upper end; inf where it does not come as far in some of the draws.
        reached: share of the draws in which it came as far.
    """

    share: float
    low: float
    high: float
    reached: float


def efficiency(curves: Sequence[tuple[Curve, Curve]], seed: int = 0) -> Efficiency:
    """Compare curves of the same seeds: (the variant's, the baseline's).

    Raises:
        ValueError: there is no pair of curves.
    """
    if not curves:
        raise ValueError("no curves to compare")
    value = _share(curves)
    if len(curves) < _FEWEST:
        return Efficiency(value, math.nan, math.nan, float(math.isfinite(value)))
    drawn = np.array([_share([curves[place] for place in places]) for places in _draws(len(curves), seed)])
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return Efficiency(value, float(low), float(high), float(np.mean(np.isfinite(drawn))))


def _draws(count: int, seed: int) -> Iterable[Sequence[int]]:
    """Ways to draw so many with replacement: all of them where they are few, else a random sample."""
    if count**count <= _RESAMPLES:
        return itertools.product(range(count), repeat=count)
    draws: list[list[int]] = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count)).tolist()
    return draws


def _share(curves: Sequence[tuple[Curve, Curve]]) -> float:
    ours = _mean([one for one, _ in curves])
    theirs = _mean([other for _, other in curves])
    examples, goal = theirs[-1]
    return crossing(ours, goal) / examples if examples else math.inf


def _mean(curves: Sequence[Curve]) -> Curve:
    rounds = min(map(len, curves))
    points = np.array([curve[:rounds] for curve in curves]).mean(axis=0)
    return tuple((float(examples), float(success)) for examples, success in points)


def crossing(curve: Curve, goal: float) -> float:
    """Examples at which a curve first reaches `goal`, by straight lines between its points; inf where it never does."""
    if curve[0][1] >= goal:
        return curve[0][0]
    for (before, low), (after, high) in itertools.pairwise(curve):
        if high >= goal:
            return before + (after - before) * ((goal - low) / (high - low))
    return math.inf
