"""The regressions behind the length-controlled win rate, through scikit-learn's logistic regression.

Preferences are shares, not yes or no: each row enters twice, as a win with weight y and as a loss with weight 1 - y,
which gives the cross-entropy of a share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STRENGTHS = tuple(float(one) for one in np.logspace(-4, 4, 10))
SPREADS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Prior variances of the prompts' difficulty (log-odds squared) that cross-validation chooses from."""

_FOLDS = 5
_FREE = 30.0  # standard deviation of a prior that hardly holds a term
_OWN = 1.0  # standard deviation of how far a model's slope lies from the common one
_CERTAIN = 1e-15


@dataclass(frozen=True, slots=True)
class Column:
    """One model's rows.

    Attributes:
        prompt: place of each prompt, shape (n,).
        preference: 0 to 1, shape (n,).
        length: squashed length difference, -1 to 1, shape (n,).
    """

    prompt: NDArray[np.int64]
    preference: Floats
    length: Floats


@dataclass(frozen=True, slots=True)
class Together:
    """Terms of all models.

    Attributes:
        ability: theta, shape (models,).
        length: phi.
        slope: psi.
    """

    ability: Floats
    length: Floats
    slope: Floats

    def rate(
        self, turn: int, column: Column, difficulty: Mapping[int, float], drawn: Mapping[int, float] | None = None
    ) -> float:
        """Mean probability of a win at equal lengths over a model's prompts, each as often as it was drawn."""
        gamma = np.array([difficulty[int(place)] for place in column.prompt])
        weight = None if drawn is None else np.array([drawn[int(place)] for place in column.prompt])
        if weight is not None and weight.sum() == 0:
            return float("nan")
        chances = logistic(self.ability[turn] + self.slope[turn] * gamma)
        return float(np.average(chances, weights=weight))


def logistic(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    from scipy.special import expit

    found: Floats = expit(x)
    return found


def fit_alone(x: Floats, y: Floats, weight: Floats, strength: float | None = None) -> tuple[float, Floats]:
    """A logistic regression without intercept, with an L1 penalty (liblinear), as the official one.

    Args:
        x: shape (n, terms).
        y: shares, shape (n,).
        weight: of each row, shape (n,).
        strength: inverse strength of the penalty; None chooses it from `STRENGTHS` by the cross-entropy over
            five folds, which both halves of a row fall into together.

    Returns:
        The strength used, and the coefficients.
    """
    if strength is None:
        strength = max(STRENGTHS, key=lambda one: _score(x, y, weight, one))
    return strength, _lasso(x, y, weight, strength)


def _score(x: Floats, y: Floats, weight: Floats, strength: float) -> float:
    """Mean over the folds of the mean weighted log-likelihood."""
    from sklearn.model_selection import GroupKFold

    rows = np.arange(len(y))
    scores = []
    for train, test in GroupKFold(min(_FOLDS, len(y))).split(np.r_[rows, rows], groups=np.r_[rows, rows]):
        chosen, left = train[train < len(y)], test[test < len(y)]
        guess = logistic(x[left] @ _lasso(x[chosen], y[chosen], weight[chosen], strength))
        scores.append(float(np.mean(weight[left] * _likelihood(y[left], guess))))
    return float(np.mean(scores))


def _lasso(x: Floats, y: Floats, weight: Floats, strength: float) -> Floats:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=0, max_iter=1000
    )
    model.fit(np.vstack([x, x]), _outcomes(len(y)), sample_weight=np.concatenate([y, 1 - y]) * np.tile(weight, 2))
    found: Floats = model.coef_[0]
    return found


def _outcomes(n: int) -> NDArray[np.int64]:
    return np.repeat([1, 0], n)


def _likelihood(y: Floats, guess: Floats) -> Floats:
    sure = np.clip(guess, _CERTAIN, 1 - _CERTAIN)
    found: Floats = y * np.log(sure) + (1 - y) * np.log(1 - sure)
    return found


