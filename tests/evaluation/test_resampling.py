"""Intervals and tests beside those of scipy, by brute force, and by how often they are right."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tapir.evaluation.resampling import EXACT, bootstrap, holm, mean_over_seeds, sign_flip
from tests.domain.strategies import properties

DICE = np.random.default_rng(3)
tenths = st.lists(st.integers(-8, 8), min_size=1, max_size=9)


def mean(values: np.ndarray) -> float:
    return float(np.mean(values))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(a, b)[0, 1])


# The bootstrap


def test_the_interval_of_a_mean_is_that_of_scipy() -> None:
    values = DICE.exponential(size=80)
    found = bootstrap(mean, values, resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert (found.value, found.n) == pytest.approx((values.mean(), 80))
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.015)


def test_the_rows_of_several_columns_are_drawn_together() -> None:
    a = DICE.normal(size=120)
    b = 0.8 * a + 0.6 * DICE.normal(size=120)
    found = bootstrap(correlation, a, b, resamples=8_000)
    theirs = stats.bootstrap(
        (a, b), correlation, paired=True, vectorized=False, n_resamples=8_000, method="percentile", rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    dice = np.random.default_rng(11)
    hits = 0
    for turn in range(300):
        found = bootstrap(mean, dice.binomial(1, 0.4, size=60), resamples=300, seed=turn)
        hits += found.low <= 0.4 <= found.high
    assert 0.90 <= hits / 300 <= 0.98


def test_whole_clusters_are_drawn_and_that_is_wider_where_their_rows_agree() -> None:
    dice = np.random.default_rng(5)
    groups = np.repeat(np.arange(30), 10)
    values = np.repeat(dice.normal(size=30), 10)
    by_row, by_cluster = bootstrap(mean, values), bootstrap(mean, values, groups=list(groups))
    alone = bootstrap(mean, values[::10])
    assert by_cluster.value == pytest.approx(by_row.value)
    assert by_cluster.high - by_cluster.low > 2.5 * (by_row.high - by_row.low)
    assert (by_cluster.low, by_cluster.high) == pytest.approx((alone.low, alone.high), abs=1e-9)
    assert by_cluster.n == 300


def test_with_clusters_the_interval_holds_the_truth_and_without_it_does_not() -> None:
    dice = np.random.default_rng(7)
    groups = list(np.repeat(np.arange(25), 4))
    hits = {"clusters": 0, "rows": 0}
    for turn in range(150):
        values = np.repeat(dice.normal(size=25), 4) + 0.3 * dice.normal(size=100)
        for name, by in (("clusters", groups), ("rows", None)):
            found = bootstrap(mean, values, groups=by, resamples=200, seed=turn)
            hits[name] += found.low <= 0 <= found.high
    assert hits["clusters"] / 150 >= 0.88
    assert hits["rows"] / 150 <= 0.8


def test_clusters_may_have_names_and_stand_in_any_order() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    one = bootstrap(mean, values, groups=["a", "b", "a", "b"])
    assert one == bootstrap(mean, values, groups=[("x", 1), None, ("x", 1), None])
    assert (one.low, one.high) == (2.0, 3.0)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = DICE.normal(size=20)
    assert bootstrap(mean, values, seed=4) == bootstrap(mean, values, seed=4) != bootstrap(mean, values, seed=5)


def test_one_row_or_one_cluster_has_a_value_and_no_interval() -> None:
    for found in (bootstrap(mean, [0.5]), bootstrap(mean, [0.4, 0.6], groups=["a", "a"])):
        assert found.value == 0.5
        assert math.isnan(found.low)
        assert math.isnan(found.high)


def test_draws_without_the_statistic_are_left_out_of_the_interval() -> None:
    a, b = [0.0, 1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0, 0.0]
    found = bootstrap(correlation, a, b)
    assert math.isfinite(found.low)
    assert math.isfinite(found.high)
    never = bootstrap(correlation, [1.0, 1.0], [0.0, 1.0])
    assert all(map(math.isnan, (never.value, never.low, never.high)))


@pytest.mark.parametrize("columns", [([],), ([1.0, 2.0], [1.0])])
def test_columns_without_rows_or_of_different_lengths_are_refused(columns: tuple[list[float], ...]) -> None:
    with pytest.raises(ValueError, match="have no statistic"):
        bootstrap(mean, *columns)


def test_groups_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="1 groups for 2 rows"):
        bootstrap(mean, [1.0, 2.0], groups=["a"])


# Flipping signs


@properties
@given(tenths)
def test_the_p_value_is_that_of_all_sign_patterns(found: list[int]) -> None:
    """In whole numbers there is no rounding; a tenth of each is not exact, and must not matter."""
    there = [one for one in found if one]
    patterns = itertools.product((1, -1), repeat=len(there))
    sums = [abs(sum(sign * one for sign, one in zip(signs, there, strict=True))) for signs in patterns]
    exact = float(np.mean([one >= abs(sum(there)) for one in sums]))
    assert sign_flip(found) == pytest.approx(exact)
    assert sign_flip([one * 0.1 for one in found]) == pytest.approx(exact)
    assert sign_flip([-one * 1e6 for one in found]) == pytest.approx(exact)


def test_it_is_the_permutation_test_of_scipy() -> None:
    differences = DICE.normal(0.4, 1, size=10)
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=False, n_resamples=np.inf
    )
    assert sign_flip(differences) == pytest.approx(theirs.pvalue)


def test_above_the_limit_a_sample_comes_close_to_all_patterns() -> None:
    values = np.random.default_rng(2).normal(0.35, 1, size=16)
    patterns = 1 - 2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1)
    exact = float(np.mean(abs(patterns @ values) >= abs(values.sum()) - 1e-9))
    assert len(values) > EXACT
    assert sign_flip(values, resamples=40_000) == pytest.approx(exact, abs=0.01)
    assert sign_flip(values, seed=1) == sign_flip(values, seed=1)


def test_a_sampled_p_value_is_never_zero() -> None:
    assert sign_flip(np.ones(60), resamples=999) == pytest.approx(1 / 1000)


def test_under_the_null_small_p_values_are_as_rare_as_they_say() -> None:
    dice = np.random.default_rng(9)
    found = np.array([sign_flip(dice.normal(size=8)) for _ in range(600)])
    assert np.mean(found <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(found <= 0.5) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(("differences", "p"), [([], 1), ([0, 0], 1), ([1], 1), ([1, 1], 0.5), ([2, 0, 2, 2], 0.25)])
def test_few_differences_cannot_give_a_small_p_value(differences: list[float], p: float) -> None:
    assert sign_flip(differences) == p


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_difference_that_is_not_finite_is_refused(odd: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        sign_flip([1.0, odd])


# Holm


@properties
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_rule(found: list[float]) -> None:
    named = {str(place): p for place, p in enumerate(found)}
    adjusted = holm(named)
    so_far = 0.0
    for rank, name in enumerate(sorted(named, key=named.__getitem__)):
        so_far = max(so_far, min(1.0, (len(found) - rank) * named[name]))
        assert adjusted[name] == pytest.approx(so_far)
        assert adjusted[name] >= named[name]
    assert list(adjusted) == list(named)


def test_holm_of_one_is_itself_and_of_none_is_none() -> None:
    assert holm({"a": 0.04}) == {"a": 0.04}
    assert holm({}) == {}


# Means over seeds


@properties
@given(st.lists(st.integers(0, 100).map(lambda percent: percent / 100), min_size=2, max_size=8))
def test_a_mean_over_seeds_has_students_interval(values: list[float]) -> None:
    found = mean_over_seeds(values)
    assert (found.value, found.n) == pytest.approx((np.mean(values), len(values)))
    if len(set(values)) > 1:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert (found.low, found.high) == pytest.approx((low, high))
    else:
        assert found.low == pytest.approx(found.high) == pytest.approx(found.value)


def test_a_single_seed_has_no_interval_and_none_is_an_error() -> None:
    found = mean_over_seeds([0.3])
    assert (found.value, found.n) == (0.3, 1)
    assert math.isnan(found.low)
    with pytest.raises(ValueError, match="at least one run"):
        mean_over_seeds([])
