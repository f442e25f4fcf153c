"""Two checkpoints on the same prompts: the figures against scipy and statsmodels, and every kind of trouble."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from tapir.data.run.rows import EvaluationRow
from tapir.domain.errors import DataError
from tapir.domain.instruction import Turn
from tapir.evaluation.paired import (
    TASK_DIFFERS,
    Contrast,
    as_json,
    compare_pairs,
    match_pairs,
    mcnemar,
    over_seeds,
    paired_interval,
    remarks,
)

GYM = "in-distribution"


def row(number: int, score: float | None, task: str = "gcd", failure: str | None = None) -> EvaluationRow:
    text = f"prompt {number}"
    return EvaluationRow(GYM, f"{number:016x}", task, text, "42", "a", score, score == 1, failure)


def rows(scores: Sequence[float | None], tasks: Sequence[str] = ()) -> list[EvaluationRow]:
    return [row(place, score, tasks[place] if tasks else "gcd") for place, score in enumerate(scores)]


def answers(seed: int, rate: float, tasks: int = 4, per_task: int = 15) -> list[EvaluationRow]:
    rng = np.random.default_rng(seed)
    names = [f"task {place // per_task}" for place in range(tasks * per_task)]
    return rows([float(one) for one in rng.random(tasks * per_task) < rate], names)


# --- against scipy and statsmodels


@pytest.mark.parametrize("seed", range(2))
def test_the_p_value_of_successes_is_statsmodels_exact_mcnemar(seed: int) -> None:
    a, b = answers(seed, 0.7), answers(seed + 50, 0.5)
    found = compare_pairs(a, b, GYM)
    table = np.zeros((2, 2))
    for one, other in zip(a, b, strict=True):
        table[int(one.success), int(other.success)] += 1
    expected = reference_mcnemar(table, exact=True).pvalue
    assert found.prompts.p == pytest.approx(expected, rel=1e-9)
    assert (found.prompts.wins, found.prompts.losses) == (table[1, 0], table[0, 1])
    assert found.prompts.ties == table[0, 0] + table[1, 1]
    for task, each in found.tasks.items():
        assert each.p == mcnemar(each.wins, each.losses)
        assert each.n == sum(one.task == task for one in a)


def test_the_same_rows_in_any_order_have_the_same_intervals() -> None:
    a, b = answers(1, 0.8), answers(2, 0.45)
    assert compare_pairs(a, b, GYM) == compare_pairs(a[::-1], b, GYM)


@pytest.mark.parametrize("sizes", [[4] * 12, [12, 6, 4, 3, *[1] * 8]])
def test_95_of_100_intervals_over_many_small_tasks_hold_the_true_difference(sizes: list[int]) -> None:
    rng = np.random.default_rng(12)
    names = [f"task {task}" for task, size in enumerate(sizes) for _ in range(size)]
    by_task = [rng.uniform(low, low + 0.4, len(sizes)) for low in (0.4, 0.25)]
    rate_a, rate_b = (np.repeat(rates, sizes) for rates in by_task)
    truth, trials, inside = float((by_task[0] - by_task[1]).mean()), 150, 0
    for trial in range(trials):
        shared, own = rng.random((2, len(names)))
        other = np.where(rng.random(len(names)) < 0.5, shared, own)
        a, b = (rows((one < rate).astype(float).tolist(), names) for one, rate in ((shared, rate_a), (other, rate_b)))
        both = match_pairs(a, b, GYM, common=False)
        found = paired_interval(
            both.success[0] - both.success[1],
            both.strata,
            both.groups,
            rng=np.random.default_rng(trial),
        )
        inside += found.low <= truth <= found.high
    assert 0.895 <= inside / trials < 1  # 0.95 - 3 standard errors; an interval of 80 or 99.9 % fails


def with_a_second_turn(given: Sequence[EvaluationRow]) -> list[EvaluationRow]:
    turns = enumerate(given, 500)
    later = [replace(one, id=f"{place:016x}", context=(Turn("user", one.instruction),)) for place, one in turns]
    return [*given, *later]


def test_the_turns_of_a_conversation_count_as_one_draw() -> None:
    a, b = answers(3, 0.6), answers(4, 0.5)
    doubled_a, doubled_b = with_a_second_turn(a), with_a_second_turn(b)
    once, twice = compare_pairs(a, b, GYM), compare_pairs(doubled_a, doubled_b, GYM)
    assert (twice.prompts.n, twice.prompts.wins) == (2 * once.prompts.n, 2 * once.prompts.wins)
    for name in ("prompts", "mean_of_tasks"):
        mine, other = getattr(once, name), getattr(twice, name)
        assert other.difference.value == pytest.approx(mine.difference.value)
        assert other.score_p == pytest.approx(mine.score_p, abs=0.02)
        width = other.difference.high - other.difference.low
        assert width == pytest.approx(mine.difference.high - mine.difference.low, rel=0.1)
    assert twice.mean_of_tasks.p == pytest.approx(once.mean_of_tasks.p, abs=0.02)


# --- properties

outcomes = st.lists(
    st.tuples(st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from("xyz")),
    min_size=1,
    max_size=7,
)


def swapped(one: Contrast) -> Contrast:
    difference, score = (
        replace(each, value=-each.value, low=-each.high, high=-each.low) for each in (one.difference, one.score)
    )
    return replace(one, a=one.b, b=one.a, wins=one.losses, losses=one.wins, difference=difference, score=score)


def figures(one: Contrast) -> list[float]:
    parts = [one.a, one.b, one.wins, one.losses, one.ties, one.p, one.score_p]
    return [*parts, *(getattr(each, end) for each in (one.difference, one.score) for end in ("value", "low", "high"))]


@settings(max_examples=6, deadline=None)
@given(outcomes)
def test_b_against_a_is_the_mirror_of_a_against_b(found: list[tuple[float, float, str]]) -> None:
    tasks = [task for _, _, task in found]
    a, b = rows([one for one, _, _ in found], tasks), rows([one for _, one, _ in found], tasks)
    there, back = compare_pairs(a, b, GYM), compare_pairs(b, a, GYM)
    for one, other in (
        (there.prompts, back.prompts),
        (there.mean_of_tasks, back.mean_of_tasks),
        *((there.tasks[task], back.tasks[task]) for task in there.tasks),
    ):
        assert figures(one) == pytest.approx(figures(swapped(other)), nan_ok=True, abs=1e-12)
        assert one.wins + one.losses + one.ties == one.n
        assert 0 < one.p <= 1
        assert 0 < one.score_p <= 1
        assert math.isnan(one.difference.low) or one.difference.low <= one.difference.value <= one.difference.high


@settings(max_examples=6, deadline=None)
@given(outcomes)
def test_a_checkpoint_does_not_differ_from_itself(found: list[tuple[float, float, str]]) -> None:
    a = rows([one for one, _, _ in found], [task for _, _, task in found])
    one = compare_pairs(a, a, GYM)
    assert one.prompts.difference.value == one.mean_of_tasks.difference.value == 0
    assert one.prompts.p == one.mean_of_tasks.score_p == 1
    assert one.prompts.ties == one.prompts.n == len(found)
    assert math.isnan(one.prompts.difference.low)


# --- tasks of unequal size


def test_the_mean_of_tasks_counts_every_task_the_same_and_the_prompts_every_prompt() -> None:
    tasks = ["big"] * 8 + ["small"] * 2
    found = compare_pairs(rows([1.0] * 8 + [0.0] * 2, tasks), rows([0.0] * 10, tasks), GYM)
    assert found.prompts.difference.value == pytest.approx(0.8)
    assert found.mean_of_tasks.difference.value == pytest.approx(0.5)
    assert found.tasks["big"].difference.value == 1
    assert found.tasks["small"].difference.value == 0


# --- trouble


def test_prompts_that_only_one_was_asked_are_an_error_that_names_the_first() -> None:
    with pytest.raises(DataError, match=r"2 are in both, 3 only in A, 0 only in B\n  only A: 'prompt 2'") as caught:
        compare_pairs(rows([1.0] * 5), rows([0.0] * 2), GYM)
    assert "--common" in caught.value.remedy


def test_with_common_those_prompts_are_left_out_and_counted() -> None:
    a, b = rows([1.0, 0.0, 1.0, 1.0]), rows([0.0, 0.0, 1.0])[1:]
    found = compare_pairs(a, b, GYM, common=True)
    assert (found.only_a, found.only_b, found.prompts.n) == (2, 0, 2)
    assert "left out: 2 prompts that only A was asked, 0 that only B was asked" in list(remarks(found))


def test_nothing_in_common_is_an_error_even_with_common() -> None:
    with pytest.raises(DataError, match="0 are in both") as caught:
        compare_pairs(rows([1.0] * 2), [replace(one, id=f"{9:016x}") for one in rows([1.0])], GYM, common=True)
    assert "--common" not in caught.value.remedy


@pytest.mark.parametrize("score", [None, math.nan])
def test_a_pair_with_an_ungraded_side_is_left_out_and_counted(score: float | None) -> None:
    a = [row(0, 1.0), row(1, score, failure="unscored: no verdict"), row(2, 1.0)]
    b = [row(0, 0.0), row(1, 1.0), row(2, score, failure="unscored: no verdict")]
    found = compare_pairs(a, b, GYM)
    assert (found.unscored, found.prompts.n, found.prompts.wins) == (2, 1, 1)
    assert any("2 pairs that are not graded" in line for line in remarks(found))


def test_no_graded_pair_at_all_is_an_error_that_says_why() -> None:
    a = [row(0, None, failure="unscored: no verdict"), row(1, None, failure="unscored: no verdict")]
    with pytest.raises(DataError, match=r"none of the 2 pairs .*; unscored: no verdict: 2 rows"):
        compare_pairs(a, rows([1.0, 1.0]), GYM)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [], "A has no row of the benchmark 'in-distribution': it is empty"),
        (rows([1.0]), [], "B has no row"),
        ([replace(row(0, 1.0), benchmark="harder")], rows([1.0]), "A has no row .*: only of harder"),
        (rows([1.0]), [row(0, 1.0), row(0, 0.0)], "B answers the prompt 0000000000000000 .* twice: 'prompt 0'"),
    ],
)
def test_empty_and_doubled_tables_are_errors(a: list[EvaluationRow], b: list[EvaluationRow], message: str) -> None:
    with pytest.raises(DataError, match=message):
        compare_pairs(a, b, GYM)


def test_a_single_prompt_has_no_interval_and_says_so() -> None:
    found = compare_pairs(rows([1.0]), rows([0.0]), GYM)
    assert found.prompts.difference.value == found.prompts.p == 1
    assert math.isnan(found.prompts.difference.low)
    assert "a single prompt" in " ".join(remarks(found))
    alike = compare_pairs(rows([1.0] * 5), rows([0.0] * 5), GYM)
    assert math.isnan(alike.prompts.difference.low)
    assert "the difference is the same on all 5 prompts" in " ".join(remarks(alike))


def test_all_ties_have_no_interval_but_a_bound_on_how_unlike_the_two_may_be() -> None:
    found = compare_pairs(rows([1.0] * 30), rows([1.0] * 30), GYM)
    assert math.isnan(found.prompts.difference.high)
    assert "may still differ on up to 9.5 %" in " ".join(remarks(found))  # the rule of three: about 3/30
    assert "may still differ" not in " ".join(remarks(compare_pairs(rows([1.0, 1.0]), rows([1.0, 0.0]), GYM)))


def test_tasks_and_references_that_differ_are_counted() -> None:
    a = rows([1.0, 0.0, 1.0], ["gcd", "gcd", "lcm"])
    b = [row(0, 0.0, "gcd"), row(1, 1.0, "lcm"), replace(row(2, 1.0, "lcm"), expected="41")]
    found = compare_pairs(a, b, GYM)
    assert (found.retagged, found.references) == (1, 1)
    assert list(found.tasks) == ["gcd", "lcm", TASK_DIFFERS]
    assert len(list(remarks(found))) >= 2


@pytest.mark.parametrize("scores", [[1.0], [1.0, 1.0], [1.0, 0.0, 0.5]])
def test_a_figure_that_cannot_be_computed_is_null_in_json(scores: list[float]) -> None:
    text = json.dumps(as_json(compare_pairs(rows(scores), rows([1.0] * len(scores)), GYM)), allow_nan=False)
    found = json.loads(text)
    assert found["tasks"]["gcd"]["ties"] == sum(one == 1 for one in scores)
    assert (found["prompts"]["difference"]["low"] is None) == (len({*scores}) == 1)


# --- over seeds


def runs(rate: float, first: int, count: int = 5) -> dict[int, list[EvaluationRow]]:
    return {seed: answers(first + seed, rate) for seed in range(count)}


def mean_of_tasks(run: Sequence[EvaluationRow]) -> float:
    by_task: dict[str, list[bool]] = {}
    for one in run:
        by_task.setdefault(one.task, []).append(one.success)
    return float(np.mean([np.mean(found) for found in by_task.values()]))


def test_over_seeds_the_interval_and_the_t_test_are_scipys() -> None:
    a, b = runs(0.7, 10), runs(0.5, 100)
    found = over_seeds(a, b, GYM)
    of_a, of_b = (np.array([mean_of_tasks(run) for run in side.values()]) for side in (a, b))
    expected = stats.ttest_rel(of_a, of_b)
    interval = expected.confidence_interval()
    one = found.mean_of_tasks
    assert (one.a, one.b) == pytest.approx((of_a.mean(), of_b.mean()))
    assert (one.difference.low, one.difference.high) == pytest.approx((interval.low, interval.high))
    assert one.t_p == pytest.approx(expected.pvalue)
    assert list(one.by_seed.values()) == pytest.approx((of_a - of_b).tolist())
    signs = stats.permutation_test(
        (of_a - of_b,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True, axis=0
    )
    assert one.p == pytest.approx(signs.pvalue)
    assert one.p >= 2.0 ** (1 - len(one.by_seed))
    for name in ("p", "t_p"):
        adjusted = multipletests([getattr(each, name) for each in found.tasks.values()], method="holm")[1]
        assert [getattr(each, f"{name}_holm") for each in found.tasks.values()] == pytest.approx(list(adjusted))


def test_seeds_that_only_one_has_are_left_out_and_named() -> None:
    found = over_seeds(runs(0.7, 10), {seed: run for seed, run in runs(0.5, 100).items() if seed != 2}, GYM)
    assert found.unpaired == (2,)
    assert found.mean_of_tasks.difference.n == 4


def test_no_seed_in_common_and_a_seed_that_cannot_be_compared_are_errors() -> None:
    with pytest.raises(DataError, match=r"A has the seeds \[0\] and B \[3\]"):
        over_seeds({0: rows([1.0])}, {3: rows([1.0])}, GYM)
    with pytest.raises(DataError, match="B has no row"):
        over_seeds({0: rows([1.0]), 1: rows([1.0])}, {0: rows([1.0]), 1: []}, GYM)


def test_one_seed_has_a_difference_but_no_interval() -> None:
    found = over_seeds({0: answers(1, 0.9)}, {0: answers(2, 0.1)}, GYM)
    assert found.mean_of_tasks.difference.value > 0.5
    assert math.isnan(found.mean_of_tasks.difference.low)
    assert math.isnan(found.mean_of_tasks.t_p)
    assert found.mean_of_tasks.p == 1
    assert all(one.t_p_holm is None for one in found.tasks.values())


def test_ungraded_pairs_are_counted_over_all_seeds() -> None:
    a = {seed: rows([1.0, 0.0, None]) for seed in range(3)}
    b = {seed: rows([0.0, 1.0, 1.0]) for seed in range(3)}
    found = over_seeds(a, b, GYM)
    assert found.unscored == 3
    assert math.isnan(found.mean_of_tasks.t_p)  # the same difference for all seeds
