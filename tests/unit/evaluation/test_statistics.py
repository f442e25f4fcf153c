"""Bootstrap intervals, sign-flip tests and Holm's correction: what is ours around scipy and statsmodels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.evaluation.statistics import bootstrap, holm, mean_over_seeds, sign_flip, summarise

RNG = np.random.default_rng(3)
tenths = st.lists(st.integers(-8, 8), min_size=1, max_size=9)


def mean(values: np.ndarray) -> float:
    return float(np.mean(values))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(a, b)[0, 1])


# A success rate over tasks


@pytest.mark.parametrize("sizes", [[1] * 33, [60, 30, 15, 8, 4, 2, *[1] * 15]])
@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_the_interval_of_the_mean_of_tasks_holds_the_truth_however_few_prompts_a_task_has(
    sizes: list[int], rate: float
) -> None:
    rng, trials, inside = np.random.default_rng(7), 150, 0
    tasks = [str(task) for task, size in enumerate(sizes) for _ in range(size)]
    for _ in range(trials):
        drawn = rng.random(len(tasks)) < rate
        overall = summarise("held-out", 0, list(zip(tasks, drawn.tolist(), strict=True))).overall
        inside += overall.low <= rate <= overall.high
    assert inside / trials >= 0.9


# The bootstrap


def test_whole_clusters_are_drawn_and_that_is_wider_where_their_rows_agree() -> None:
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(30), 10)
    values = np.repeat(rng.normal(size=30), 10)
    by_row, by_cluster = bootstrap(mean, values), bootstrap(mean, values, groups=list(groups))
    alone = bootstrap(mean, values[::10])
    assert by_cluster.value == pytest.approx(by_row.value)
    assert by_cluster.high - by_cluster.low > 2.5 * (by_row.high - by_row.low)
    assert (by_cluster.low, by_cluster.high) == pytest.approx((alone.low, alone.high), abs=1e-9)
    assert by_cluster.n == 300


def test_clusters_may_have_names_and_stand_in_any_order() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    one = bootstrap(mean, values, groups=["a", "b", "a", "b"])
    assert one == bootstrap(mean, values, groups=[("x", 1), None, ("x", 1), None])
    assert (one.low, one.high) == (2.0, 3.0)


def test_the_same_values_have_the_same_interval_every_time() -> None:
    values = RNG.normal(size=20)
    assert bootstrap(mean, values) == bootstrap(mean, values)


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
    with pytest.raises(ValueError, match="have no statistic"):
        bootstrap(mean, [1.0, 2.0], groups=["a"])


# Flipping signs


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


def test_a_sampled_p_value_comes_close_to_that_of_all_patterns_and_is_never_zero() -> None:
    values = np.random.default_rng(2).normal(0.35, 1, size=16)
    exact = sign_flip(values, resamples=2**16)
    assert exact != sign_flip(values) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 20_000))
    assert sign_flip(np.ones(60), resamples=999) == pytest.approx(1 / 1000)


ROUNDED = [([0.1, 0.2, -0.3], 1), ([0.1, 0.2, -0.1, -0.2], 1)]  # 0.1 + 0.2 is more than 0.3, and no difference


@pytest.mark.parametrize(
    ("differences", "p"), [([], 1), ([0, 0], 1), ([1], 1), ([1, 1], 0.5), ([2, 0, 2, 2], 0.25), *ROUNDED]
)
def test_few_differences_or_rounding_cannot_give_a_small_p_value(differences: list[float], p: float) -> None:
    assert sign_flip(differences) == p


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_difference_that_is_not_finite_is_refused(odd: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        sign_flip([1.0, odd])


# Holm


def test_holms_p_values_keep_their_names_and_order() -> None:
    assert holm({"a": 0.04}) == {"a": 0.04}
    adjusted = holm({"c": 0.03, "a": 0.5, "b": 0.01})
    assert list(adjusted) == ["c", "a", "b"]
    assert list(adjusted.values()) == pytest.approx([0.06, 0.5, 0.03])
    assert holm({}) == {}


# Means over seeds


def test_equal_runs_have_an_interval_without_width() -> None:
    result = mean_over_seeds([0.25] * 3)
    assert (result.low, result.value, result.high) == (0.25, 0.25, 0.25)


def test_a_single_seed_has_no_interval_and_none_is_an_error() -> None:
    found = mean_over_seeds([0.3])
    assert (found.value, found.n) == (0.3, 1)
    assert math.isnan(found.low)
    with pytest.raises(ValueError, match="at least one run"):
        mean_over_seeds([])
