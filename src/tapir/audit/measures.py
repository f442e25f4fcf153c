"""The figures of an audit, each with n and a 95 % interval, or the reason why there is none.

Rows of one prompt are not independent. Where a prompt appears more than once, the bootstrap draws whole prompts;
where every prompt appears once, shares have Wilson's interval. Sums over each prompt are taken first, so that a
resample is a sum over prompts and not over rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tapir.domain.round import EvalResult
from tapir.evaluation.resampling import bootstrap
from tapir.evaluation.statistics import success_rate

Floats: TypeAlias = NDArray[np.float64]
Ranks: TypeAlias = Literal["kendall", "spearman"]

RANK_RESAMPLES = 1_000  # a rank correlation is worked out anew for every resample
LEAST_PAIRS = 2
LEAST_FOR_RANKS = 3  # two pairs are always in perfect order or in perfect disorder


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its uncertainty.

    Attributes:
        value: None where it cannot be computed.
        n: what it was counted over.
        low: lower end of the 95 % interval; None where there is no interval.
        why: why there is no value, or why there is no interval.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    why: str = ""


def undefined(why: str, n: int = 0) -> Figure:
    """A figure that cannot be computed."""
    return Figure(None, n, why=why)


def share(hits: Sequence[bool], prompts: Sequence[str], nothing: str) -> Figure:
    """How often something holds; `nothing` says what is missing where there is no row.

    A share of 0 or 1 among prompts that repeat has Wilson's interval over the prompts: a bootstrap of equal values
    would claim to be certain.
    """
    if not hits:
        return undefined(nothing)
    held, groups = sum(hits), len(set(prompts))
    if groups == 1:
        return Figure(held / len(hits), len(hits), why="no interval: all of it is about one prompt")
    if groups == len(hits):
        found = success_rate(held, len(hits))
        return Figure(found.value, len(hits), found.low, found.high)
    if held in {0, len(hits)}:
        found = success_rate(groups if held else 0, groups)
        return Figure(found.value, len(hits), found.low, found.high)
    return mean([float(hit) for hit in hits], prompts, nothing)


def win_share(values: Sequence[float], prompts: Sequence[str], nothing: str) -> Figure:
    """The share of wins, where a draw is a half; without draws it is a share like any other."""
    if set(values) <= {0.0, 1.0}:
        return share([value == 1 for value in values], prompts, nothing)
    return mean(values, prompts, nothing)


def mean(values: Sequence[float], prompts: Sequence[str], nothing: str) -> Figure:
    """Mean of some numbers."""
    if not values:
        return undefined(nothing)
    totals = _by_prompt(np.column_stack([values, np.ones(len(values))]), prompts)
    return _figure(lambda some: _ratio(some.sum(axis=0)), totals, len(values))


def excess(first: Sequence[bool], second: Sequence[bool], prompts: Sequence[str], nothing: str) -> Figure:
    """The share that `first` holds minus the share that `second` holds, on the same rows."""
    return mean([float(one) - float(other) for one, other in zip(first, second, strict=True)], prompts, nothing)


def difference(
    own: Sequence[float], own_prompts: Sequence[str], rest: Sequence[float], rest_prompts: Sequence[str], nothing: str
) -> Figure:
    """Mean of some numbers minus the mean of others, about the same prompts or not."""
    if not own or not rest:
        return undefined(nothing)
    table = np.zeros((len(own) + len(rest), 4))
    table[: len(own), 0], table[: len(own), 1] = own, 1
    table[len(own) :, 2], table[len(own) :, 3] = rest, 1
    totals = _by_prompt(table, [*own_prompts, *rest_prompts])

    def statistic(some: Floats) -> float:
        sums = some.sum(axis=0)
        return _ratio(sums[:2]) - _ratio(sums[2:])

    return _figure(statistic, totals, len(own) + len(rest))


def kappa(
    first: Sequence[Any],
    second: Sequence[Any],
    prompts: Sequence[str],
    levels: Sequence[Any],
    *,
    quadratic: bool = False,
) -> Figure:
    """Cohen's κ (1960) of two raters on the same rows; with quadratic weights for scores (1968).

    Args:
        first: the classes one rater gave, n of them.
        second: those of the other.
        prompts: the prompt of each row.
        levels: every class there is; with quadratic weights in order and equally far apart.
        quadratic: whether classes further apart count as worse.
    """
    if len(first) < LEAST_PAIRS:
        return undefined("no pair has both verdicts" if not first else "a single pair has no κ", len(first))
    if len({*first, *second}) == 1:
        return undefined("both give every pair the same verdict, so chance alone agrees as often", len(first))
    place = {level: at for at, level in enumerate(levels)}
    rows, columns = ([place[one] for one in some] for some in (first, second))
    weights = _weights(len(levels), quadratic=quadratic)
    cells = np.zeros((len(first), len(levels) ** 2))
    cells[np.arange(len(first)), np.array(rows) * len(levels) + np.array(columns)] = 1
    totals = _by_prompt(cells, prompts)
    from sklearn.metrics import cohen_kappa_score

    value = cohen_kappa_score(rows, columns, labels=range(len(levels)), weights="quadratic" if quadratic else None)
    found = _figure(lambda some: _kappa(some.sum(axis=0), weights), totals, len(first))
    return Figure(float(value), found.n, found.low, found.high, found.why)


def ranks(first: Sequence[float], second: Sequence[float], prompts: Sequence[str], method: Ranks) -> Figure:
    """Rank correlation of two columns: Kendall's τ-b (1945) or Spearman's (1904)."""
    if len(first) < LEAST_FOR_RANKS:
        return undefined(f"{_counted(len(first))} no order to compare", len(first))
    for whose, column in (("the judge's", first), ("the reference's", second)):
        if len(set(column)) == 1:
            return undefined(f"{whose} figures are all equal, so they have no order", len(first))

    from scipy import stats

    def statistic(left: Floats, right: Floats) -> float:
        if np.ptp(left) == 0 or np.ptp(right) == 0:
            return math.nan
        found = stats.kendalltau(left, right) if method == "kendall" else stats.spearmanr(left, right)
        return float(found.statistic)

    groups = None if len(set(prompts)) == len(prompts) else list(prompts)
    found = bootstrap(
        statistic, np.asarray(first, float), np.asarray(second, float), groups=groups, resamples=RANK_RESAMPLES
    )
    return _checked(found, len(first))


def spread(groups: Sequence[Sequence[float]], prompts: Sequence[str], nothing: str) -> Figure:
    """Standard deviation within items that were judged several times: the root of their mean variance.

    Args:
        groups: the judgements of each item, at least two each.
        prompts: the prompt of each item.
        nothing: what is missing where there is no item.
    """
    if not groups:
        return undefined(nothing)
    table = np.array([[float(np.var(one, ddof=1)), 1.0] for one in groups])
    return _figure(lambda some: math.sqrt(_ratio(some.sum(axis=0))), _by_prompt(table, prompts), len(groups))


def _weights(levels: int, *, quadratic: bool) -> Floats:
    away = np.abs(np.arange(levels)[:, None] - np.arange(levels)[None, :]).astype(float)
    weights: Floats = away**2 if quadratic else (away > 0).astype(float)
    return weights


def _kappa(cells: Floats, weights: Floats) -> float:
    """1 minus observed over expected disagreement; NaN where none can be expected."""
    seen = cells.reshape(weights.shape)
    expected = np.outer(seen.sum(axis=1), seen.sum(axis=0)) / seen.sum()
    by_chance = float((weights * expected).sum())
    return 1 - float((weights * seen).sum()) / by_chance if by_chance else math.nan


def _by_prompt(table: Floats, prompts: Sequence[str]) -> Floats:
    """Sums of the rows of each prompt, in the order prompts appear."""
    place: dict[str, int] = {}
    at = np.array([place.setdefault(one, len(place)) for one in prompts])
    totals = np.zeros((len(place), table.shape[1]))
    np.add.at(totals, at, table)
    return totals


def _ratio(sums: Floats) -> float:
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def _figure(statistic: Callable[[Floats], float], totals: Floats, n: int) -> Figure:
    return _checked(bootstrap(statistic, totals), n)


def _checked(found: EvalResult, n: int) -> Figure:
    """The figure of a bootstrap; what it could not work out is said and never NaN."""
    if not math.isfinite(found.value):
        return undefined("the figure is not defined on these pairs", n)
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        why = "no interval: all of it is about one prompt" if n else ""
        return Figure(found.value, n, why=why)
    return Figure(found.value, n, found.low, found.high)


def _counted(n: int) -> str:
    return {0: "no pair has both, so there is", 1: "a single pair has"}.get(n, f"{n} pairs have")
