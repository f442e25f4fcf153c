"""The length-controlled win rate (Dubois et al. 2024, arXiv 2404.04475): what the rate would be at equal lengths.

The log-odds that a judge prefers model m's answer to prompt x are taken to be

    theta_m + phi_m tanh((length - baseline's length) / their standard deviation) + psi_m gamma_x

with gamma_x the difficulty of the prompt; the rate is the mean over all prompts with the length term set to 0.
How the terms are fitted depends on what there is, and every result says which way it was (`How`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tapir.domain.round import EvalResult
from tapir.errors import DataError
from tapir.evaluation.annotations import Annotation
from tapir.evaluation.length_fit import Column, fit_alone, fit_together, logistic, shared_difficulty

How: TypeAlias = Literal["official files", "difficulty file", "joint difficulty", "length only"]
MEANING: Mapping[How, str] = {
    "official files": "prompt difficulty and the gamed baselines from files, as the official regression",
    "difficulty file": "prompt difficulty from a file; the official regression also reads df_gamed.csv",
    "joint difficulty": "prompt difficulty estimated from all models given, length effects partly pooled; the official"
    " regression reads it from instruction_difficulty.csv and df_gamed.csv",
    "length only": "no prompt difficulty: only the length term is taken out; not comparable with published"
    " length-controlled rates",
}
FEWEST = 20
_LEAST_WINS = 0.5
_SUPPORT = 0.1  # share of longer and of shorter answers that a regression on one model's lengths needs
_RESAMPLES = 200
_BASELINES_GAMED, _GAMED_WEIGHT = 2, 0.2  # the official regularisation towards the baseline


@dataclass(frozen=True, slots=True)
class Gamed:
    """Rows of df_gamed.csv: the baseline told to be brief or verbose, against itself.

    Attributes:
        length: the model's length less the baseline's, standardised and squashed (tanh).
        difficulty: of the prompt.
        preference: 0 to 1.
    """

    length: NDArray[np.float64]
    difficulty: NDArray[np.float64]
    preference: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """A length-controlled win rate; rates are 0 to 1.

    Attributes:
        rate: with its 95 % interval (bootstrap by prompt; the difficulty of the prompts is kept fixed).
        standard_error: of the bootstrap; NaN where there is none.
        length_effect: phi, log-odds per unit of the squashed length difference; above 0 the judge favours longer
            answers. None where nothing was fitted.
    """

    rate: EvalResult
    standard_error: float
    length_effect: float | None
    how: How


@dataclass(frozen=True, slots=True)
class NotComputed:
    """Why a model has no length-controlled win rate."""

    reason: str


@dataclass(frozen=True, slots=True)
class Given:
    """What is known beside the annotations.

    Attributes:
        difficulty: of a prompt by its place; None where there is no such file.
        gamed: rows of df_gamed.csv; None where there is no such file.
    """

    difficulty: Mapping[int, float] | None = None
    gamed: Gamed | None = None


def length_controlled(
    models: Mapping[str, Sequence[Annotation]], given: Given, *, seed: int
) -> dict[str, LengthControlled | NotComputed]:
    """The rate of every model, or why there is none.

    With a difficulty file each model has a regression of its own, with the gamed rows where there are any. Without,
    and with at least two models, difficulty is estimated from all of them. A single model without a file has its
    length term taken out and nothing else.

    Args:
        models: judged annotations by model, against one baseline.
        given: files that the user has.
        seed: of the bootstrap.

    Raises:
        DataError: a prompt has no difficulty in the file.
    """
    found: dict[str, LengthControlled | NotComputed] = {}
    usable: dict[str, Column] = {}
    for model, rows in models.items():
        column = _column(rows)
        refusal = _refusal(column)
        if refusal is not None:
            found[model] = refusal
        else:
            usable[model] = column
    if given.difficulty is not None:
        how: How = "difficulty file" if given.gamed is None else "official files"
        found |= {
            name: _alone(one, _looked_up(one, given.difficulty), given.gamed, how, seed) for name, one in usable.items()
        }
    elif len(usable) == 1:
        found |= {name: _length_only(one, seed) for name, one in usable.items()}
    elif usable:
        found |= _together(usable, seed)
    return {model: found[model] for model in models}


def _column(rows: Sequence[Annotation]) -> Column:
    """The rows of one model as arrays; the length difference squashed as in the paper."""
    preference = np.array([one.preference for one in rows], dtype=np.float64)
    difference = np.array([one.length - one.baseline_length for one in rows], dtype=np.float64)
    spread = float(np.std(difference, ddof=1)) if len(rows) > 1 else 0.0
    length = np.tanh(difference / spread) if spread > 0 else np.zeros(len(rows))
    return Column(np.array([-1 if one.index is None else one.index for one in rows]), preference, length)


def _refusal(column: Column) -> LengthControlled | NotComputed | None:
    """What can be said without a regression; None where one is to be made."""
    y = column.preference
    if np.all(y == 0.5):  # noqa: PLR2004 (the middle of 0 to 1)
        return NotComputed(f"all {len(y):,} comparisons are ties")
    if len(y) < FEWEST:
        return NotComputed(f"{len(y):,} prompts are too few for a regression; it takes {FEWEST}")
    if y.sum() < _LEAST_WINS:
        return NotComputed("the model wins nowhere, so its log-odds have no lower bound")
    if (1 - y).sum() < _LEAST_WINS:
        return NotComputed("the model wins everywhere, so its log-odds have no upper bound")
    return None


def _length_only(column: Column, seed: int) -> LengthControlled | NotComputed:
    """A rate for a single model without difficulties, unless equal lengths lie beyond what its answers show."""
    longer, shorter = float(np.mean(column.length > 0)), float(np.mean(column.length < 0))
    if min(longer, shorter) < _SUPPORT and longer + shorter > 0:
        return NotComputed(
            f"{100 * longer:.1f} % of its answers are longer than the baseline's and {100 * shorter:.1f} % shorter: "
            "without the difficulty of the prompts that says too little about equal lengths; give recorded annotations "
            "of other models (--annotations) or --difficulty"
        )
    return _alone(column, None, None, "length only", seed)


def _looked_up(column: Column, difficulty: Mapping[int, float]) -> NDArray[np.float64]:
    missing = [int(place) for place in column.prompt if int(place) not in difficulty]
    if missing:
        raise DataError(
            f"the difficulty file has no value for {len(missing):,} prompts; the first is at place {missing[0]}",
            remedy="Give the file that belongs to these prompts, or leave --difficulty out.",
        )
    return np.array([difficulty[int(place)] for place in column.prompt])


def _alone(
    column: Column, difficulty: NDArray[np.float64] | None, gamed: Gamed | None, how: How, seed: int
) -> LengthControlled:
    """One model's own regression: penalised by the sum of absolute values, its strength from cross-validation."""
    n = len(column.preference)
    terms = [column.length, np.ones(n)] if difficulty is None else [column.length, difficulty, np.ones(n)]
    x, y, weight = np.column_stack(terms), column.preference, np.ones(n)
    at_equal_lengths = x.copy()
    at_equal_lengths[:, 0] = 0.0
    if gamed is not None:
        more = np.column_stack([gamed.length, gamed.difficulty, np.zeros(len(gamed.length))])
        x, y = np.vstack([more, x]), np.concatenate([gamed.preference, y])
        weight = np.concatenate([np.full(len(more), _GAMED_WEIGHT / _BASELINES_GAMED), weight])
    strength, weights = fit_alone(x, y, weight)
    dice, found = np.random.default_rng(seed), []
    first = len(y) - n
    for _ in range(_RESAMPLES):
        drawn = dice.integers(n, size=n)
        rows = np.concatenate([np.arange(first), first + drawn])
        _, redone = fit_alone(x[rows], y[rows], weight[rows], strength)
        found.append(float(logistic(at_equal_lengths[drawn] @ redone).mean()))
    return _result(float(logistic(at_equal_lengths @ weights).mean()), n, found, float(weights[0]), how)


