"""Metrics of an audit: bounded, blind to the names of labels, and undefined with a reason."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr
from statsmodels.stats.inter_rater import cohens_kappa

from support.audits import value
from tapir.data.run.rows import JudgementRow
from tapir.evaluation.audit.biases import position_consistency
from tapir.evaluation.audit.metrics import CHOICES, Metric, kappa, mean, ranks, share, spread
from tapir.evaluation.audit.panel import group_votes
from tapir.evaluation.audit.records import AnswerPair, to_vote

CHOICE = st.sampled_from(CHOICES)
few = settings(max_examples=8, deadline=None)  # each metric draws thousands of resamples


def names(count: int) -> list[str]:
    return [str(place) for place in range(count)]


def is_whole(metric: Metric) -> bool:
    """Whether no part of a metric is NaN, and a metric without a value says why."""
    parts = [part for part in (metric.value, metric.low, metric.high) if part is not None]
    return all(map(math.isfinite, parts)) and (metric.value is not None or bool(metric.why))


@few
@given(st.lists(st.tuples(CHOICE, CHOICE, st.sampled_from("xyz")), min_size=2, max_size=30))
def test_kappa_is_that_of_statsmodels_whatever_the_labels_are_called(pairs: list[tuple[str, str, str]]) -> None:
    first, second, prompts = zip(*pairs, strict=True)
    metric = kappa(first, second, prompts, CHOICES)
    assert is_whole(metric)
    if metric.value is not None:
        table = np.zeros((3, 3))
        np.add.at(table, ([CHOICES.index(choice) for choice in first], [CHOICES.index(choice) for choice in second]), 1)
        assert metric.value == pytest.approx(float(cohens_kappa(table, return_results=False)))
    other = {"a": "tie", "tie": "b", "b": "a"}
    renamed = kappa([other[choice] for choice in first], [other[choice] for choice in second], prompts, CHOICES)
    assert renamed.value == (None if metric.value is None else pytest.approx(metric.value))


@pytest.mark.parametrize("prompts", [names(8), [*"wwxxyyzz"]])
def test_rank_correlations_are_those_of_scipy(prompts: list[str]) -> None:
    first, second = [1, 3, 2, 5, 5, 8, 6, 9], [2, 3, 1, 1, 7, 6, 9, 9]
    assert value(ranks(first, second, prompts, "kendall")) == pytest.approx(kendalltau(first, second).statistic)
    assert value(ranks(first, second, prompts, "spearman")) == pytest.approx(spearmanr(first, second).statistic)


def test_resamples_without_a_correlation_are_left_out_of_its_interval() -> None:
    assert is_whole(ranks([1, 1, 2], [1, 1, 2], ["x", "x", "y"], "kendall"))


@few
@given(st.lists(st.tuples(st.booleans(), st.sampled_from("wxyz")), min_size=1, max_size=30))
def test_a_share_lies_in_its_interval(rows: list[tuple[bool, str]]) -> None:
    hits, prompts = [row[0] for row in rows], [row[1] for row in rows]
    metric = share(hits, prompts, "missing")
    assert is_whole(metric)
    assert metric.value == pytest.approx(sum(hits) / len(hits))
    if metric.low is not None and metric.high is not None:
        assert -1e-9 <= metric.low <= metric.high <= 1 + 1e-9


def test_a_share_of_every_row_is_not_certain() -> None:
    """Twenty verdicts about two prompts are little more than two, and a repeated row adds nothing."""
    alone, two = share([True] * 20, names(20), "missing"), share([True] * 20, ["x", "y"] * 10, "missing")
    assert alone.low is not None
    assert two.low is not None
    assert two.value == alone.value == 1
    assert two.low < alone.low < 1
    hits, prompts = [True, False, True, True, False, True, False, True, True], [*names(8), "0"]
    once, often = share(hits, prompts, "missing"), share(hits * 10, prompts * 10, "missing")
    assert [often.low, often.high] == [pytest.approx(once.low), pytest.approx(once.high)]


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        (share([], [], "no verdict"), "no verdict"),
        (mean([], [], "no score"), "no score"),
        (spread([], [], "nothing twice"), "nothing twice"),
        (kappa([], [], [], CHOICES), "no pair has both"),
        (kappa(["a"], ["b"], ["x"], CHOICES), "a single pair"),
        (kappa(["tie", "tie"], ["tie", "tie"], ["x", "y"], CHOICES), "same verdict"),
        (ranks([1], [2], ["x"], "kendall"), "a single pair"),
        (ranks([1, 2], [1, 2], ["x", "y"], "spearman"), "2 pairs"),
        (ranks([3, 3, 3], [1, 2, 3], ["x", "y", "z"], "kendall"), "judge's values are all equal"),
        (ranks([1, 2, 3], [3, 3, 3], ["x", "y", "z"], "spearman"), "reference's values are all equal"),
    ],
)
def test_what_is_undefined_says_why(metric: Metric, why: str) -> None:
    assert metric.value is None
    assert why in metric.why


@pytest.mark.parametrize(
    "metric",
    [mean([1.0, 2.0], ["x", "x"], "missing"), share([True], ["x"], "missing"), share([True, False], ["x"] * 2, "")],
)
def test_rows_of_one_prompt_have_a_value_and_no_interval(metric: Metric) -> None:
    assert metric.value is not None
    assert (metric.low, metric.high) == (None, None)
    assert "one prompt" in metric.why


def test_a_judge_that_was_never_won_over_may_be_the_next_time() -> None:
    never, now_and_then = share([0.0] * 20, names(20), "missing"), share([0.0, 0.5] * 10, names(20), "missing")
    assert never.high is not None
    assert now_and_then.low is not None
    assert (never.value, never.low) == (0, 0)
    assert 0.1 < never.high < 0.2
    assert now_and_then.value == 0.25
    assert now_and_then.low > 0


def test_biases_can_be_computed_from_the_rows_of_a_run() -> None:
    """The report does this: no file is read."""
    rows = [
        JudgementRow(name, order, *scores, "", "J", None, None)
        for name, order, scores in [
            ("x", "student-first", (7.0, 5.0)),
            ("x", "reference-first", (5.0, 7.0)),
            ("y", "student-first", (2.0, 9.0)),
            ("y", "reference-first", (2.0, 9.0)),
        ]
    ]
    votes = group_votes(to_vote(row, row.id) for row in rows)["J"]
    metrics = position_consistency(votes, {name: AnswerPair(name, name) for name in votes})
    assert (metrics["flips"].value, metrics["reversals"].value, metrics["favours_first"].value) == (0.5, 0.5, 1)
