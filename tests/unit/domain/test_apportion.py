from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.strategies import weights, weights_or_zero
from tapir.domain.apportion import apportion

totals = st.integers(0, 5000)
several_weights = st.lists(weights, min_size=1, max_size=12)
several_weights_or_zeros = st.lists(weights_or_zero, min_size=1, max_size=12)


@st.composite
def bounded(draw: st.DrawFn) -> tuple[list[float], int, list[int], list[int]]:
    """Weights, a total, and a lower and an upper bound for each."""
    found = draw(several_weights_or_zeros)
    low = [draw(st.integers(0, 30)) for _ in found]
    high = [least + draw(st.integers(0, 60)) for least in low]
    return found, draw(st.integers(0, 600)), low, high


@given(several_weights_or_zeros.filter(any), totals)
def test_each_count_is_within_one_of_its_exact_share(found: list[float], total: int) -> None:
    exact = total * np.array(found) / sum(found)
    assert np.all(np.abs(apportion(found, total) - exact) < 1 + 1e-6)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=10), totals)
def test_the_largest_remainders_are_rounded_up(found: list[int], total: int) -> None:
    counts = [int(count) for count in apportion(found, total)]
    exact = [Fraction(total * weight, sum(found)) for weight in found]
    remainders = [share - share.__floor__() for share in exact]
    ups = [one for one, share, count in zip(remainders, exact, counts, strict=True) if count > share]
    downs = [one for one, share, count in zip(remainders, exact, counts, strict=True) if count < share]
    assert min(ups, default=Fraction(1)) >= max(downs, default=Fraction(0))


@given(several_weights, totals, st.integers(-30, 30))
def test_neither_the_unit_of_the_weights_nor_bounds_that_do_not_bind_change_a_count(
    found: list[float], total: int, power: int
) -> None:
    in_another_unit = [weight * 2.0**power for weight in found]
    assert apportion(in_another_unit, total).tolist() == apportion(found, total).tolist()
    wide = apportion(found, total, low=[0] * len(found), high=[total + 1] * len(found))
    assert wide.tolist() == apportion(found, total).tolist()


@given(st.lists(st.floats(0, 1e100), min_size=1, max_size=6).filter(any), st.integers(0, 100))
@example([1.0, 1.0, 1e-100], 10)
def test_weights_of_very_different_size_still_sum_to_the_total(found: list[float], total: int) -> None:
    assert apportion(found, total).sum() == total


@given(several_weights, st.integers(0, 2000))
def test_a_larger_weight_never_gets_less(found: list[float], total: int) -> None:
    by_weight = sorted(zip(found, apportion(found, total), strict=True))
    assert all(less[1] <= more[1] for less, more in pairwise(by_weight) if less[0] < more[0] * (1 - 1e-9))


@given(bounded())
def test_bounds_are_kept_the_sum_is_the_nearest_they_allow_and_what_one_takes_goes_to_the_others_in_proportion(
    case: tuple[list[float], int, list[int], list[int]],
) -> None:
    found, total, low, high = case
    counts = apportion(found, total, low=low, high=high)
    assert np.all(counts >= low)
    assert np.all(counts <= high)
    reachable = [(least, most if weight > 0 else least) for weight, least, most in zip(found, low, high, strict=True)]
    nearest = min(max(total, sum(least for least, _ in reachable)), sum(most for _, most in reachable))
    assert counts.sum() == nearest
    assert all(count == least for count, weight, least in zip(counts, found, low, strict=True) if weight == 0)
    # What a bound takes goes to the others in proportion: one factor λ explains all counts, each is clip(λ·weight,
    # low, high), rounded to a neighbour.
    rows = [row for row in zip(found, counts, low, high, strict=True) if row[0] > 0]
    at_least = max(((count - 1) / weight for weight, count, least, _ in rows if count > least), default=0.0)
    at_most = min(((count + 1) / weight for weight, count, _, most in rows if count < most), default=float("inf"))
    assert at_least <= at_most * (1 + 1e-6)


def test_equal_weights_give_the_rest_to_the_first_and_without_a_weight_there_is_nothing() -> None:
    assert apportion([1, 1, 1], 5).tolist() == [2, 2, 1]
    assert apportion([2, 1, 1], 20, high=[4, 100, 100]).tolist() == [4, 8, 8], "what a bound takes is passed on"
    assert apportion([], 5).tolist() == []
    assert apportion([0, 0], 5).tolist() == [0, 0]


@pytest.mark.parametrize("bad", [[-1.0, 2.0], [float("nan"), 1.0], [float("inf"), 1.0], [[1.0, 2.0]]])
def test_weights_that_are_no_weights_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be finite and non-negative"):
        apportion(bad, 3)
