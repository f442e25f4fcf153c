"""Two checkpoints on the same prompts: the figures against scipy and statsmodels, and every kind of trouble."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from tapir.domain.round import EvalResult
from tapir.errors import DataError
from tapir.evaluation.matching import TASK_DIFFERS, benchmarks_of, pairs
from tapir.evaluation.paired import Contrast, _contrast, _hierarchical, _interval, mcnemar, over_seeds, paired
from tapir.evaluation.side_by_side import as_json, remarks
from tapir.store.rows import EvaluationRow

GYM = "in-distribution"


def row(number: int, score: float | None, task: str = "gcd", failure: str | None = None) -> EvaluationRow:
    text = f"prompt {number}"
    return EvaluationRow(GYM, f"{number:016x}", task, text, "42", "a", score, score == 1, failure)


def rows(scores: Sequence[float | None], tasks: Sequence[str] = ()) -> list[EvaluationRow]:
    return [row(place, score, tasks[place] if tasks else "gcd") for place, score in enumerate(scores)]


def answers(seed: int, rate: float, tasks: int = 4, per_task: int = 15) -> list[EvaluationRow]:
    dice = np.random.default_rng(seed)
    names = [f"task {place // per_task}" for place in range(tasks * per_task)]
    return rows([float(one) for one in dice.random(tasks * per_task) < rate], names)


# --- against scipy and statsmodels


@pytest.mark.parametrize("seed", range(5))
def test_the_p_value_of_successes_is_statsmodels_exact_mcnemar(seed: int) -> None:
    a, b = answers(seed, 0.7), answers(seed + 50, 0.5)
    found = paired(a, b, GYM)
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


@pytest.mark.parametrize("seed", range(3))
def test_the_p_value_of_few_scores_is_scipys_exact_permutation_test(seed: int) -> None:
    dice = np.random.default_rng(seed)
    a, b = dice.random(9).tolist(), dice.random(9).tolist()
    found = paired(rows(a), rows(b), GYM).prompts
    expected = stats.permutation_test(
        (np.array(a) - np.array(b),), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True, axis=0
    )
    assert found.score_p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.score.value == pytest.approx(np.mean(a) - np.mean(b))


def test_the_p_value_of_many_scores_is_near_scipys_wilcoxon_like_normal_limit() -> None:
    dice = np.random.default_rng(4)
    a = dice.random(400)
    b = np.clip(a - 0.03 + 0.2 * dice.standard_normal(400), 0, 1)
    found = paired(rows(a.tolist()), rows(b.tolist()), GYM).prompts
    assert found.score_p == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.01)


def test_p_values_of_tasks_are_corrected_as_statsmodels_does() -> None:
    a, b = answers(1, 0.8, tasks=6, per_task=20), answers(2, 0.45, tasks=6, per_task=20)
    found = paired(a, b, GYM)
    for raw, adjusted in (("p", "p_holm"), ("score_p", "score_p_holm")):
        expected = multipletests([getattr(one, raw) for one in found.tasks.values()], method="holm")[1]
        assert [getattr(one, adjusted) for one in found.tasks.values()] == pytest.approx(list(expected))
    assert any(one.p_holm != one.p for one in found.tasks.values())
    assert found.prompts.p_holm is None


def test_the_interval_by_prompt_is_near_scipys_bootstrap() -> None:
    a, b = answers(3, 0.7, tasks=1, per_task=150), answers(4, 0.5, tasks=1, per_task=150)
    found = paired(a, b, GYM).prompts.difference
    difference = np.array([one.success - other.success for one, other in zip(a, b, strict=True)], dtype=float)
    expected = stats.bootstrap((difference,), np.mean, method="percentile", rng=np.random.default_rng(0))
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.015)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.015)
    assert found.value == pytest.approx(difference.mean())


def test_the_same_seed_gives_the_same_intervals() -> None:
    a, b = answers(1, 0.8), answers(2, 0.45)
    assert paired(a, b, GYM, seed=3) == paired(a[::-1], b, GYM, seed=3)
    assert paired(a, b, GYM, seed=3) != paired(a, b, GYM, seed=4)


@pytest.mark.parametrize(("tasks", "per_task"), [(1, 60), (12, 4), (6, 20)])
def test_95_of_100_intervals_hold_the_true_difference(tasks: int, per_task: int) -> None:
    dice = np.random.default_rng(tasks)
    names = [f"task {place // per_task}" for place in range(tasks * per_task)]
    rate_a, rate_b = (np.repeat(dice.uniform(low, low + 0.4, tasks), per_task) for low in (0.4, 0.25))
    truth, trials, inside = float((rate_a - rate_b).mean()), 250, 0
    for trial in range(trials):
        shared, own = dice.random((2, len(names)))
        other = np.where(dice.random(len(names)) < 0.5, shared, own)
        a, b = (rows((one < rate).astype(float).tolist(), names) for one, rate in ((shared, rate_a), (other, rate_b)))
        both = pairs(a, b, GYM, common=False)
        found = _interval(
            both.success[0] - both.success[1], both.strata(), resamples=400, dice=np.random.default_rng(trial)
        )
        inside += found.low <= truth <= found.high
    assert 0.905 <= inside / trials <= 0.985  # 0.95 ± 3 standard errors; an interval of 80 or 99.9 % fails


def test_p_values_are_below_5_of_100_no_more_often_than_that_where_nothing_differs() -> None:
    # 3 tasks of 4 prompts: few enough that every pattern of signs is looked at
    by_prompt, by_task = [], []
    for seed in range(300):
        both = pairs(answers(seed, 0.5, 3, 4), answers(9000 + seed, 0.5, 3, 4), GYM, common=False)
        strata, dice = both.strata(), np.random.default_rng(seed)
        by_prompt.append(_contrast(both, {"all": np.concatenate(list(strata.values()))}, resamples=2, dice=dice).p)
        by_task.append(_contrast(both, strata, resamples=2, dice=dice).p)
    for p in (by_prompt, by_task):
        assert 0 < np.mean(np.array(p) < 0.3) < 0.37
        assert np.mean(np.array(p) < 0.05) < 0.085


# --- properties

outcomes = st.lists(
    st.tuples(st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from("xyz")),
    min_size=1,
    max_size=14,
)


def swapped(one: Contrast) -> Contrast:
    def turned(found: EvalResult) -> EvalResult:
        return replace(found, value=-found.value, low=-found.high, high=-found.low)

    return replace(
        one,
        a=one.b,
        b=one.a,
        wins=one.losses,
        losses=one.wins,
        difference=turned(one.difference),
        score=turned(one.score),
    )


def figures(one: Contrast) -> list[float]:
    parts = [one.a, one.b, one.wins, one.losses, one.ties, one.p, one.score_p]
    return [*parts, *(getattr(each, end) for each in (one.difference, one.score) for end in ("value", "low", "high"))]


@settings(max_examples=40, deadline=None)
@given(outcomes)
def test_b_against_a_is_the_mirror_of_a_against_b(found: list[tuple[float, float, str]]) -> None:
    tasks = [task for _, _, task in found]
    a, b = rows([one for one, _, _ in found], tasks), rows([one for _, one, _ in found], tasks)
    there, back = paired(a, b, GYM, resamples=50), paired(b, a, GYM, resamples=50)
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


@settings(max_examples=40, deadline=None)
@given(outcomes)
def test_a_checkpoint_does_not_differ_from_itself(found: list[tuple[float, float, str]]) -> None:
    a = rows([one for one, _, _ in found], [task for _, _, task in found])
    one = paired(a, a, GYM, resamples=50)
    assert one.prompts.difference.value == one.mean_of_tasks.difference.value == 0
    assert one.prompts.p == one.mean_of_tasks.score_p == 1
    assert one.prompts.ties == one.prompts.n == len(found)
    assert math.isnan(one.prompts.difference.low)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_symmetric_and_1_without_a_difference(wins: int, losses: int) -> None:
    assert mcnemar(wins, losses) == mcnemar(losses, wins)
    assert 0 < mcnemar(wins, losses) <= 1
    assert wins != losses or mcnemar(wins, losses) == pytest.approx(1)


# --- tasks of unequal size


def test_the_mean_of_tasks_counts_every_task_the_same_and_the_prompts_every_prompt() -> None:
    tasks = ["big"] * 8 + ["small"] * 2
    found = paired(rows([1.0] * 8 + [0.0] * 2, tasks), rows([0.0] * 10, tasks), GYM)
    assert found.prompts.difference.value == pytest.approx(0.8)
    assert found.mean_of_tasks.difference.value == pytest.approx(0.5)
    assert found.tasks["big"].difference.value == 1
    assert found.tasks["small"].difference.value == 0


# --- trouble


def test_prompts_that_only_one_was_asked_are_an_error_that_names_the_first() -> None:
    with pytest.raises(DataError, match=r"2 are in both, 3 only in A, 0 only in B\n  only A: 'prompt 2'") as caught:
        paired(rows([1.0] * 5), rows([0.0] * 2), GYM)
    assert "--common" in caught.value.remedy


def test_with_common_those_prompts_are_left_out_and_counted() -> None:
    a, b = rows([1.0, 0.0, 1.0, 1.0]), rows([0.0, 0.0, 1.0])[1:]
    found = paired(a, b, GYM, common=True)
    assert (found.only_a, found.only_b, found.prompts.n) == (2, 0, 2)
    assert "left out: 2 prompts that only A was asked, 0 that only B was asked" in list(remarks(found))


def test_nothing_in_common_is_an_error_even_with_common() -> None:
    with pytest.raises(DataError, match="0 are in both") as caught:
        paired(rows([1.0] * 2), [replace(one, id=f"{9:016x}") for one in rows([1.0])], GYM, common=True)
    assert "--common" not in caught.value.remedy


@pytest.mark.parametrize("score", [None, math.nan])
def test_a_pair_with_an_ungraded_side_is_left_out_and_counted(score: float | None) -> None:
    a = [row(0, 1.0), row(1, score, failure="unscored: no verdict"), row(2, 1.0)]
    b = [row(0, 0.0), row(1, 1.0), row(2, score, failure="unscored: no verdict")]
    found = paired(a, b, GYM)
    assert (found.unscored, found.prompts.n, found.prompts.wins) == (2, 1, 1)
    assert any("2 pairs that are not graded" in line for line in remarks(found))


def test_no_graded_pair_at_all_is_an_error_that_says_why() -> None:
    a = [row(0, None, failure="unscored: no verdict"), row(1, None, failure="unscored: no verdict")]
    with pytest.raises(DataError, match=r"none of the 2 pairs .*; unscored: no verdict: 2 rows"):
        paired(a, rows([1.0, 1.0]), GYM)


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
        paired(a, b, GYM)


def test_a_single_prompt_has_no_interval_and_says_so() -> None:
    found = paired(rows([1.0]), rows([0.0]), GYM)
    assert found.prompts.difference.value == found.prompts.p == 1
    assert math.isnan(found.prompts.difference.low)
    assert "a single prompt" in " ".join(remarks(found))


def test_all_ties_have_no_interval_but_a_bound_on_how_unlike_the_two_may_be() -> None:
    found = paired(rows([1.0] * 30), rows([1.0] * 30), GYM)
    assert math.isnan(found.prompts.difference.high)
    assert found.prompts.most_unlike == pytest.approx(0.095, abs=0.001)  # the rule of three: about 3/30
    assert "may still differ on up to 9.5 %" in " ".join(remarks(found))
    assert math.isnan(paired(rows([1.0, 1.0]), rows([1.0, 0.0]), GYM).prompts.most_unlike)


def test_one_win_everywhere_has_no_interval_either() -> None:
    found = paired(rows([1.0] * 5), rows([0.0] * 5), GYM)
    assert math.isnan(found.prompts.difference.low)
    assert "the difference is the same on all 5 prompts" in " ".join(remarks(found))


def test_tasks_and_references_that_differ_are_counted() -> None:
    a = rows([1.0, 0.0, 1.0], ["gcd", "gcd", "lcm"])
    b = [row(0, 0.0, "gcd"), row(1, 1.0, "lcm"), replace(row(2, 1.0, "lcm"), expected="41")]
    found = paired(a, b, GYM)
    assert (found.retagged, found.references) == (1, 1)
    assert list(found.tasks) == ["gcd", "lcm", TASK_DIFFERS]
    assert len(list(remarks(found))) >= 2


@pytest.mark.parametrize("scores", [[1.0], [1.0, 1.0], [1.0, 0.0, 0.5]])
def test_a_figure_that_cannot_be_computed_is_null_in_json(scores: list[float]) -> None:
    text = json.dumps(as_json(paired(rows(scores), rows([1.0] * len(scores)), GYM)), allow_nan=False)
    assert ("null" in text) is True
    assert json.loads(text)["tasks"]["gcd"]["ties"] == sum(one == 1 for one in scores)


def test_benchmarks_are_named_in_the_order_they_are_met() -> None:
    found = [replace(row(place, 1.0), benchmark=name) for place, name in enumerate(["b", "a", "b", "c"])]
    assert benchmarks_of(found) == ["b", "a", "c"]


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
    assert one.p >= one.least_p == 0.0625


def test_over_seeds_every_task_has_a_t_test_with_holms_correction() -> None:
    found = over_seeds(runs(0.7, 10), runs(0.5, 100), GYM)
    for raw, adjusted in (("t_p", "t_p_holm"), ("p", "p_holm")):
        expected = multipletests([getattr(one, raw) for one in found.tasks.values()], method="holm")[1]
        assert [getattr(one, adjusted) for one in found.tasks.values()] == pytest.approx(list(expected))
    assert found.mean_of_tasks.t_p_holm is None


def test_the_hierarchical_interval_sees_seeds_that_differ() -> None:
    alike = over_seeds({seed: answers(1, 0.7) for seed in range(6)}, {seed: answers(2, 0.5) for seed in range(6)}, GYM)
    steady = paired(answers(1, 0.7), answers(2, 0.5), GYM).mean_of_tasks.difference
    assert alike.hierarchical.low == pytest.approx(steady.low, abs=0.02)
    assert alike.hierarchical.high == pytest.approx(steady.high, abs=0.02)
    a = {seed: rows([1.0 if (place + seed) % 6 < seed else 0.0 for place in range(60)]) for seed in range(6)}
    unlike = over_seeds(a, {seed: answers(2, 0.0, tasks=1, per_task=60) for seed in range(6)}, GYM, common=True)
    assert unlike.hierarchical.high - unlike.hierarchical.low > 0.3
    assert unlike.hierarchical.n == 360


@pytest.mark.parametrize("same_prompts", [True, False])
def test_95_of_100_hierarchical_intervals_over_ten_seeds_hold_the_true_difference(*, same_prompts: bool) -> None:
    dice, trials, inside, seeds, prompts = np.random.default_rng(8), 120, 0, 10, 40

    def run(rates: np.ndarray, effect: float, first: int) -> list[EvaluationRow]:
        found = dice.random(prompts) < np.clip(rates + effect, 0, 1)
        return [row(first + place, float(one)) for place, one in enumerate(found)]

    for trial in range(trials):
        shared = dice.uniform(0.2, 0.6, prompts)
        a: dict[int, list[EvaluationRow]] = {}
        b: dict[int, list[EvaluationRow]] = {}
        for seed in range(seeds):
            rates = shared if same_prompts else dice.uniform(0.2, 0.6, prompts)
            first = 0 if same_prompts else seed * prompts
            a[seed] = run(rates, 0.1 + 0.08 * float(dice.standard_normal()), first)
            b[seed] = run(rates, 0.0, first)
        both = {seed: pairs(a[seed], b[seed], GYM, common=False) for seed in range(seeds)}
        found = _hierarchical(both, resamples=300, seed=trial)
        inside += found.low <= 0.1 <= found.high
    assert 0.88 <= inside / trials <= 1.0


def test_seeds_that_only_one_has_are_left_out_and_named() -> None:
    found = over_seeds(runs(0.7, 10), {seed: run for seed, run in runs(0.5, 100).items() if seed != 2}, GYM)
    assert found.unpaired == (2,)
    assert found.mean_of_tasks.difference.n == 4


def test_no_seed_in_common_is_an_error() -> None:
    with pytest.raises(DataError, match=r"A has the seeds \[0\] and B \[3\]"):
        over_seeds({0: rows([1.0])}, {3: rows([1.0])}, GYM)


def test_one_seed_has_a_difference_but_no_interval() -> None:
    found = over_seeds({0: answers(1, 0.9)}, {0: answers(2, 0.1)}, GYM)
    assert found.mean_of_tasks.difference.value > 0.5
    assert math.isnan(found.mean_of_tasks.difference.low)
    assert math.isnan(found.mean_of_tasks.t_p)
    assert math.isnan(found.hierarchical.low)
    assert found.mean_of_tasks.p == found.mean_of_tasks.least_p == 1
    assert all(one.t_p_holm is None for one in found.tasks.values())


def test_the_same_difference_for_all_seeds_has_no_t_test() -> None:
    found = over_seeds(
        {seed: rows([1.0, 1.0]) for seed in range(3)}, {seed: rows([1.0, 0.0]) for seed in range(3)}, GYM
    )
    assert math.isnan(found.mean_of_tasks.t_p)
    assert found.mean_of_tasks.p == 0.25


def test_ungraded_pairs_and_missing_prompts_are_counted_over_all_seeds() -> None:
    a = {seed: [*rows([1.0, 0.0, None]), row(7, 1.0, failure="x")] for seed in range(3)}
    b = {seed: rows([0.0, 1.0, 1.0]) for seed in range(3)}
    found = over_seeds(a, b, GYM, common=True)
    assert (found.unscored, found.only_a, found.only_b) == (3, 3, 0)
    assert found.hierarchical.n == 6


@pytest.mark.parametrize("change", [lambda found: found[1:], lambda _: []])
def test_a_seed_that_cannot_be_compared_is_an_error(
    change: Callable[[list[EvaluationRow]], list[EvaluationRow]],
) -> None:
    with pytest.raises(DataError):
        over_seeds({0: rows([1.0] * 3), 1: rows([1.0] * 3)}, {0: rows([1.0] * 3), 1: change(rows([1.0] * 3))}, GYM)
