"""How many examples one variant needs to come as far as another."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tapir.runs.study.results import Curve, crossing, efficiency

BASE: Curve = ((0.0, 0.1), (100.0, 0.3), (200.0, 0.5))
successes = st.integers(0, 100).map(lambda percent: percent / 100)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    """Success after every round of some examples; it may fall."""
    count = draw(st.integers(1, 6))
    sizes = itertools.accumulate(draw(st.lists(st.integers(1, 500), min_size=count, max_size=count)))
    values = draw(st.lists(successes, min_size=count + 1, max_size=count + 1))
    return tuple((float(size), value) for size, value in zip((0, *sizes), values, strict=True))


def height(curve: Curve, examples: float) -> float:
    return float(np.interp(examples, [size for size, _ in curve], [success for _, success in curve]))


@given(curves(), successes)
def test_a_curve_is_as_high_as_the_goal_where_it_crosses_and_lower_before(curve: Curve, goal: float) -> None:
    at = crossing(curve, goal)
    if math.isinf(at):
        assert max(success for _, success in curve) < goal
    else:
        assert 0 <= at <= curve[-1][0]
        assert height(curve, at) == pytest.approx(max(goal, curve[0][1]), abs=1e-9) or at == 0
        assert all(success < goal for examples, success in curve if examples < at - 1e-6)


@given(curves())
@example(((0.0, 0.69), (109.0, 0.81)))
def test_a_variant_needs_at_most_all_of_its_own_examples(curve: Curve) -> None:
    result = efficiency([(curve, curve)])
    assert 0 <= result.share <= 1
    assert result.reached == 1


def test_what_never_comes_as_far_is_infinite() -> None:
    result = efficiency([(((0.0, 0.1), (500.0, 0.49)), BASE)] * 3)
    assert (result.share, result.low, result.high, result.reached) == (math.inf, math.inf, math.inf, 0)


def test_a_baseline_without_examples_cannot_be_reached_with_a_share_of_them() -> None:
    assert efficiency([(BASE, ((0.0, 0.1),))]).share == math.inf


def line(slope: float) -> Curve:
    return ((0.0, 0.0), (100.0, slope), (200.0, 2 * slope))


def test_up_to_five_seeds_the_interval_is_that_of_all_draws() -> None:
    pairs = [(line(slope), line(0.2)) for slope in (0.25, 0.4, 0.8)]
    slopes = [np.mean(drawn) for drawn in itertools.product((0.25, 0.4, 0.8), repeat=3)]
    low, high = np.quantile(0.2 / np.array(slopes), [0.025, 0.975], method="inverted_cdf")
    result = efficiency(pairs)
    assert result.share == pytest.approx(0.2 / np.mean([0.25, 0.4, 0.8]))
    assert (result.low, result.high) == pytest.approx((low, high))


def test_an_interval_is_open_above_where_some_draws_never_come_as_far() -> None:
    pairs = [(line(slope), line(0.2)) for slope in (0.1, 0.5, 0.5)]
    result = efficiency(pairs)
    assert math.isfinite(result.share)
    assert result.high == math.inf
    assert result.reached == pytest.approx(26 / 27)
