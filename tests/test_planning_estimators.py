"""What a plan says of other ways to measure difficulty, against the recipe's own counting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapir.curriculum import Curriculum
from tapir.domain.task import TaskDistribution
from tapir.llm.estimate import Bounds
from tapir.planning import Plan, StagePlan, _working, plan
from tapir.planning.rounds import Guess, Round, played
from tapir.planning.steps import Step
from tapir.recipe_file import parse
from tapir.students.speed import Speed
from tests.recipes import api, endpoint
from tests.runs import build_run

ROWS, HELD_OUT = 60, 10
SIZE = ROWS - HELD_OUT
QUANTILE = {"threshold": {"rule": "quantile", "value": 0.4}}


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Plan]:
    """The plan of a recipe whose judge has a price."""
    path = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"Which number is {one}?", "output": f"It is {one}."} for one in range(ROWS)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def of(folder: Path | None = None, judge: dict[str, Any] | None = None, **curriculum: Any) -> Plan:
        content = api(
            corpus={"kind": "file", "path": str(path)},
            evaluation={"kind": "judged", "held_out": HELD_OUT},
            endpoints={"gpt": endpoint(price_input=1.0, price_output=4.0)},
        )
        content["judge"] = {**content["judge"], **(judge or {})}
        content["curriculum"] = {"size": 20, "rounds": 2, "target": {"taxonomy": "paper"}, **curriculum}
        return plan(parse(content), measure=False, folder=folder)

    return of


def stage(found: Plan, name: str, number: int = 0) -> StagePlan:
    return next(one for one in found.stages if (one.stage, one.round) == (name, number))


def names(found: Plan, number: int = 0) -> list[str]:
    return [one.stage for one in found.stages if one.round == number]


def said(found: Plan) -> str:
    return "\n".join(found.assumed)


# Stages and calls


@pytest.mark.parametrize(("kind", "who"), [("ifd", "student"), ("length", "nobody")])
def test_an_estimator_without_a_judge_takes_its_place_and_costs_no_call(
    planned: Callable[..., Plan], kind: str, who: str
) -> None:
    found = planned(difficulty=kind, rescoring="every-round", **QUANTILE)
    assert not {"answer", "judge"} & {*names(found), *names(found, 2)}
    assert (stage(found, "estimate").who, stage(found, "estimate").items) == (who, Bounds.sure(SIZE))
    assert stage(found, "estimate").cost.calls == Bounds()
    assert stage(found, "estimate", 2).items.expected >= SIZE


def test_without_a_difficulty_nothing_is_scored(planned: Callable[..., Plan]) -> None:
    found = planned(difficulty="none")
    assert not {"answer", "judge", "estimate"} & {*names(found), *names(found, 2)}
    assert "one pool" in said(found)
    assert "is hard for the student" not in said(found)


def test_every_sample_of_a_pass_rate_is_judged_and_paid_for(planned: Callable[..., Plan]) -> None:
    rates = planned(difficulty={"kind": "pass-rate", "samples": 6}, **QUANTILE)
    once = stage(planned(), "judge").cost
    found = stage(rates, "estimate")
    assert found.who == "student, judge"
    assert found.cost.calls.expected == pytest.approx(6 * once.calls.expected)
    assert found.cost.calls.most == 6 * once.calls.most
    assert found.cost.money.expected == pytest.approx(6 * once.money.expected)
    assert rates.total.money.expected > found.cost.money.expected > 0


def test_a_reference_read_alone_is_paid_once_for_all_samples(planned: Callable[..., Plan]) -> None:
    alone = {"mode": "single"}
    rates = planned(judge=alone, difficulty={"kind": "pass-rate", "samples": 6}, **QUANTILE)
    assert stage(rates, "estimate").cost.calls.expected == pytest.approx((6 + 1) * SIZE * 1.01)
    beside = planned(judge=alone, compare=["pass-rate"])
    assert stage(beside, "judge").cost.calls.expected == pytest.approx(2 * SIZE * 1.01)
    assert stage(beside, "compare pass-rate").cost.calls.expected == pytest.approx(4 * SIZE * 1.01)


def test_what_is_compared_is_measured_once_before_the_first_round(planned: Callable[..., Plan]) -> None:
    found = planned(compare=["ifd", "pass-rate", "length"], rescoring="every-round")
    order = names(found)
    at = order.index("judge")
    assert order[at : at + 5] == ["judge", "compare ifd", "compare pass-rate", "compare length", "canary"]
    assert not [name for name in names(found, 2) if name.startswith("compare")]
    verdicts = stage(found, "judge").cost
    assert stage(found, "compare pass-rate").cost.calls.expected == pytest.approx(4 * verdicts.calls.expected)
    assert stage(found, "compare ifd").cost.calls == stage(found, "compare length").cost.calls == Bounds()


def test_references_that_scoring_did_not_show_are_judged_later(planned: Callable[..., Plan]) -> None:
    alone = {"mode": "single", "null_answers": 10}
    scored, unscored = planned(judge=alone), planned(judge=alone, difficulty="length", **QUANTILE)
    assert stage(scored, "canary").cost.calls.expected == pytest.approx(10 * 1.01)
    assert stage(unscored, "canary").cost.calls.expected == pytest.approx(20 * 1.01)
    kept = {"difficulty": "length", "refine_keep": "judge", **QUANTILE}
    prefer = stage(planned(judge=alone, **kept), "prefer", 1)
    assert prefer.cost.calls.expected == pytest.approx(2 * prefer.items.expected * 1.01)


def test_at_most_is_never_below_expected(planned: Callable[..., Plan]) -> None:
    competence = {"schedule": {"kind": "competence", "start": 0.2, "end": 0.9}, "rescoring": "every-round"}
    for changes in (
        {"difficulty": "pass-rate", "rescoring": "every-round", **QUANTILE},
        {"difficulty": "none", "size": 80},
        {"difficulty": "ifd", "target": {"taxonomy": "paper", "shares": "pool"}, **QUANTILE},
        competence,
    ):
        for one in planned(**changes).stages:
            for bounds in (one.items, one.cost.calls, one.cost.money, one.cost.seconds):
                assert 0 <= bounds.expected <= bounds.most


# Time


def test_ifd_takes_two_thirds_of_training_and_a_pass_rate_all_its_samples() -> None:
    speed = Speed(answers=5.0, examples=2.0)
    read = Step(0, "estimate", "student", Bounds.sure(30), read=Bounds.sure(30))
    assert _working(read, speed).expected == pytest.approx(2 / 3 * 30 / 2)
    drawn = Step(0, "estimate", "student, judge", Bounds.sure(30), answered=Bounds.sure(120))
    assert _working(drawn, speed).expected == pytest.approx(120 / 5)


def test_the_time_of_the_students_own_work_is_not_known_without_measuring(planned: Callable[..., Plan]) -> None:
    found = planned(compare=["ifd", "length"])
    assert stage(found, "compare ifd").seconds is None
    assert stage(found, "compare length").seconds == Bounds()


# Rounds


def rounds_of(hard: float, tasks: dict[str, float], **settings: Any) -> list[Round]:
    curriculum = Curriculum(size=100, rounds=2, **settings)
    target = TaskDistribution.of(dict.fromkeys(tasks, 1.0))
    return played(curriculum, 1_000, Guess(hard, tasks, 0.5), target, seed=1, at_once=5)


def test_one_pool_is_drawn_from_as_a_whole() -> None:
    found = rounds_of(1.0, {"a": 0.97, "b": 0.03}, difficulty="none")
    assert [one.trained.expected for one in found] == [100, 100]
    assert found[0].answered.expected == pytest.approx(50 - 30, abs=12)  # b has 30 of the 50 it needs
    assert found[0].written.most == 300


def test_tasks_that_come_as_they_are_found_need_no_expansion() -> None:
    rare = {"a": 0.97, "b": 0.03}
    assert rounds_of(0.5, rare)[0].written.expected > 0
    assert rounds_of(0.5, rare, target={"shares": "pool"})[0].written.expected == 0


def test_a_small_hard_pool_is_not_filled_with_easy_examples_where_tasks_come_as_found() -> None:
    found = rounds_of(0.01, {"a": 0.5, "b": 0.5}, target={"shares": "pool"}, expand=False)
    assert found[0].trained.expected == pytest.approx(70 + 10, abs=8)
    assert rounds_of(0.01, {"a": 0.5, "b": 0.5}, expand=False)[0].trained.expected < 100


def test_a_schedule_that_follows_competence_is_planned_as_it_starts_and_bounded_by_its_end() -> None:
    plan = {"schedule": {"kind": "competence", "start": 0.2, "end": 0.9}, "rescoring": "every-round"}
    found = rounds_of(0.5, {"a": 0.5, "b": 0.5}, **plan)
    constant = rounds_of(0.5, {"a": 0.5, "b": 0.5}, schedule={"kind": "constant", "share": 0.2})
    assert [one.refined.expected for one in found] == [one.refined.expected for one in constant]
    assert (found[0].written.most, constant[0].written.most) == (3 * 90, 3 * 20)


# What is assumed


def test_a_quantile_or_a_budget_says_how_much_is_hard(planned: Callable[..., Plan]) -> None:
    assert "40% of the corpus is hard" in said(planned(**QUANTILE))
    assert "20% of the corpus is hard" in said(planned(threshold={"rule": "budget", "value": 10}))
    assert "30% of the corpus is hard" in said(planned())


def test_what_the_rounds_will_find_out_is_said(planned: Callable[..., Plan]) -> None:
    follows = {"kind": "competence", "start": 0.2, "end": 0.9}
    target = {"taxonomy": "paper", "shares": "competence"}
    found = said(planned(schedule=follows, rescoring="every-round", target=target, threshold={"most": 7.0}))
    assert "stays at its start, 20%: it will move towards 90%" in found
    assert "lean to where the student has room to grow" in found
    assert "beyond curriculum.threshold.most = 7" in found
    both = said(planned(compare=["ifd", "pass-rate"]))
    assert "two thirds of the time of training" in both
    assert "sampled answers to an instruction all differ" in both
    assert not any(word in said(planned()) for word in ("competence", "two thirds", "sampled", "most = "))


def test_an_earlier_run_tells_how_much_is_beyond_the_new_threshold(
    planned: Callable[..., Plan], tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier"
    build_run(earlier, done=1)
    lower, higher = (said(planned(earlier, threshold={"value": value})) for value in (0.5, 5.0))
    shares = [int(one.split("%")[0]) for one in (lower, higher)]
    assert shares[0] > shares[1]
    assert "(measured in the earlier run)" in lower.split("\n")[0]


def test_an_earlier_run_that_measured_otherwise_tells_nothing_about_what_is_hard(
    planned: Callable[..., Plan], tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier"
    build_run(earlier, done=1, curriculum={"difficulty": "ifd", **QUANTILE})
    first = said(planned(earlier)).split("\n")[0]
    assert first == "30% of the corpus is hard for the student"
    alike = said(planned(earlier, difficulty="ifd", **QUANTILE)).split("\n")[0]
    assert alike.endswith("(measured in the earlier run)")


# Nobody


def test_a_recipe_with_nobody_to_teach_judge_or_tag_is_planned(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"Which number is {one}?", "output": f"It is {one}."} for one in range(ROWS)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    method = {"difficulty": "ifd", "expand": False, "refine": False, "size": 20, "rounds": 2, **QUANTILE}
    recipe = parse(
        {
            "corpus": {"kind": "file", "path": str(path)},
            "teacher": {"kind": "none"},
            "judge": {"kind": "none"},
            "tagger": {"kind": "none"},
            "curriculum": {**method, "target": {"taxonomy": "paper", "shares": "pool"}},
            "evaluation": {"kind": "exact", "held_out": HELD_OUT},
        }
    )
    found = plan(recipe, measure=False)
    assert not found.pays
    assert names(found) == ["tag", "estimate", "evaluate"]
    assert names(found, 1) == ["train", "evaluate"]
    assert stage(found, "train", 1).items == Bounds.sure(20)
    assert "all instructions are of one task" in said(found)
