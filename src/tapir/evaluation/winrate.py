"""The win rate of a model's answers against a baseline's, as AlpacaEval 2.0 defines it, with what can go wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tapir.domain.round import EvalResult
from tapir.evaluation.annotations import Annotation, judged, unjudged
from tapir.evaluation.resampling import bootstrap

_EVEN = 0.5


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the answers are, in characters, and how the longer one fares.

    Attributes:
        model: mean over the model's answers.
        baseline: mean over the baseline's.
        longer: share of the prompts where the model's answer is the longer one.
        rate_longer: win rate where it is; NaN where it never is.
        rate_shorter: win rate where it is the shorter one; NaN where it never is.
    """

    model: float
    baseline: float
    longer: float
    rate_longer: float
    rate_shorter: float


@dataclass(frozen=True, slots=True)
class WinRate:
    """A model against a baseline; rates are 0 to 1.

    Attributes:
        rate: mean preference, with its interval (bootstrap by prompt); NaN bounds where it cannot be had.
        standard_error: of the mean; NaN for a single prompt.
        wins: prompts where the judge prefers the model's answer, by however little.
        discrete: share of wins, a draw counted half.
        unjudged: reason and number of the prompts that were left out.
        failures: kind and number of the prompts that the model gave no answer to; each is a loss.
        flips: prompts where the judge's choice changed with the order, and prompts seen in both orders.
        shown_first: verdicts for the answer shown first, and verdicts.
        categories: rate by category, where the prompts carry one.
    """

    model: str
    baseline: str
    rate: EvalResult
    standard_error: float
    wins: int
    losses: int
    draws: int
    discrete: float
    lengths: Lengths
    unjudged: Mapping[str, int]
    failures: Mapping[str, int]
    flips: tuple[int, int]
    shown_first: tuple[int, int]
    categories: Mapping[str, EvalResult]


def win_rate(rows: Sequence[Annotation], *, seed: int, without_unjudged: bool = False) -> WinRate:
    """The rate over all prompts of the set.

    Args:
        rows: one model, one row for each prompt of the set, judged or not.
        seed: of the bootstrap.
        without_unjudged: leave out prompts that nobody judged; they are counted in the result.

    Raises:
        DataError: a prompt was not judged and may not be left out, or none was judged.
    """
    kept = judged(rows, without_unjudged=without_unjudged)
    values = [_preference(one) for one in kept]
    wins = sum(value > _EVEN for value in values)
    losses = sum(value < _EVEN for value in values)
    seen = [one.flipped for one in kept if one.flipped is not None]
    names = sorted({one.category for one in kept if one.category})
    return WinRate(
        model=kept[0].model,
        baseline=kept[0].baseline,
        rate=_rate(values, seed),
        standard_error=float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan,
        wins=wins,
        losses=losses,
        draws=len(values) - wins - losses,
        discrete=(wins + (len(values) - wins - losses) / 2) / len(values),
        lengths=_lengths(kept),
        unjudged=dict(unjudged(rows)),
        failures=dict(Counter(one.failure for one in kept if one.failure)),
        flips=(sum(seen), len(seen)),
        shown_first=(sum(one.shown_first[0] for one in kept), sum(one.shown_first[1] for one in kept)),
        categories={
            name: _rate([_preference(one) for one in kept if one.category == name], seed)
            for name in names
            if len(names) > 1
        },
    )


def _preference(one: Annotation) -> float:
    if one.preference is None:
        raise ValueError(f"prompt {one.index} was not judged")
    return one.preference


def _rate(values: Sequence[float], seed: int) -> EvalResult:
    """The mean with its interval; equal values have none, since resampling them would feign certainty."""
    if len(set(values)) == 1:
        return EvalResult(values[0], len(values), math.nan, math.nan)
    return bootstrap(np.mean, values, seed=seed)


def _lengths(kept: Sequence[Annotation]) -> Lengths:
    def rate(fits: Callable[[Annotation], bool]) -> float:
        chosen = [_preference(one) for one in kept if fits(one)]
        return float(np.mean(chosen)) if chosen else math.nan

    return Lengths(
        model=float(np.mean([one.length for one in kept])),
        baseline=float(np.mean([one.baseline_length for one in kept])),
        longer=float(np.mean([one.length > one.baseline_length for one in kept])),
        rate_longer=rate(lambda one: one.length > one.baseline_length),
        rate_shorter=rate(lambda one: one.length < one.baseline_length),
    )
