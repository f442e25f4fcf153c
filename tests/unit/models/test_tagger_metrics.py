"""The figures of a tagger: what they are, and what cannot be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import log_softmax

from tapir.domain.task import TaskTag
from tapir.models.taggers.metrics import BINS, calibration_error, report, temperature

TASKS = ("add", "list", "spell")
shares = st.floats(0, 1)
pairs = st.lists(st.tuples(st.sampled_from(TASKS), st.sampled_from(TASKS), shares), min_size=1, max_size=40)


def tags(several: Sequence[tuple[str, str, float]]) -> tuple[list[str], list[TaskTag]]:
    return [truth for truth, _, _ in several], [TaskTag(task, sure) for _, task, sure in several]


def test_recall_and_f1_are_those_of_the_textbook() -> None:
    truth = ["add", "add", "add", "list", "list", "spell"]
    found = ["add", "add", "list", "list", "add", "list"]
    measured = report(truth, [TaskTag(task) for task in found], trained_on=9)
    assert (measured.trained_on, measured.n, measured.accuracy) == (9, 6, 0.5)
    assert measured.by_task == pytest.approx({"add": 2 / 3, "list": 1 / 2, "spell": 0})
    assert measured.f1 == pytest.approx({"add": 2 / 3, "list": 2 / 5, "spell": 0})


@given(pairs)
def test_every_figure_is_a_share(several: list[tuple[str, str, float]]) -> None:
    measured = report(*tags(several), trained_on=1)
    assert measured.calibration_error is not None
    for figure in (measured.accuracy, measured.calibration_error):
        assert 0 <= figure <= 1
    assert measured.by_task.keys() == {truth for truth, _, _ in several}
    assert measured.f1.keys() == measured.by_task.keys() | {task for _, task, _ in several}
    assert all(0 <= figure <= 1 for figure in (*measured.by_task.values(), *measured.f1.values()))


@given(pairs, shares)
def test_who_abstains_is_counted_and_never_more_often_right(
    several: list[tuple[str, str, float]], least: float
) -> None:
    every, some = (report(*tags(several), trained_on=1, abstain_below=one) for one in (0.0, least))
    assert every.abstained == 0
    assert some.abstained == sum(sure < least for _, _, sure in several)
    assert some.accuracy <= every.accuracy
    assert some.calibration_error == every.calibration_error


guesses = st.lists(st.tuples(shares, st.booleans()), min_size=1, max_size=60)


@given(guesses)
def test_the_calibration_error_is_the_mean_gap_of_the_bins(several: list[tuple[float, bool]]) -> None:
    total = 0.0
    for number in range(BINS):
        low, high = number / BINS, (number + 1) / BINS
        inside = [(sure, right) for sure, right in several if low < sure <= high or (not number and not sure)]
        if inside:
            sure, right = (sum(column) / len(inside) for column in zip(*inside, strict=True))
            total += len(inside) / len(several) * abs(sure - right)
    if not any(0 < abs(sure * BINS - round(sure * BINS)) < 1e-9 for sure, _ in several):
        assert calibration_error(*columns(several)) == pytest.approx(total, abs=1e-9)


@given(st.integers(1, 30), st.integers(0, 30))
def test_who_is_as_sure_as_often_right_is_calibrated(right: int, wrong: int) -> None:
    sure = right / (right + wrong)
    assert calibration_error([sure] * (right + wrong), [True] * right + [False] * wrong) == pytest.approx(0, abs=1e-9)


def columns(several: list[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [sure for sure, _ in several], [right for _, right in several]


def drawn(seed: int, sharper: float) -> tuple[NDArray[np.float64], list[int]]:
    """Logits whose probabilities are true, but for being `sharper` times too far apart."""
    source = np.random.default_rng(seed)
    logits = source.normal(size=(2000, 4))
    truth = [int(source.choice(4, p=np.exp(row))) for row in log_softmax(logits, axis=1)]
    return logits * sharper, truth


@pytest.mark.parametrize("sharper", [0.5, 1.0, 4.0])
def test_the_temperature_undoes_what_made_a_classifier_too_sure_or_unsure(sharper: float) -> None:
    logits, truth = drawn(7, sharper)
    assert temperature(logits, truth) == pytest.approx(sharper, rel=0.15)
