"""The measures are bounded, symmetric, and do not care what labels are called; what is undefined says why."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from tapir.audit.measures import (
    Figure,
    _kappa,
    _weights,
    difference,
    excess,
    kappa,
    mean,
    ranks,
    share,
    spread,
    win_share,
)

CHOICES = ("a", "b", "tie")
CHOICE = st.sampled_from(CHOICES)
PAIRS = st.lists(st.tuples(CHOICE, CHOICE, st.sampled_from("xyz")), min_size=2, max_size=30)
SCORES = st.lists(st.tuples(st.integers(1, 10), st.integers(1, 10), st.sampled_from("wxyz")), min_size=3, max_size=20)
few = settings(max_examples=8, deadline=None)  # each figure draws thousands of resamples


def names(count: int) -> list[str]:
    return [str(place) for place in range(count)]


def whole(one: Figure) -> bool:
    """Whether no part of a figure is NaN, and a figure without a value says why."""
    parts = [part for part in (one.value, one.low, one.high) if part is not None]
    return all(map(math.isfinite, parts)) and (one.value is not None or bool(one.why))


@few
@given(PAIRS)
def test_kappa_is_bounded_symmetric_and_blind_to_names(pairs: list[tuple[str, str, str]]) -> None:
    first, second, prompts = zip(*pairs, strict=True)
    found, turned = kappa(first, second, prompts, CHOICES), kappa(second, first, prompts, CHOICES)
    assert whole(found)
    assert found.value is None or -1 <= found.value <= 1
    assert turned.value == (None if found.value is None else pytest.approx(found.value))
    other = {"a": "tie", "tie": "b", "b": "a"}
    renamed = kappa([other[one] for one in first], [other[one] for one in second], prompts, CHOICES)
    assert renamed.value == (None if found.value is None else pytest.approx(found.value))


@pytest.mark.parametrize("weights", [None, "quadratic"])
@given(pairs=PAIRS)
def test_resamples_use_the_kappa_of_scikit_learn(weights: str | None, pairs: list[tuple[str, str, str]]) -> None:
    """The interval comes from a closed form over tables of counts; it must be the library's κ."""
    first, second = ([CHOICES.index(pair[place]) for pair in pairs] for place in (0, 1))
    cells = np.zeros(9)
    for one, other in zip(first, second, strict=True):
        cells[3 * one + other] += 1
    ours = _kappa(cells, _weights(3, quadratic=weights is not None))
    if len({*first, *second}) > 1:
        assert ours == pytest.approx(cohen_kappa_score(first, second, labels=[0, 1, 2], weights=weights))


@few
@given(SCORES)
def test_rank_correlations_are_bounded_and_symmetric(rows: list[tuple[int, int, str]]) -> None:
    first, second, prompts = ([row[place] for row in rows] for place in range(3))
    for method in ("kendall", "spearman"):
        found = ranks(first, second, prompts, method)  # type: ignore[arg-type]
        turned = ranks(second, first, prompts, method)  # type: ignore[arg-type]
        assert whole(found)
        assert found.value is None or -1.0000001 <= found.value <= 1.0000001
        assert turned.value == (None if found.value is None else pytest.approx(found.value))


@few
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("wxyz")), min_size=1, max_size=30))
def test_shares_lie_between_0_and_1_and_their_interval_around_them(rows: list[tuple[bool, bool, str]]) -> None:
    hits, others, prompts = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    found = share(hits, prompts, "nothing")
    assert whole(found)
    assert found.value == pytest.approx(sum(hits) / len(hits))
    if found.low is not None and found.high is not None:
        assert -1e-9 <= found.low <= found.high <= 1 + 1e-9
    more, less = excess(hits, others, prompts, "nothing"), excess(others, hits, prompts, "nothing")
    assert more.value is not None
    assert less.value == pytest.approx(-more.value)
    assert whole(more)


@few
@given(st.lists(st.lists(st.integers(1, 10), min_size=2, max_size=4), min_size=1, max_size=10))
def test_spread_is_zero_only_where_every_repeat_is_the_same(groups: list[list[int]]) -> None:
    found = spread(groups, names(len(groups)), "nothing")
    assert found.value is not None
    assert (found.value == 0) == all(len(set(some)) == 1 for some in groups)


def test_a_share_of_every_row_is_not_certain() -> None:
    """Twenty verdicts about two prompts are little more than two."""
    alone = share([True] * 20, names(20), "nothing")
    two = share([True] * 20, ["x", "y"] * 10, "nothing")
    assert alone.low is not None
    assert two.low is not None
    assert two.value == alone.value == 1
    assert two.low < alone.low < 1


def test_an_interval_over_prompts_does_not_shrink_when_rows_are_repeated() -> None:
    hits, prompts = [True, False, True, True, False, True, False, True], names(8)
    once = share([*hits, True], [*prompts, prompts[0]], "nothing")
    often = share([*hits, True] * 10, [*prompts, prompts[0]] * 10, "nothing")
    assert once.low == pytest.approx(often.low)
    assert once.high == pytest.approx(often.high)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (share([], [], "no verdict"), "no verdict"),
        (mean([], [], "no score"), "no score"),
        (excess([], [], [], "no pair"), "no pair"),
        (difference([1.0], ["x"], [], [], "no other"), "no other"),
        (spread([], [], "nothing twice"), "nothing twice"),
        (kappa([], [], [], CHOICES), "no pair has both"),
        (kappa(["a"], ["b"], ["x"], CHOICES), "a single pair"),
        (kappa(["tie", "tie"], ["tie", "tie"], ["x", "y"], CHOICES), "same verdict"),
        (ranks([1], [2], ["x"], "kendall"), "a single pair"),
        (ranks([1, 2], [1, 2], ["x", "y"], "spearman"), "2 pairs"),
        (ranks([3, 3, 3], [1, 2, 3], ["x", "y", "z"], "kendall"), "judge's figures are all equal"),
        (ranks([1, 2, 3], [3, 3, 3], ["x", "y", "z"], "spearman"), "reference's figures are all equal"),
    ],
)
def test_what_is_undefined_says_why(found: Figure, why: str) -> None:
    assert found.value is None
    assert why in found.why
    assert whole(found)


def test_rows_of_one_prompt_have_a_value_and_no_interval() -> None:
    found = mean([1.0, 2.0], ["x", "x"], "nothing")
    assert (found.value, found.low, found.high) == (1.5, None, None)
    assert "one prompt" in found.why


def test_a_share_of_one_prompt_has_no_interval_either() -> None:
    for hits in ([True], [True, True], [True, False]):
        found = share(hits, ["x"] * len(hits), "nothing")
        assert (found.value, found.low, found.high) == (sum(hits) / len(hits), None, None)
        assert "one prompt" in found.why


def test_a_judge_that_was_never_won_over_may_be_the_next_time() -> None:
    never, now_and_then = win_share([0.0] * 20, names(20), "nothing"), win_share([0.0, 0.5] * 10, names(20), "nothing")
    assert never.high is not None
    assert now_and_then.low is not None
    assert (never.value, never.low) == (0, 0)
    assert 0.1 < never.high < 0.2
    assert now_and_then.value == 0.25
    assert now_and_then.low > 0
