"""Length-controlled win rate of AlpacaEval 2.0 (Dubois et al. 2024), through scikit-learn's logistic regression."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from scipy import special

from tapir.domain.errors import DataError
from tapir.domain.evaluation import EvalResult
from tapir.evaluation.annotations import Annotation
from tapir.evaluation.held_out import Fields, json_rows, parse_rows
from tapir.evaluation.joint_difficulty import FEWEST_MODELS, estimate_together
from tapir.evaluation.statistics import Floats, percentile_interval

Method: TypeAlias = Literal["official files", "difficulty file", "joint difficulty", "length only"]
MEANING: Mapping[Method, str] = {
    "official files": "prompt difficulty and the gamed baselines from files, as the official regression",
    "difficulty file": "prompt difficulty from a file; the official regression also reads df_gamed.csv",
    "joint difficulty": "prompt difficulty from all models given together; published rates read it from"
    " instruction_difficulty.csv and df_gamed.csv: docs/evaluation.md says how far they are apart",
    "length only": "no prompt difficulty: only the length term is taken out; not comparable with published"
    " length-controlled rates, which read instruction_difficulty.csv and df_gamed.csv",
}
STRENGTHS = tuple(float(strength) for strength in np.logspace(-4, 4, 10))
FEWEST = 20
_FOLDS = 5
_CERTAIN = 1e-15
_LEAST_WINS = 0.5
_SUPPORT = 0.1  # share of longer and of shorter answers that a regression on one model's lengths needs
_RESAMPLES = 200
_GAMED_WEIGHT = 0.2 / 2  # the official regularisation towards the baseline, shared by two gamed baselines
_DIFFICULTY = "instruction_difficulty"


@dataclass(frozen=True, slots=True)
class LengthControlFiles:
    """What is known besides the annotations.

    Attributes:
        difficulty: of a prompt by its place; None where there is no such file.
        gamed: rows of df_gamed.csv, shape (rows, 3), or None: the baseline asked to be brief or verbose, against
            itself. The columns are the model's length less the baseline's (standardised and squashed by tanh), the
            difficulty of the prompt, and the preference, 0 to 1.
    """

    difficulty: Mapping[int, float] | None = None
    gamed: Floats | None = None


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """A length-controlled win rate; rates are 0 to 1.

    Attributes:
        rate: with its 95 % interval (bootstrap by prompt). Difficulties from a file are kept fixed; those of all models
            together are uncertain, and the interval says so.
        standard_error: of the bootstrap; NaN where there is none.
        length_effect: phi, log-odds per unit of the squashed length difference; above 0 the judge favours longer
            answers.
    """

    rate: EvalResult
    standard_error: float
    length_effect: float
    how: Method


def length_controlled_together(
    models: Mapping[str, Sequence[Annotation]], files: LengthControlFiles
) -> dict[str, LengthControlled | str]:
    """Return the rate of every model from its judged annotations, or as text why there is none.

    With difficulties from a file, or fewer than `FEWEST_MODELS` models that can be compared, each has a regression of
    its own; else all have one together.
    """
    arrays = {model: _arrays(rows) for model, rows in models.items()}
    usable = {model: each for model, each in arrays.items() if not _obstacle(*each, alone=False)}
    if files.difficulty is not None or len(usable) < FEWEST_MODELS:
        return {model: length_controlled(rows, files) for model, rows in models.items()}
    places = sorted({row.index for model in usable for row in models[model]})
    data = np.zeros((3, len(usable), len(places)))
    for at, (model, each) in enumerate(usable.items()):
        data[:, at, np.searchsorted(places, [row.index for row in models[model]])] = [*each, np.ones(len(each[0]))]
    values, drawn, effects = estimate_together(*data)
    rates: dict[str, LengthControlled | str] = {model: _obstacle(*each, alone=False) for model, each in arrays.items()}
    for model, value, draws, effect in zip(usable, values, drawn.T, effects, strict=True):
        rate = EvalResult(float(value), len(models[model]), *percentile_interval(draws))
        rates[model] = LengthControlled(rate, float(draws.std(ddof=1)), float(effect), "joint difficulty")
    return rates


def length_controlled(rows: Sequence[Annotation], files: LengthControlFiles) -> LengthControlled | str:
    """Return the rate of one model, from a regression on its judged annotations, or as text why there is none."""
    preference, length = _arrays(rows)
    if reason := _obstacle(preference, length, alone=files.difficulty is None):
        return reason
    if files.difficulty is None:
        return _regression([length], preference, None, "length only")
    missing = [row.index for row in rows if row.index not in files.difficulty]
    if missing:
        raise DataError(
            f"the difficulty file has no value for {len(missing):,} prompts; the first is at place {missing[0]}",
            remedy="Give the file that belongs to these prompts, or leave --difficulty out.",
        )
    difficulty = np.array([files.difficulty[row.index] for row in rows])
    method: Method = "difficulty file" if files.gamed is None else "official files"
    return _regression([length, difficulty], preference, files.gamed, method)


def _arrays(rows: Sequence[Annotation]) -> tuple[Floats, Floats]:
    """Return preferences, and length differences standardised and squashed by tanh."""
    preference = np.array([row.preference for row in rows], dtype=np.float64)
    difference = np.array([row.length - row.baseline_length for row in rows], dtype=np.float64)
    spread = float(np.std(difference, ddof=1)) if len(rows) > 1 else 0.0
    return preference, np.tanh(difference / spread) if spread > 0 else np.zeros(len(rows))


def _obstacle(preference: Floats, length: Floats, *, alone: bool) -> str:
    """Return why no regression can be made; empty where one can. `alone` is without difficulties."""
    n, longer, shorter = len(preference), float(np.mean(length > 0)), float(np.mean(length < 0))
    reasons = {
        f"all {n:,} comparisons are ties": np.all(preference == 0.5),  # noqa: PLR2004 (the middle of 0 to 1)
        f"{n:,} prompts are too few for a regression; it takes {FEWEST}": n < FEWEST,
        "the model wins nowhere, so its log-odds have no lower bound": preference.sum() < _LEAST_WINS,
        "the model wins everywhere, so its log-odds have no upper bound": (1 - preference).sum() < _LEAST_WINS,
        f"{100 * longer:.1f} % of its answers are longer than the baseline's and {100 * shorter:.1f} % shorter: "
        "without the difficulty of the prompts that says too little about equal lengths; give --difficulty, or"
        f" recorded annotations of {FEWEST_MODELS} or more models (--annotations)": (
            alone and min(longer, shorter) < _SUPPORT and longer + shorter > 0
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _regression(terms: Sequence[Floats], preference: Floats, gamed: Floats | None, method: Method) -> LengthControlled:
    """Fit one model's regression, and return its rate at equal lengths; the first term is the length."""
    n = len(preference)
    x, y, weight = np.column_stack([*terms, np.ones(n)]), preference, np.ones(n)
    equal = x.copy()
    equal[:, 0] = 0.0
    if gamed is not None:
        x = np.vstack([np.column_stack([gamed[:, :2], np.zeros(len(gamed))]), x])
        y, weight = np.concatenate([gamed[:, 2], y]), np.concatenate([np.full(len(gamed), _GAMED_WEIGHT), weight])
    strength, weights = fit(x, y, weight)
    rate = float(special.expit(equal @ weights).mean())
    if not math.isfinite(rate):
        raise DataError(
            "the regression behind the length-controlled win rate gave no finite rate",
            remedy="Look at the preferences: they may be separated perfectly by length. The raw rate stands.",
        )
    rng, first, rates = np.random.default_rng(0), len(y) - n, []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(n, size=n)
        rows = np.concatenate([np.arange(first), first + drawn])
        _, redone = fit(x[rows], y[rows], weight[rows], strength)
        rates.append(float(special.expit(equal[drawn] @ redone).mean()))
    resampled = np.array(rates)
    error = float(resampled[np.isfinite(resampled)].std(ddof=1))
    return LengthControlled(EvalResult(rate, n, *percentile_interval(resampled)), error, float(weights[0]), method)


