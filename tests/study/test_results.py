"""What a study says of finished runs, beside the same figures by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from scipy import stats

from tapir.store.files import write_json
from tapir.study import Study, StudyResult, jobs, results, words
from tapir.study.effort import Effort, effort
from tapir.study.grid import UNTUNED
from tapir.study.results import VariantResult
from tests.study import made

FLAT = {"gcd": 0.1, "chain_sum": 0.3}
SUCCESS = {
    ("tapir", 1): [FLAT, {"gcd": 0.5, "chain_sum": 0.5}, {"gcd": 0.8, "chain_sum": 0.6}],
    ("tapir", 2): [FLAT, {"gcd": 0.4, "chain_sum": 0.4}, {"gcd": 0.9, "chain_sum": 0.3}],
    ("random", 1): [FLAT, {"gcd": 0.3, "chain_sum": 0.3}, {"gcd": 0.6, "chain_sum": 0.4}],
    ("random", 2): [FLAT, {"gcd": 0.2, "chain_sum": 0.2}, {"gcd": 0.3, "chain_sum": 0.3}],
}


def carried_out(
    folder: Path, grid: Study | None = None, success: Mapping[tuple[str, int], Sequence[Mapping[str, float]]] = SUCCESS
) -> StudyResult:
    """The result of runs that ended so."""
    grid = grid or made.study()
    for (variant, seed), by_round in success.items():
        made.finish(made.job_of(grid, variant, seed), folder, by_round)
    return results(grid, jobs(grid), folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """All four runs."""
    return carried_out(tmp_path_factory.mktemp("study"))


def named(found: StudyResult, name: str) -> VariantResult:
    return next(one for one in found.variants if one.name == name)


def test_a_variant_is_the_mean_of_its_seeds_with_students_interval(whole: StudyResult) -> None:
    tapir = named(whole, "tapir")
    success = tapir.success["in-distribution"]
    low, high = stats.t.interval(0.95, 1, loc=0.65, scale=stats.sem([0.7, 0.6]))
    assert tapir.seeds == (1, 2)
    assert (success.value, success.n, success.low, success.high) == pytest.approx((0.65, 2, low, high))


def test_a_curve_is_success_by_examples_round_by_round(whole: StudyResult) -> None:
    curve = named(whole, "tapir").curve
    assert [examples for examples, _ in curve] == [0, 10, 20]
    assert [at.value for _, at in curve] == pytest.approx([0.2, 0.45, 0.65])


def test_a_difference_is_paired_by_seed(whole: StudyResult) -> None:
    tapir = named(whole, "tapir")
    against = tapir.against["in-distribution"].mean_of_tasks
    t = stats.ttest_rel([0.7, 0.6], [0.5, 0.3])
    assert (against.a, against.b, against.difference.value) == pytest.approx((0.65, 0.4, 0.25))
    assert against.by_seed == {1: pytest.approx(0.2), 2: pytest.approx(0.3)}
    assert against.t_p == pytest.approx(t.pvalue)
    assert (against.difference.low, against.difference.high) == pytest.approx(tuple(t.confidence_interval()))
    tasks = tapir.against["in-distribution"].tasks
    assert {task: one.difference.value for task, one in tasks.items()} == {
        "gcd": pytest.approx(0.4),
        "chain_sum": pytest.approx(0.1),
    }
    assert tapir.against["harder"].mean_of_tasks.difference.value == pytest.approx(0.25)


def test_p_values_are_adjusted_for_all_variants_and_the_untuned_student(whole: StudyResult) -> None:
    raw = {name: named(whole, name).against["in-distribution"].mean_of_tasks.t_p for name in ("tapir", UNTUNED)}
    first, second = sorted(raw.values())
    adjusted = sorted([min(1.0, 2 * first), max(min(1.0, 2 * first), second)])
    assert sorted(one for name in raw if (one := named(whole, name).p_holm) is not None) == pytest.approx(adjusted)
    assert named(whole, "random").p_holm is None


def test_the_untuned_student_is_what_every_run_began_with(whole: StudyResult) -> None:
    untuned = named(whole, UNTUNED)
    assert untuned.success["in-distribution"].value == pytest.approx(0.2)
    assert [examples for examples, _ in untuned.curve] == [0]
    assert untuned.curve[0][1].value == pytest.approx(0.2)
    assert untuned.effort == Effort()
    assert untuned.efficiency is None
    assert untuned.against["in-distribution"].mean_of_tasks.difference.value == pytest.approx(-0.2)


def test_the_share_of_the_baselines_examples_is_where_the_mean_curves_meet(whole: StudyResult) -> None:
    found = named(whole, "tapir").efficiency
    assert found is not None
    assert found.share == pytest.approx(10 * (0.4 - 0.2) / (0.45 - 0.2) / 20)
    assert named(whole, "random").efficiency is None


def test_against_the_untuned_student_there_is_no_share_of_its_examples(tmp_path: Path) -> None:
    grid = made.study(baseline=UNTUNED)
    found = carried_out(tmp_path, grid)
    assert {one.name: one.efficiency for one in found.variants} == {UNTUNED: None, "tapir": None, "random": None}
    assert named(found, "tapir").against["in-distribution"].mean_of_tasks.difference.value == pytest.approx(0.45)
    assert not named(found, UNTUNED).against


def test_one_seed_has_values_but_no_intervals(tmp_path: Path) -> None:
    one_seed = {key: by_round for key, by_round in SUCCESS.items() if key[1] == 1}
    found = carried_out(tmp_path, made.study(seeds=[1]), one_seed)
    tapir = named(found, "tapir")
    assert tapir.success["in-distribution"].value == pytest.approx(0.7)
    assert math.isnan(tapir.success["in-distribution"].low)
    assert tapir.against["in-distribution"].mean_of_tasks.difference.value == pytest.approx(0.2)
    assert tapir.p_holm is None
    assert tapir.efficiency is not None
    assert math.isnan(tapir.efficiency.low)


def test_one_variant_alone_is_compared_with_the_untuned_student(tmp_path: Path) -> None:
    grid = made.study(variants=["tapir"], baseline="tapir")
    tapir = {key: by_round for key, by_round in SUCCESS.items() if key[0] == "tapir"}
    found = carried_out(tmp_path, grid, tapir)
    assert [one.name for one in found.variants] == [UNTUNED, "tapir"]
    assert named(found, UNTUNED).against["in-distribution"].mean_of_tasks.b == pytest.approx(0.65)


def test_only_seeds_that_both_have_are_compared(tmp_path: Path) -> None:
    variants = {"tapir": {"about": "x", "seeds": [2, 3]}, "random": {"about": "y"}}
    success = {
        ("tapir", 2): SUCCESS["tapir", 2],
        ("tapir", 3): SUCCESS["tapir", 1],
        ("random", 1): SUCCESS["random", 1],
        ("random", 2): SUCCESS["random", 2],
    }
    tapir = named(carried_out(tmp_path, made.study(variants=variants), success), "tapir")
    assert tapir.seeds == (2, 3)
    assert tapir.success["in-distribution"].value == pytest.approx(0.65)
    assert tapir.against["in-distribution"].mean_of_tasks.by_seed == {2: pytest.approx(0.3)}


def test_runs_that_are_not_finished_are_missing_and_the_rest_is_told(tmp_path: Path) -> None:
    some = {key: by_round for key, by_round in SUCCESS.items() if key != ("random", 2)}
    some["tapir", 2] = SUCCESS["tapir", 2][:2]
    found = carried_out(tmp_path, None, some)
    assert found.missing == [("tapir", 2), ("random", 2)]
    assert named(found, "tapir").seeds == (1,)


def test_every_variant_is_compared_with_the_method_too(tmp_path: Path) -> None:
    found = carried_out(tmp_path, made.study(method="tapir"))
    parts = {one.name: one for one in found.parts}
    assert parts["random"].against["in-distribution"].mean_of_tasks.by_seed == {
        1: pytest.approx(-0.2),
        2: pytest.approx(-0.3),
    }
    assert not parts["tapir"].against
    assert named(found, "tapir").against["in-distribution"].mean_of_tasks.difference.value == pytest.approx(0.25)
    page = words.markdown(found)
    assert "## Against tapir, on the seeds that both have" in page
    assert [line.split(" | ")[:2] for line in page.splitlines() if "[" in line and "-25.0" in line] == [
        ["| random", "2"]
    ]
    assert "## tapir against random, task by task" in page
    assert {one["name"] for one in words.as_json(found)["against_method"]} == {UNTUNED, "tapir", "random"}


def test_without_a_method_the_parts_are_not_compared(whole: StudyResult) -> None:
    assert not whole.parts
    assert "## Against" not in words.markdown(whole)


def test_without_the_baseline_nothing_is_compared(tmp_path: Path) -> None:
    found = carried_out(tmp_path, None, {key: one for key, one in SUCCESS.items() if key[0] == "tapir"})
    assert all(not one.against and one.p_holm is None and one.efficiency is None for one in found.variants)


def test_a_run_of_another_recipe_is_not_read(tmp_path: Path) -> None:
    carried_out(tmp_path, None, {("tapir", 1): SUCCESS["tapir", 1]})
    other = made.study(set={"curriculum.rounds": 2, "curriculum.size": 11, "evaluation.unseen_per_task": 0})
    assert len(results(other, jobs(other), tmp_path).missing) == 4


def test_a_run_of_an_earlier_version_with_a_key_without_effect_is_read(tmp_path: Path) -> None:
    rounds = {"set": {"curriculum.variant": "single-round"}, "about": "x"}
    grid = made.study({"tapir": rounds, "random": {"about": "y"}})
    job = made.job_of(grid, "tapir", 1)
    store = made.finish(job, tmp_path, SUCCESS["tapir", 1][:2])
    earlier = job.recipe.resolved()
    earlier["curriculum"]["rescoring"] = "every-round"
    write_json(store.folder / "recipe.json", earlier)
    assert ("tapir", 1) not in results(grid, jobs(grid), tmp_path).missing


def test_equal_runs_differ_by_nothing(tmp_path: Path) -> None:
    same = {key: SUCCESS["random", key[1]] for key in SUCCESS}
    tapir = named(carried_out(tmp_path, None, same), "tapir")
    assert tapir.against["in-distribution"].mean_of_tasks.difference.value == 0
    assert tapir.p_holm is None
    assert tapir.efficiency is not None
    assert tapir.efficiency.share == pytest.approx(1)


def test_effort_counts_what_is_in_the_folder(tmp_path: Path) -> None:
    grid = made.study()
    store = made.finish(made.job_of(grid, "tapir", 1), tmp_path, SUCCESS["tapir", 1])
    made.asked(store)
    made.events(store, (10, "session"), (40, "done"), (100, "session"), (105, "done"))
    found = effort(store, 2)
    assert found == Effort(examples=20, distinct=19, tokens=3000, teacher=2 + 3 + 2, judge=12, answers=6, seconds=35)
    assert effort(store, 1).examples == 10
    assert Effort.mean([found, Effort()]).teacher == 3.5
    assert Effort.mean([]) == Effort()


def test_effort_counts_every_sample_of_a_pass_rate(tmp_path: Path) -> None:
    settings = {"curriculum.difficulty": {"kind": "pass-rate", "samples": 5}, "curriculum.threshold.value": 0.5}
    grid = made.study(set={"curriculum.rounds": 2, "evaluation.unseen_per_task": 0, **settings})
    store = made.finish(made.job_of(grid, "tapir", 1), tmp_path, SUCCESS["tapir", 1])
    made.estimates(store, 4)
    assert (effort(store, 2).answers, effort(store, 2).judge) == (20, 20)


def test_a_warm_up_is_training_too(tmp_path: Path) -> None:
    store = made.finish(made.job_of(made.study(), "tapir", 1), tmp_path, SUCCESS["tapir", 1])
    write_json(store.round(0) / "training.json", {"examples": 500, "tokens": 70_000})
    assert effort(store, 2).tokens == 73_000
