from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from support.strategies import LABELS
from tapir.domain.difficulty import Difficulty, Split, Threshold, competence, difficulty, gap, split, undivided
from tapir.domain.instruction import instruction_id
from tapir.domain.judgement import Judgement, Order

scores = st.floats(1, 10)
orders = st.sampled_from(get_args(Order))
judgements = st.builds(Judgement, scores, scores, orders, st.just("why"), st.just("judge"))

one_gap = st.integers(-18, 18).map(lambda half: half / 2) | st.floats(-9, 9) | st.just(math.nan)
many_gaps = st.lists(one_gap, max_size=40).map(lambda found: np.array(found, dtype=np.float64))
several_distinct_gaps = st.lists(st.floats(0, 9), min_size=1, max_size=60, unique=True).map(np.array)
deltas = st.sampled_from((0.0, 0.5, 1.0, 2.0, 4.5)) | st.floats(0, 9)
percents = st.integers(1, 99)
thresholds = (
    deltas.map(lambda value: Threshold("delta", value))
    | percents.map(lambda value: Threshold("quantile", value / 100))
    | st.integers(0, 60).map(lambda value: Threshold("budget", value))
)


def ids_for(gaps: NDArray[np.float64]) -> list[str]:
    return [instruction_id(str(place)) for place in range(len(gaps))]


def split_of(gaps: NDArray[np.float64], threshold: Threshold) -> Split:
    return split(ids_for(gaps), gaps, threshold)


@given(many_gaps, thresholds)
def test_every_part_keeps_the_order_of_the_corpus_and_what_has_no_gap_is_unscored(
    gaps: NDArray[np.float64], threshold: Threshold
) -> None:
    parts = split_of(gaps, threshold)
    place = {name: number for number, name in enumerate(ids_for(gaps))}
    for part in (parts.hard, parts.easy, parts.unscored):
        assert list(part) == sorted(part, key=place.__getitem__)
    nameless = tuple(name for name, one in zip(ids_for(gaps), gaps, strict=True) if math.isnan(one))
    assert split_of(gaps, threshold).unscored == nameless


@given(many_gaps, deltas)
@example(np.array([2.0, 2.5, 1.5]), 2.0)
def test_hard_means_strictly_more_than_delta(gaps: NDArray[np.float64], delta: float) -> None:
    parts = split_of(gaps, Threshold("delta", delta))
    assert parts.hard == tuple(name for name, one in zip(ids_for(gaps), gaps, strict=True) if one > delta)


@given(many_gaps, thresholds | st.just(Threshold("delta", -5.0)))
def test_a_student_that_beat_the_teacher_is_withheld_and_never_hard(
    gaps: NDArray[np.float64], threshold: Threshold
) -> None:
    parts = split_of(gaps, threshold)
    assert parts.withheld == {name for name, one in zip(ids_for(gaps), gaps, strict=True) if one < 0}
    assert parts.withheld <= set(parts.easy)
    assert parts.withheld.isdisjoint(parts.hard)


@pytest.mark.parametrize("threshold", [Threshold("quantile", 0.34), Threshold("budget", 1), Threshold("delta", -2.0)])
def test_a_scale_without_a_floor_withholds_nothing(threshold: Threshold) -> None:
    gaps, floorless = np.array([-3.0, -2.0, -1.0]), replace(threshold, floor=-math.inf)
    parts = split(["a", "b", "c"], gaps, floorless)
    assert (parts.hard, parts.easy, parts.withheld, floorless.delta(gaps)) == (("c",), ("a", "b"), frozenset(), -2.0)


@given(st.lists(st.floats(-9, 9), max_size=60, unique=True).map(np.array), st.integers(0, 80))
def test_without_a_floor_a_budget_is_spent_in_full(gaps: NDArray[np.float64], budget: int) -> None:
    threshold = Threshold("budget", budget, floor=-math.inf)
    assert len(split_of(gaps, threshold).hard) == min(budget, len(gaps))
    assert not len(gaps) or math.isfinite(threshold.delta(gaps))