def fit(x: Floats, y: Floats, weight: Floats, strength: float | None = None) -> tuple[float, Floats]:
    """Fit a logistic regression without intercept, with an L1 penalty (liblinear), as the official one.

    Preferences are shares, not yes or no: each row enters as a win with weight y and as a loss with weight 1 - y.

    Args:
        x: shape (n, terms).
        y: shares, shape (n,).
        weight: of each row, shape (n,).
        strength: inverse strength of the penalty; None chooses it from `STRENGTHS` by the cross-entropy over
            five folds, which both halves of a row fall into together.

    Returns:
        The strength used, and the coefficients.
    """
    from sklearn.linear_model import LogisticRegression

    if strength is None:
        strength = max(STRENGTHS, key=lambda each: _score(x, y, weight, each))
    model = LogisticRegression(
        C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=0, max_iter=1000
    )
    outcomes = np.repeat([1, 0], len(y))
    model.fit(np.vstack([x, x]), outcomes, sample_weight=np.concatenate([y, 1 - y]) * np.tile(weight, 2))
    return strength, np.asarray(model.coef_[0], dtype=np.float64)


def _score(x: Floats, y: Floats, weight: Floats, strength: float) -> float:
    """Return the mean over the folds of the mean weighted log-likelihood."""
    from sklearn.model_selection import GroupKFold

    rows = np.arange(len(y))
    scores = []
    for train, test in GroupKFold(min(_FOLDS, len(y))).split(np.r_[rows, rows], groups=np.r_[rows, rows]):
        chosen, left = train[train < len(y)], test[test < len(y)]
        guess = special.expit(x[left] @ fit(x[chosen], y[chosen], weight[chosen], strength)[1])
        sure = np.clip(guess, _CERTAIN, 1 - _CERTAIN)
        likelihood = y[left] * np.log(sure) + (1 - y[left]) * np.log(1 - sure)
        scores.append(float(np.mean(weight[left] * likelihood)))
    return float(np.mean(scores))


