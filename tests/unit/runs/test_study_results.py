"""Results of a study against the same numbers by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from scipy import stats

from support import studies as made
from tapir.data.files import write_json
from tapir.evaluation.paired import SeedContrast
from tapir.runs.study import format as formatting
from tapir.runs.study import results
from tapir.runs.study.grid import UNTUNED, StudyConfig, runs_of
from tapir.runs.study.results import Effort, StudyResult, VariantResult, effort

FLAT = {"gcd": 0.1, "chain_sum": 0.3}
SUCCESS = {
    ("tapir", 1): [FLAT, {"gcd": 0.5, "chain_sum": 0.5}, {"gcd": 0.8, "chain_sum": 0.6}],
    ("tapir", 2): [FLAT, {"gcd": 0.4, "chain_sum": 0.4}, {"gcd": 0.9, "chain_sum": 0.3}],
    ("random", 1): [FLAT, {"gcd": 0.3, "chain_sum": 0.3}, {"gcd": 0.6, "chain_sum": 0.4}],
    ("random", 2): [FLAT, {"gcd": 0.2, "chain_sum": 0.2}, {"gcd": 0.3, "chain_sum": 0.3}],
}


def execute(
    folder: Path,
    grid: StudyConfig | None = None,
    success: Mapping[tuple[str, int], Sequence[Mapping[str, float]]] = SUCCESS,
) -> StudyResult:
    """Return the result of runs with this success by round."""
    grid = grid or made.study()
    for (variant, seed), by_round in success.items():
        made.finish_run(made.run_of(grid, variant, seed), folder, by_round)
    return results(grid, runs_of(grid), folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """All four runs."""
    return execute(tmp_path_factory.mktemp("study"))


def variant_of(result: StudyResult, name: str) -> VariantResult:
    return next(variant for variant in result.variants if variant.name == name)


def difference_of(result: StudyResult, name: str) -> SeedContrast:
    return variant_of(result, name).against["in-distribution"].mean_of_tasks


def test_a_variant_is_the_mean_of_its_seeds_with_students_interval(whole: StudyResult) -> None:
    tapir = variant_of(whole, "tapir")
    success = tapir.success["in-distribution"]
    low, high = stats.t.interval(0.95, 1, loc=0.65, scale=stats.sem([0.7, 0.6]))
    assert tapir.seeds == (1, 2)
    assert (success.value, success.n, success.low, success.high) == pytest.approx((0.65, 2, low, high))
    assert [examples for examples, _ in tapir.curve] == [0, 10, 20]
    assert [success.value for _, success in tapir.curve] == pytest.approx([0.2, 0.45, 0.65])


def test_a_difference_is_paired_by_seed(whole: StudyResult) -> None:
    difference = difference_of(whole, "tapir")
    t = stats.ttest_rel([0.7, 0.6], [0.5, 0.3])
    assert (difference.a, difference.b, difference.difference.value) == pytest.approx((0.65, 0.4, 0.25))
    assert difference.by_seed == {1: pytest.approx(0.2), 2: pytest.approx(0.3)}
    assert difference.t_p == pytest.approx(t.pvalue)
    interval = difference.difference.low, difference.difference.high
    assert interval == pytest.approx(tuple(t.confidence_interval()))
    against = variant_of(whole, "tapir").against
    by_task = {task: contrast.difference.value for task, contrast in against["in-distribution"].tasks.items()}
    assert by_task == {"gcd": pytest.approx(0.4), "chain_sum": pytest.approx(0.1)}
    assert against["harder"].mean_of_tasks.difference.value == pytest.approx(0.25)


def test_p_values_are_adjusted_for_all_variants_and_the_untuned_student(whole: StudyResult) -> None:
    first, second = sorted(difference_of(whole, name).t_p for name in ("tapir", UNTUNED))
    adjusted = sorted([min(1.0, 2 * first), max(min(1.0, 2 * first), second)])
    p_values = [variant_of(whole, name).p_holm for name in ("tapir", UNTUNED)]
    assert sorted(p for p in p_values if p is not None) == pytest.approx(adjusted)
    assert variant_of(whole, "random").p_holm is None


def test_the_untuned_student_is_what_every_run_began_with(whole: StudyResult) -> None:
    untuned = variant_of(whole, UNTUNED)
    ((examples, success),) = untuned.curve
    assert examples == 0
    assert success.value == pytest.approx(0.2)
    assert untuned.effort == Effort()
    assert untuned.efficiency is None
    assert difference_of(whole, UNTUNED).difference.value == pytest.approx(-0.2)


def test_the_share_of_the_baselines_examples_is_where_the_mean_curves_meet(whole: StudyResult) -> None:
    efficiency = variant_of(whole, "tapir").efficiency
    assert efficiency is not None
    assert efficiency.share == pytest.approx(10 * (0.4 - 0.2) / (0.45 - 0.2) / 20)
    assert variant_of(whole, "random").efficiency is None


def test_against_the_untuned_student_there_is_no_share_of_its_examples(tmp_path: Path) -> None:
    result = execute(tmp_path, made.study(baseline=UNTUNED))
    assert all(variant.efficiency is None for variant in result.variants)
    assert difference_of(result, "tapir").difference.value == pytest.approx(0.45)


def test_one_seed_has_values_but_no_intervals(tmp_path: Path) -> None:
    one_seed = {key: by_round for key, by_round in SUCCESS.items() if key[1] == 1}
    result = execute(tmp_path, made.study(seeds=[1]), one_seed)
    tapir = variant_of(result, "tapir")
    assert tapir.success["in-distribution"].value == pytest.approx(0.7)
    assert math.isnan(tapir.success["in-distribution"].low)
    assert difference_of(result, "tapir").difference.value == pytest.approx(0.2)
    assert tapir.p_holm is None


def test_only_finished_runs_with_seeds_that_both_have_are_compared(tmp_path: Path) -> None:
    variants = {"tapir": {"about": "x", "seeds": [2, 3, 4]}, "random": {"about": "y"}}
    success = {
        ("tapir", 2): SUCCESS["tapir", 2],
        ("tapir", 3): SUCCESS["tapir", 1],
        ("tapir", 4): SUCCESS["tapir", 1][:2],
        ("random", 2): SUCCESS["random", 2],
    }
    result = execute(tmp_path, made.study(variants=variants), success)
    assert result.missing == [("tapir", 4), ("random", 1)]
    tapir = variant_of(result, "tapir")
    assert tapir.seeds == (2, 3)
    assert tapir.success["in-distribution"].value == pytest.approx(0.65)
    assert difference_of(result, "tapir").by_seed == {2: pytest.approx(0.3)}


def test_every_variant_is_compared_with_the_method_too(tmp_path: Path) -> None:
    result = execute(tmp_path, made.study(method="tapir"))
    parts = {part.name: part for part in result.parts}
    difference = parts["random"].against["in-distribution"].mean_of_tasks
    assert difference.by_seed == {1: pytest.approx(-0.2), 2: pytest.approx(-0.3)}
    assert not parts["tapir"].against
    page = formatting.markdown(result)
    assert "## Against tapir, on the seeds that both have" in page
    assert "| random | 2 | -25.0" in page
    assert "## tapir against random, task by task" in page
    assert {part["name"] for part in formatting.to_json(result)["against_method"]} == {UNTUNED, "tapir", "random"}


def test_without_the_baseline_nothing_is_compared(tmp_path: Path) -> None:
    result = execute(tmp_path, None, {key: by_round for key, by_round in SUCCESS.items() if key[0] == "tapir"})
    for variant in result.variants:
        assert not variant.against
        assert variant.p_holm is None
        assert variant.efficiency is None


def test_a_run_of_another_recipe_is_not_read(tmp_path: Path) -> None:
    execute(tmp_path, None, {("tapir", 1): SUCCESS["tapir", 1]})
    other = made.study(set={"curriculum.rounds": 2, "curriculum.size": 11, "evaluation.unseen_per_task": 0})
    assert len(results(other, runs_of(other), tmp_path).missing) == 4


def test_effort_counts_what_is_in_the_folder(tmp_path: Path) -> None:
    grid = made.study()
    store = made.finish_run(made.run_of(grid, "tapir", 1), tmp_path, SUCCESS["tapir", 1])
    made.add_role_tables(store)
    write_json(store.round(0) / "training.json", {"examples": 500, "tokens": 70_000})  # of a warm-up
    made.add_events(store, (10, "session"), (40, "done"), (100, "session"), (105, "done"))
    result = effort(store, 2)
    assert result == Effort(examples=20, distinct=19, tokens=73_000, teacher=2 + 3 + 2, judge=12, answers=6, seconds=35)
    assert effort(store, 1).examples == 10
    assert Effort.mean([result, Effort()]).teacher == 3.5
    assert Effort.mean([]) == Effort()


def test_effort_counts_every_sample_of_a_pass_rate(tmp_path: Path) -> None:
    settings = {"curriculum.difficulty": {"kind": "pass-rate", "samples": 5}, "curriculum.threshold.value": 0.5}
    grid = made.study(set={"curriculum.rounds": 2, "evaluation.unseen_per_task": 0, **settings})
    store = made.finish_run(made.run_of(grid, "tapir", 1), tmp_path, SUCCESS["tapir", 1])
    made.add_estimates(store, 4)
    assert (effort(store, 2).answers, effort(store, 2).judge) == (20, 20)