@given(many_gaps, thresholds)
def test_nothing_easy_has_a_larger_gap_than_anything_hard_and_the_delta_found_splits_the_same(
    gaps: NDArray[np.float64], threshold: Threshold
) -> None:
    parts = split_of(gaps, threshold)
    gap_of = dict(zip(ids_for(gaps), gaps, strict=True))
    assert max((gap_of[name] for name in parts.easy), default=-math.inf) < min(
        (gap_of[name] for name in parts.hard), default=math.inf
    )
    again = split_of(gaps, Threshold("delta", threshold.delta(gaps)))
    assert (again.hard, again.easy, again.unscored) == (parts.hard, parts.easy, parts.unscored)


@given(many_gaps, percents, st.integers(0, 60))
def test_neither_a_quantile_nor_a_budget_is_exceeded_but_by_what_ties_at_the_largest_gap(
    gaps: NDArray[np.float64], percent: int, budget: int
) -> None:
    known = gaps[~np.isnan(gaps)]
    largest = int(np.sum(known == known.max())) if known.size else 0
    asked = percent * known.size // 100
    assert len(split_of(gaps, Threshold("quantile", percent / 100)).hard) <= max(asked, largest if asked else 0)
    assert len(split_of(gaps, Threshold("budget", budget)).hard) <= max(budget, largest if budget else 0)


def test_where_more_tie_at_the_largest_gap_than_were_asked_for_all_of_these_are_hard() -> None:
    gaps = np.repeat([1.0, 0.75, 0.0], [55, 25, 20])
    for threshold in (Threshold("quantile", 0.5), Threshold("budget", 30)):
        assert len(split_of(gaps, threshold).hard) == 55
        assert len(split_of(gaps[55:], threshold).hard) == 25
        assert not split_of(np.zeros(9), threshold).hard


@given(several_distinct_gaps, percents, st.integers(0, 80))
@example(np.arange(100.0), 29, 0)
def test_a_quantile_without_ties_keeps_its_share_rounded_down_and_a_budget_is_spent_in_full(
    gaps: NDArray[np.float64], percent: int, budget: int
) -> None:
    parts = split_of(gaps, Threshold("quantile", percent / 100))
    worse = int(np.sum(gaps > 0))
    assert len(parts.hard) == min(percent * len(gaps) // 100, worse)
    assert len(split_of(gaps, Threshold("budget", budget)).hard) == min(budget, worse)


@pytest.mark.parametrize("threshold", [Threshold("quantile", 0.5), Threshold("budget", 3)])
def test_where_nothing_is_scored_the_threshold_found_is_infinite(threshold: Threshold) -> None:
    assert threshold.delta(np.array([math.nan])) == math.inf


def test_ties_at_the_cut_are_not_hard() -> None:
    gaps, threshold = np.array([1.0, 5.0, 5.0, 5.0, 7.0]), Threshold("budget", 2)
    assert threshold.delta(gaps) == 5.0
    assert len(split_of(gaps, threshold).hard) == 1


@given(judgements)
def test_the_gap_is_teacher_minus_student(judgement: Judgement) -> None:
    assert gap(judgement) == judgement.reference - judgement.student
    assert (gap(judgement) > 0) == (judgement.student < judgement.reference)


@given(st.lists(judgements, min_size=1, max_size=8))
def test_every_order_counts_the_same_however_often_it_was_judged(found: list[Judgement]) -> None:
    apart = [difficulty([one for one in found if one.order == order]) for order in {one.order for one in found}]
    mfd = difficulty(found)
    assert mfd.gap == pytest.approx(sum(one.gap for one in apart) / len(apart))
    assert mfd.spread == pytest.approx(max(one.gap for one in apart) - min(one.gap for one in apart))
    assert -9 <= mfd.gap <= 9
    assert 0 <= mfd.spread <= 18


@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=4))
def test_in_one_order_difficulty_is_the_mean_gap_without_spread(found: list[tuple[float, float]]) -> None:
    mfd = difficulty([Judgement(student, reference, "alone", "why", "judge") for student, reference in found])
    assert mfd.gap == pytest.approx(sum(reference - student for student, reference in found) / len(found))
    assert mfd.spread == 0


def test_an_unreadable_sample_does_not_lean_the_gap_towards_the_other_order() -> None:
    first = [Judgement(2, 8, "student-first", "why", "judge")] * 3
    second = [Judgement(6, 8, "reference-first", "why", "judge")]
    assert difficulty(first + second) == Difficulty(4, 4)