def read_files(difficulty: Path | None, gamed: Path | None) -> LengthControlFiles:
    """Read what the user has of the two official files; df_gamed.csv holds the difficulties too."""
    known, baseline = (None, None) if gamed is None else _read_gamed(gamed)
    if difficulty is not None:
        known = dict(parse_rows(json_rows(difficulty), _difficulty, str(difficulty), f"a place and {_DIFFICULTY}"))
    return LengthControlFiles(known, baseline)


def _difficulty(row: Fields) -> tuple[int, float]:
    """Return the place of a prompt and its difficulty; files of one's own may name the columns otherwise."""
    names = list(row)
    place = "index" if "index" in row else names[0]
    value = _DIFFICULTY if _DIFFICULTY in row or names[1:2] in ([], [place]) else names[1]
    return int(_number(row, place)), _number(row, value)


def _read_gamed(path: Path) -> tuple[dict[int, float], Floats]:
    """Return difficulties and rows of the gamed baseline; the file counts lengths as baseline less model."""
    known: dict[int, float] = {}

    def gamed(row: Fields) -> list[float] | None:
        known.setdefault(int(_number(row, "index")), _number(row, _DIFFICULTY))
        other, preference = str(row["not_gamed_baseline"] or ""), str(row["preference"] or "")
        if preference.strip() in {"", "nan", "NaN"}:
            return None
        if other.lower() not in {"false", "0", "0.0"}:
            raise ValueError("it is of no gamed baseline (not_gamed_baseline is not False)")
        return [-_number(row, "std_delta_len"), _number(row, _DIFFICULTY), _number(row, "preference", 0, 1)]

    rows = parse_rows(json_rows(path), gamed, str(path), "the columns of the official df_gamed.csv")
    used = np.array([row for row in rows if row])
    if not used.size:
        raise DataError(f"{path} has no row with a preference", remedy="Give the df_gamed.csv of the official package.")
    return known, np.column_stack([np.tanh(used[:, 0]), used[:, 1:]])


def _number(row: Fields, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    value = float(row[name])
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} is {row[name]!r}")
    return value