def _together(models: Mapping[str, Column], seed: int) -> dict[str, LengthControlled]:
    """All models at once; see `tapir.evaluation.length_fit`."""
    columns = list(models.values())
    difficulty = shared_difficulty(columns)
    fitted = fit_together(columns, difficulty)
    places = sorted({int(place) for one in columns for place in one.prompt})
    dice, found = np.random.default_rng(seed), []
    for _ in range(_RESAMPLES):
        counts = np.bincount(dice.integers(len(places), size=len(places)), minlength=len(places))
        drawn = dict(zip(places, counts.astype(float), strict=True))
        again = fit_together(columns, difficulty, drawn)
        found.append([again.rate(turn, columns[turn], difficulty, drawn) for turn in range(len(columns))])
    spread = np.array(found)
    return {
        name: _result(
            fitted.rate(turn, columns[turn], difficulty),
            len(columns[turn].preference),
            spread[:, turn],
            float(fitted.length[turn]),
            "joint difficulty",
        )
        for turn, name in enumerate(models)
    }


def _result(
    rate: float, n: int, resampled: Sequence[float] | NDArray[np.float64], effect: float, how: How
) -> LengthControlled:
    values = np.asarray(resampled)
    values = values[np.isfinite(values)]
    if not math.isfinite(rate):
        raise DataError(
            "the regression behind the length-controlled win rate gave no finite rate",
            remedy="Look at the preferences: they may be separated perfectly by length. The raw rate stands.",
        )
    low, high = np.percentile(values, [2.5, 97.5]) if values.size > 1 else (math.nan, math.nan)
    error = float(values.std(ddof=1)) if values.size > 1 else math.nan
    return LengthControlled(EvalResult(rate, n, float(low), float(high)), error, effect, how)
