"""Estimators of a run in the report: their scales, and the rank correlation of every two on the corpus."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import TypeAdapter, ValidationError

from tapir.config.base import CustomConfig
from tapir.config.curriculum import AnyDifficulty
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import EstimateRow
from tapir.domain.difficulty import Scale
from tapir.domain.errors import RecipeError
from tapir.domain.evaluation import EvalResult
from tapir.evaluation.statistics import bootstrap, rank_correlation
from tapir.models.estimators import scale_of

_DIFFICULTY: TypeAdapter[AnyDifficulty] = TypeAdapter(AnyDifficulty)
LEAST = 3  # two instructions are always in perfect order or in perfect disorder
_RESAMPLES = 1_000
_FEWEST = 100
_WORK = 10_000_000  # rows drawn for one interval: from 10,000 instructions on there are fewer resamples


def section_of(difficulty: object) -> AnyDifficulty | None:
    """Return `curriculum.difficulty` of a run folder as a section; None for one that this version does not know."""
    try:
        return _DIFFICULTY.validate_python(difficulty)
    except ValidationError:
        return None


def scale_named(name: str, difficulty: object) -> Scale:
    """Return the scale of an estimator by the name that stands in its table: a kind of difficulty, or a class's own.

    `difficulty` is `curriculum.difficulty` of the run, which may name this class and has settings that a scale shows.
    """
    section, shipped = section_of(difficulty), section_of(name)
    if shipped:
        return scale_of(section if section and section.kind == name else shipped) or Scale.unknown(name)
    if isinstance(section, CustomConfig):
        with suppress(RecipeError, AttributeError):  # a class that is not installed here, or has no scale
            implementation = section.load()
            if implementation.name == name:
                return scale_of(section) or Scale.unknown(name)
    return Scale.unknown(name)


def read_scale(run: RunReader, difficulty: object) -> Scale | None:
    """Return the scale that a run with this `curriculum.difficulty` was scored on; None where nothing is measured."""
    if row := next(run.estimates(0), None):
        return scale_named(row.estimator, difficulty)
    section = section_of(difficulty)
    return Scale.unknown("custom") if section is None or isinstance(section, CustomConfig) else scale_of(section)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Spearman's rank correlation of two estimators on the corpus.

    Attributes:
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
    run: RunReader, recipe: Mapping[str, Any], scale: Scale | None, charged: Mapping[str, float]
) -> list[Agreement]:
    """Correlate every two estimators that were measured on the corpus before round 1.

    `scale` is that of the estimator that the rounds go by, `charged` its values by instruction id.
    """
    columns: dict[str, Mapping[str, float]] = {scale.name: charged} if scale and charged else {}
    difficulty = recipe["curriculum"].get("difficulty", "mfd")
    tables = run.comparisons()
    for name in dict.fromkeys((*filter(tables.get, recipe["curriculum"].get("compare", ())), *tables)):
        rows = run.read(tables[name], EstimateRow)
        columns[scale_named(name, difficulty).name] = {row.id: row.value for row in rows if row.value is not None}
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
    return Agreement(first, second, len(both), correlate(values[:, 0], values[:, 1]))


def correlate(first: ArrayLike, second: ArrayLike) -> EvalResult:
    """Return Spearman's correlation with its 95 % bootstrap interval over instructions; every resample is ranked anew.

    Of more than 10,000 rows there are fewer resamples than 1,000, down to 100; one in which a column is constant is
    not part of the interval. Neither whole column is constant.
    """
    resamples = max(_FEWEST, min(_RESAMPLES, _WORK // np.size(first)))
    return bootstrap(rank_correlation, first, second, resamples=resamples)
