"""Estimators of a run in the report: their scales, and the rank correlation of every two on the corpus."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tapir.config.base import CustomConfig
from tapir.config.curriculum import CurriculumConfig
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import EstimateRow
from tapir.domain.difficulty import Scale
from tapir.domain.errors import RecipeError
from tapir.domain.evaluation import EvalResult
from tapir.evaluation.statistics import bootstrap, rank_correlation
from tapir.models.estimators import scale_of

LEAST = 3  # two instructions are always in perfect order or in perfect disorder
_RESAMPLES = 1_000
_FEWEST = 100
_WORK = 10_000_000  # rows drawn for one interval: of more than 10,000 instructions there are fewer resamples


def scale_named(name: str, plan: CurriculumConfig) -> Scale:
    """Return the scale of an estimator by the name in its table: a kind of difficulty, or that of a custom class."""
    for section in (plan.difficulty, *plan.compared()):
        with suppress(RecipeError, AttributeError):  # a class that is not installed here, or has no scale
            if name == (section.load().name if isinstance(section, CustomConfig) else section.kind):
                return scale_of(section) or Scale.unknown(name)
    return Scale.unknown(name)


def read_scale(run: RunReader, plan: CurriculumConfig) -> Scale | None:
    """Return the scale that a run with this curriculum was scored on; None where nothing is measured."""
    if row := next(run.estimates(0), None):
        return scale_named(row.estimator, plan)
    return Scale.unknown("custom") if isinstance(plan.difficulty, CustomConfig) else scale_of(plan.difficulty)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Spearman's rank correlation of two estimators on the corpus.

    Attributes:
        n: instructions that both have measured.
        rho: with its 95 % bootstrap interval over instructions; None where it cannot be computed.
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
    run: RunReader, plan: CurriculumConfig, scale: Scale | None, charged: Mapping[str, float]
) -> list[Agreement]:
    """Correlate every two estimators that were measured on the corpus before round 1.

    `scale` is that of the estimator that the rounds go by, `charged` its values by instruction id.
    """
    columns: dict[str, Mapping[str, float]] = {scale.name: charged} if scale and charged else {}
    tables = run.comparisons()
    for name in dict.fromkeys((*filter(tables.get, plan.compare), *tables)):
        rows = run.read(tables[name], EstimateRow)
        columns[scale_named(name, plan).name] = {row.id: row.value for row in rows if row.value is not None}
    return [_agreement(first, second, columns) for first, second in combinations(columns, 2)]


def _agreement(first: str, second: str, columns: Mapping[str, Mapping[str, float]]) -> Agreement:
    left, right = columns[first], columns[second]
    both = [(value, right[name]) for name, value in left.items() if math.isfinite(value + right.get(name, math.nan))]
    if len(both) < LEAST:
        return Agreement(first, second, len(both), None, f"{len(both)} instructions have both, {LEAST} are needed")
    values = np.array(both)
    for name, column in zip((first, second), values.T, strict=True):
        if column.min() == column.max():
            return Agreement(first, second, len(both), None, f"{name} is the same for all {len(both):,}")
    resamples = max(_FEWEST, min(_RESAMPLES, _WORK // len(both)))  # each is ranked anew
    return Agreement(first, second, len(both), bootstrap(rank_correlation, *values.T, resamples=resamples))
