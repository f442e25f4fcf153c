"""Do estimators of difficulty rank the corpus alike? Rank correlations between all that were measured on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tapir.domain.round import EvalResult
from tapir.evaluation.resampling import bootstrap
from tapir.report.scale import Scale, scale_of
from tapir.store.rows import EstimateRow
from tapir.store.run import RunStore

LEAST = 3  # two instructions are always in perfect order or in perfect disorder
RESAMPLES = 1_000
_WORK = 10_000_000  # rows drawn for one interval: from 10,000 instructions on there are fewer resamples
_FEWEST = 100
_COMPARED = "compared-"

Codes: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Spearman's rank correlation of two estimators on the corpus.

    Attributes:
        first: name of one, as in a table.
        second: name of the other.
        n: instructions that both have measured.
        rho: with its 95 % interval; None where it cannot be computed.
        why: why it cannot be, else empty.
    """

    first: str
    second: str
    n: int
    rho: EvalResult | None
    why: str = ""

    @property
    def figure(self) -> str:
        """The value with its interval, as text."""
        if self.rho is None:
            return f"cannot be computed: {self.why}"
        return f"{self.rho.value:+.2f} ({self.rho.low:+.2f} to {self.rho.high:+.2f})"


def read_agreements(
    store: RunStore, recipe: Mapping[str, Any], scale: Scale | None, charged: Mapping[str, float]
) -> list[Agreement]:
    """Every pair of estimators that were measured on the corpus before round 1.

    Args:
        store: the run.
        recipe: resolved.
        scale: of the estimator that the rounds go by; None where there is none.
        charged: its figures by instruction id; empty where they are not there yet.
    """
    columns: dict[str, Mapping[str, float]] = {scale.name: charged} if scale and charged else {}
    for kind in _compared(store, recipe):
        rows = store.each(f"round-0/{_COMPARED}{kind}", EstimateRow)
        found = scale_of({"kind": kind})
        columns[found.name if found else kind] = {row.id: row.value for row in rows if row.value is not None}
    return [_agreement(first, second, columns) for first, second in combinations(columns, 2)]


def _compared(store: RunStore, recipe: Mapping[str, Any]) -> Iterator[str]:
    """Estimators with a finished table: those of the recipe in its order, then those of one's own classes."""
    wanted = list(recipe["curriculum"].get("compare", ()))
    paths = sorted(store.round(0).glob(f"{_COMPARED}*.parquet"))
    own = [name for path in paths if (name := path.stem.removeprefix(_COMPARED)) not in wanted]
    return (name for name in (*wanted, *own) if store.has(f"round-0/{_COMPARED}{name}"))


def _agreement(first: str, second: str, columns: Mapping[str, Mapping[str, float]]) -> Agreement:
    one, other = columns[first], columns[second]
    both = [
        (value, other[name])
        for name, value in one.items()
        if name in other and math.isfinite(value) and math.isfinite(other[name])
    ]
    if len(both) < LEAST:
        return Agreement(first, second, len(both), None, f"{len(both)} instructions have both, {LEAST} are needed")
    left, right = zip(*both, strict=True)
    for name, column in ((first, left), (second, right)):
        if min(column) == max(column):
            return Agreement(first, second, len(both), None, f"{name} is the same for all {len(both):,}")
    return Agreement(first, second, len(both), rank_correlation(left, right))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> EvalResult:
    """Spearman's correlation with its 95 % bootstrap interval over instructions; every resample is ranked anew.

    Figures are numbered once in their order, so that a resample is ranked by counting, without sorting: 50,000 rows
    take a second. Of more than 10,000 rows there are fewer resamples than 1,000, down to 100.

    Args:
        first: shape (n,), neither column constant.
        second: shape (n,).
    """
    columns = [np.unique(np.asarray(column, np.float64), return_inverse=True)[1] for column in (first, second)]
    resamples = max(_FEWEST, min(RESAMPLES, _WORK // len(first)))
    return bootstrap(_spearman, *columns, resamples=resamples)


def _spearman(first: Codes, second: Codes) -> float:
    """Pearson's correlation of mean ranks; NaN where a column does not vary."""
    left, right = _centred_ranks(first), _centred_ranks(second)
    scale = math.sqrt(float(left @ left) * float(right @ right))
    return max(-1.0, min(1.0, float(left @ right) / scale)) if scale else math.nan


def _centred_ranks(codes: Codes) -> NDArray[np.float64]:
    """Ranks minus their mean, equal values sharing the mean of theirs."""
    counts = np.bincount(codes)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[codes] - (codes.size + 1) / 2
    return ranks
