"""How many examples one variant needs to come as far as another."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tapir.study.efficiency import Curve, crossing, efficiency
from tests.domain.strategies import properties

BASE: Curve = ((0.0, 0.1), (100.0, 0.3), (200.0, 0.5))
successes = st.integers(0, 100).map(lambda percent: percent / 100)


@st.composite
def curves(draw: st.DrawFn, rounds: int | None = None) -> Curve:
    """Success after every round of some examples; it may fall."""
    count = rounds or draw(st.integers(1, 6))
    sizes = itertools.accumulate(draw(st.lists(st.integers(1, 500), min_size=count, max_size=count)))
    found = draw(st.lists(successes, min_size=count + 1, max_size=count + 1))
    return tuple((float(size), value) for size, value in zip((0, *sizes), found, strict=True))


def height(curve: Curve, examples: float) -> float:
    return float(np.interp(examples, [size for size, _ in curve], [success for _, success in curve]))


@properties
@given(curves(), successes)
def test_a_curve_is_as_high_as_the_goal_where_it_crosses_and_lower_before(curve: Curve, goal: float) -> None:
    at = crossing(curve, goal)
    if math.isinf(at):
        assert max(success for _, success in curve) < goal
    else:
        assert 0 <= at <= curve[-1][0]
        assert height(curve, at) == pytest.approx(max(goal, curve[0][1]), abs=1e-9) or at == 0
        assert all(success < goal for examples, success in curve if examples < at - 1e-6)


@properties
@given(curves(), successes, successes)
def test_a_higher_goal_never_needs_fewer_examples(curve: Curve, one: float, other: float) -> None:
    assert crossing(curve, min(one, other)) <= crossing(curve, max(one, other))


@properties
@given(curves())
@example(((0.0, 0.69), (109.0, 0.81)))
def test_a_variant_needs_at_most_all_of_its_own_examples(curve: Curve) -> None:
    found = efficiency([(curve, curve)])
    assert 0 <= found.share <= 1
    assert found.reached == 1


@properties
@given(st.integers(2, 4).flatmap(lambda rounds: st.lists(curves(rounds), min_size=4, max_size=4)), st.integers(2, 9))
def test_a_share_does_not_depend_on_the_unit_of_the_examples(four: list[Curve], times: int) -> None:
    pairs = [(four[0], four[1]), (four[2], four[3])]
    wider = [
        (tuple((times * x, y) for x, y in ours), tuple((times * x, y) for x, y in theirs)) for ours, theirs in pairs
    ]
    one, other = efficiency(pairs), efficiency(wider)
    assert (one.share, one.low, one.high) == pytest.approx((other.share, other.low, other.high))
    assert one.reached == other.reached


def test_twice_as_steep_needs_half() -> None:
    steep: Curve = ((0.0, 0.1), (100.0, 0.5), (200.0, 0.9))
    found = efficiency([(steep, BASE)])
    assert found.share == pytest.approx(0.5)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_between_two_rounds_it_is_a_straight_line() -> None:
    assert crossing(BASE, 0.2) == pytest.approx(50)
    assert crossing(BASE, 0.45) == pytest.approx(175)


def test_what_is_high_enough_untrained_needs_nothing() -> None:
    assert efficiency([(((0.0, 0.9), (100.0, 0.95)), BASE)]).share == 0


def test_what_never_comes_as_far_is_infinite() -> None:
    found = efficiency([(((0.0, 0.1), (500.0, 0.49)), BASE)] * 3)
    assert (found.share, found.low, found.high, found.reached) == (math.inf, math.inf, math.inf, 0)


def test_a_baseline_without_examples_cannot_be_reached_with_a_share_of_them() -> None:
    assert efficiency([(BASE, ((0.0, 0.1),))]).share == math.inf


def test_no_curves_are_an_error() -> None:
    with pytest.raises(ValueError, match="no curves"):
        efficiency([])


def line(slope: float) -> Curve:
    return ((0.0, 0.0), (100.0, slope), (200.0, 2 * slope))


def test_up_to_five_seeds_the_interval_is_that_of_all_draws() -> None:
    pairs = [(line(slope), line(0.2)) for slope in (0.25, 0.4, 0.8)]
    slopes = [np.mean(drawn) for drawn in itertools.product((0.25, 0.4, 0.8), repeat=3)]
    low, high = np.quantile(0.2 / np.array(slopes), [0.025, 0.975], method="inverted_cdf")
    found = efficiency(pairs)
    assert found.share == pytest.approx(0.2 / np.mean([0.25, 0.4, 0.8]))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert efficiency(pairs, seed=5) == found


def test_an_interval_is_open_above_where_some_draws_never_come_as_far() -> None:
    pairs = [(line(slope), line(0.2)) for slope in (0.1, 0.5, 0.5)]
    found = efficiency(pairs)
    assert math.isfinite(found.share)
    assert found.high == math.inf
    assert found.reached == pytest.approx(26 / 27)


def test_with_more_seeds_a_sample_is_drawn_that_the_seed_decides() -> None:
    pairs = [(line(0.3 + place / 50), line(0.2)) for place in range(8)]
    found = efficiency(pairs)
    assert found == efficiency(pairs)
    assert found.low < found.share < found.high
    assert found.low >= 0.2 / 0.44
    assert found.high <= 0.2 / 0.3


def test_rounds_that_only_some_seeds_have_are_left_out() -> None:
    short: Curve = ((0.0, 0.0), (100.0, 0.2))
    assert efficiency([(short, line(0.2)), (line(0.4), line(0.2))]).share == math.inf