@pytest.mark.parametrize("score", [0.0, 0.99, 10.01, -3.0, math.nan, math.inf])
def test_a_score_outside_one_to_ten_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match="outside 1 to 10"):
        Judgement(score, 5.0, "alone", "why", "judge")
    with pytest.raises(ValueError, match="outside 1 to 10"):
        Judgement(5.0, score, "alone", "why", "judge")


mosts = st.sampled_from((0.5, 2.0, 3.0, 8.5)) | st.floats(0.01, 9) | st.just(math.inf)
limited = st.builds(lambda threshold, most: replace(threshold, most=most), thresholds, mosts)


@given(many_gaps, limited)
def test_the_hopeless_have_more_than_most_count_as_scored_and_leave_the_others_split_as_without_them(
    gaps: NDArray[np.float64], threshold: Threshold
) -> None:
    parts = split_of(gaps, threshold)
    assert sorted(parts.hard + parts.easy + parts.hopeless + parts.unscored) == sorted(ids_for(gaps))
    assert parts.withheld <= set(parts.easy)
    beyond = [name for name, one in zip(ids_for(gaps), gaps, strict=True) if one > threshold.most]
    assert list(parts.hopeless) == beyond
    scored = int(np.sum(~np.isnan(gaps)))
    assert parts.hard_share == (len(parts.hard) / scored if scored else 0)
    kept = [place for place in range(len(gaps)) if not gaps[place] > threshold.most]
    unlimited = replace(threshold, most=math.inf)
    alone = split([ids_for(gaps)[place] for place in kept], gaps[kept], unlimited)
    assert (parts.hard, parts.easy, parts.unscored) == (alone.hard, alone.easy, alone.unscored)
    assert threshold.delta(gaps) == unlimited.delta(gaps[kept])


def test_what_is_exactly_at_the_most_is_not_hopeless_and_where_all_is_nothing_is_hard_or_easy() -> None:
    parts = split_of(np.array([8.0, 8.5, 9.0, 1.0]), Threshold("delta", 2.0, 8.5))
    assert [len(part) for part in (parts.hard, parts.easy, parts.hopeless)] == [2, 1, 1]
    for rule in ("delta", "quantile", "budget"):
        parts = split_of(np.array([8.0, 9.0]), Threshold(rule, 0.5 if rule == "quantile" else 2, 5.0))
        assert (parts.hard, parts.easy, len(parts.hopeless), parts.hard_share) == ((), (), 2, 0.0)


@given(st.lists(st.integers(), max_size=20, unique=True).map(lambda found: [instruction_id(str(one)) for one in found]))
def test_a_corpus_whose_difficulty_nobody_measured_is_one_pool(ids: list[str]) -> None:
    parts = undivided(ids)
    assert parts == Split(tuple(ids), (), (), frozenset())


tags = st.lists(st.sampled_from((*LABELS, "unknown", None)), min_size=40, max_size=40)


def tagged(ids: list[str], labels: list[str | None]) -> dict[str, str]:
    """The task of each id; None is an id that could not be tagged."""
    return {name: label for name, label in zip(ids, labels, strict=False) if label is not None}


@given(many_gaps, limited, tags, st.sets(st.integers(0, 39)))
def test_competence_is_a_share_of_the_scored_items_that_are_not_left_out(
    gaps: NDArray[np.float64], threshold: Threshold, labels: list[str | None], trained: set[int]
) -> None:
    ids = ids_for(gaps)
    left_out = {ids[place] for place in trained if place < len(ids)}
    parts, task_of = split_of(gaps, threshold), tagged(ids, labels)
    found = competence(parts, task_of, LABELS, left_out)
    for label in LABELS:
        mine = {name for name in ids if task_of.get(name) == label and name not in left_out} - {*parts.unscored}
        assert found[label] == pytest.approx((len(mine & {*parts.easy}) + 1) / (len(mine) + 2))


def test_an_unknown_task_is_half_known_a_better_answer_a_success_and_a_hopeless_item_none() -> None:
    assert competence(undivided([]), {}, LABELS) == dict.fromkeys(LABELS, 0.5)
    gaps = np.array([-3.0, 9.0, 9.0])
    found = competence(split_of(gaps, Threshold("delta", 2.0, 8.0)), dict.fromkeys(ids_for(gaps), "Law"), LABELS)
    assert found["Law"] == pytest.approx(2 / 5)