def shared_difficulty(columns: Sequence[Column]) -> dict[int, float]:
    """Difficulty of every prompt, estimated from all models with psi fixed to 1 (Dubois et al. 2024, section 4).

    The prior of a model's theta is wide, its length slope lies around a common one with variance 1, and the variance
    of the difficulties is the one of `SPREADS` that predicts held-out rows best (five folds over all rows).
    """
    rows = _stacked(columns)
    places = np.unique(rows.prompt)
    folds = np.random.default_rng(0).permutation(len(rows.y)) % _FOLDS

    def score(spread: float) -> float:
        x = _joint_design(rows, len(columns), places, spread)
        total = 0.0
        for fold in range(_FOLDS):
            train, test = folds != fold, folds == fold
            weights = _ridge(x[train], rows.y[train], np.ones(int(train.sum())))
            total += float(_likelihood(rows.y[test], logistic(x[test] @ weights)).sum())
        return total

    spread = _climbed(score)
    weights = _ridge(_joint_design(rows, len(columns), places, spread), rows.y, np.ones(len(rows.y)))
    gamma = weights[-len(places) :] * np.sqrt(spread)
    return {int(place): float(value) for place, value in zip(places, gamma, strict=True)}


def _climbed(score: Callable[[float], float]) -> float:
    """The best of `SPREADS`, by climbing from the middle; the score has one peak."""
    turn = len(SPREADS) // 2
    scores = {turn: score(SPREADS[turn])}
    while True:
        for near in {max(0, turn - 1), min(len(SPREADS) - 1, turn + 1)} - scores.keys():
            scores[near] = score(SPREADS[near])
        best = max(scores, key=lambda one: scores[one])
        if best == turn:
            return SPREADS[turn]
        turn = best


def fit_together(
    columns: Sequence[Column],
    difficulty: Mapping[int, float],
    drawn: Mapping[int, float] | None = None,
) -> Together:
    """Theta, phi and psi of every model; phi and psi lie around common values with variance 1.

    Pooling matters for a model whose answers are nearly all shorter (or longer) than the baseline's: its own rows say
    little about equal lengths.

    Args:
        columns: the models.
        difficulty: of every prompt.
        drawn: how often each prompt counts; None is once.
    """
    rows, count = _stacked(columns), len(columns)
    gamma = np.array([difficulty[int(place)] for place in rows.prompt])
    weight = np.ones(len(rows.y)) if drawn is None else np.array([drawn[int(place)] for place in rows.prompt])
    own = np.eye(count)[rows.model]
    blocks = [own * _FREE]
    for term in (rows.length, gamma):
        blocks += [term[:, None] * _FREE, own * term[:, None] * _OWN]
    raw = _ridge(np.hstack(blocks), rows.y, weight)
    ability, rest = raw[:count] * _FREE, raw[count:]
    length = rest[0] * _FREE + rest[1 : 1 + count] * _OWN
    slope = rest[1 + count] * _FREE + rest[2 + count :] * _OWN
    return Together(ability, length, slope)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of all models, one below the other."""

    model: NDArray[np.int64]
    prompt: NDArray[np.int64]
    y: Floats
    length: Floats


def _stacked(columns: Sequence[Column]) -> _Rows:
    return _Rows(
        np.concatenate([np.full(len(one.preference), turn) for turn, one in enumerate(columns)]),
        np.concatenate([one.prompt for one in columns]),
        np.concatenate([one.preference for one in columns]),
        np.concatenate([one.length for one in columns]),
    )


def _joint_design(rows: _Rows, count: int, places: NDArray[np.int64], spread: float) -> Any:
    """Sparse matrix (rows, terms): abilities, common length slope, own length slopes, difficulties."""
    from scipy import sparse

    n = len(rows.y)
    own = sparse.csr_matrix((np.ones(n), (np.arange(n), rows.model)), shape=(n, count))
    where = np.searchsorted(places, rows.prompt)
    prompts = sparse.csr_matrix((np.ones(n), (np.arange(n), where)), shape=(n, len(places)))
    length = sparse.diags(rows.length)
    slopes = sparse.csr_matrix(rows.length[:, None] * _FREE)
    return sparse.hstack([own * _FREE, slopes, length @ own * _OWN, prompts * np.sqrt(spread)]).tocsr()


def _ridge(x: Any, y: Floats, weight: Floats) -> Floats:
    """A logistic regression whose terms all have the prior N(0, 1); the columns carry the scale."""
    from sklearn.linear_model import LogisticRegression

    wins, losses = np.flatnonzero(y * weight), np.flatnonzero((1 - y) * weight)  # rows without weight only cost time
    rows = np.concatenate([wins, losses])
    model = LogisticRegression(C=1.0, fit_intercept=False, max_iter=1000, solver="newton-cg")
    outcomes = np.repeat([1, 0], [len(wins), len(losses)])
    model.fit(x[rows], outcomes, sample_weight=np.concatenate([(y * weight)[wins], ((1 - y) * weight)[losses]]))
    found: Floats = model.coef_[0]
    return found
