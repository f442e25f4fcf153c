"""How difficulty is measured, in a recipe: what can be said, what goes together, and what the errors say."""

from __future__ import annotations

import math
import tomllib

import pytest

from support.recipes import refusal
from tapir.config.recipe import Recipe
from tapir.config.toml import as_toml, load, parse
from tapir.models.estimators import Ifd, Length
from tapir.models.estimators import PassRate as PassRateEstimator
from tapir.runs.build import build_roles

QUANTILE = {"rule": "quantile", "value": 0.3}


def curriculum(**settings: object) -> Recipe:
    return parse({"curriculum": settings})


def refused(**settings: object) -> str:
    return refusal({"curriculum": settings})


@pytest.mark.parametrize("kind", ["mfd", "ifd", "pass-rate", "length", "none"])
def test_a_difficulty_is_written_as_its_name_or_as_a_table_and_read_back_from_toml(kind: str) -> None:
    more = {} if kind in {"mfd", "none"} else {"threshold": QUANTILE}
    recipe = curriculum(difficulty=kind, **more)
    assert recipe == curriculum(difficulty={"kind": kind}, **more)
    assert parse(tomllib.loads(as_toml(recipe))) == recipe == parse(recipe.resolved())


def test_a_recipe_that_says_nothing_measures_as_the_paper_does() -> None:
    plan = parse({}).curriculum
    assert (plan.difficulty.kind, plan.compare, plan.target.shares, plan.repeats) == ("mfd", (), "fixed", "drawn")
    assert (plan.difficulty_threshold().rule, plan.difficulty_threshold().value, plan.difficulty_threshold().most) == (
        "delta",
        2.0,
        math.inf,
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"difficulty": "idf"}, "curriculum.difficulty.kind = 'idf': must be 'mfd', 'ifd', 'pass-rate', 'length'"),
        ({"difficulty": {"kind": "pass-rate", "samples": 1}}, "curriculum.difficulty.samples = 1: must be greater"),
        ({"difficulty": {"kind": "pass-rate", "temperature": 0}}, "curriculum.difficulty.temperature = 0: must be"),
        ({"difficulty": {"kind": "ifd", "samples": 4}}, "samples: no such key; it belongs to kind = 'pass-rate'"),
        ({"compare": ["mfd"]}, "curriculum.compare.0 = 'mfd': must be 'ifd', 'pass-rate' or 'length'"),
        ({"compare": ["ifd", "ifd"]}, "name each estimator once"),
        ({"compare": ["ifd"], "difficulty": "ifd", "threshold": QUANTILE}, "name each estimator once"),
        ({"target": {"shares": "fxed"}}, "curriculum.target.shares = 'fxed': must be"),
        ({"target": {"shares": "pool", "minimum": 0.1}}, 'minimum has no effect with shares = "pool": remove minimum'),
        ({"threshold": {"most": -1}}, "curriculum.threshold.most = -1: must be greater than or equal to 0"),
        ({"threshold": {"most": 2.0}}, "most = 2 leaves nothing above value = 2: raise most"),
        ({"threshold": {"value": 3, "most": 1}}, "most = 1 leaves nothing above value = 3: raise most"),
        *(
            ({"threshold": {"rule": "quantile", "value": value}}, f"value is a share between 0 and 1, got {value}")
            for value in (0, 1, 2)
        ),
        *(
            ({"threshold": {"rule": "budget", **value}}, f"with rule = 'budget' value is a number of items, {said}")
            for value, said in (({}, "got none"), ({"value": 0}, "got 0"), ({"value": 2.5}, "got 2.5"))
        ),
        ({"threshold": {"value": 9}}, "threshold.value = 9: no gap is above 9: nothing would be hard"),
        ({"difficulty": "none", "target": {"shares": "competence"}}, "a difficulty other than 'none'"),
        ({"difficulty": "none", "schedule": {"kind": "competence"}}, "schedule has no effect with difficulty"),
        ({"repeats": "never"}, "curriculum.repeats = 'never': must be 'drawn' or 'last'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(settings: dict[str, object], said: str) -> None:
    assert said in refused(**settings)


def test_no_gap_is_larger_than_nine() -> None:
    assert "training.dpo.gap = 10: must be less than or equal to 9" in refusal({"training": {"dpo": {"gap": 10}}})
    assert parse({"training": {"dpo": {"gap": 9}}}).preferred_gap() == 9
    assert curriculum(threshold={"value": 8.9}).curriculum.difficulty_threshold().value == 8.9
    assert curriculum(difficulty="length", threshold={"value": 900}).curriculum.difficulty_threshold().value == 900


@pytest.mark.parametrize("kind", ["ifd", "pass-rate", "length"])
def test_another_scale_needs_another_threshold_than_the_papers(kind: str) -> None:
    message = refused(difficulty=kind)
    assert f"difficulty = {kind!r} has a scale of its own" in message
    assert "threshold.rule to 'quantile' or 'budget', or threshold.value" in message
    for threshold in (QUANTILE, {"rule": "budget", "value": 100}, {"value": 0.5}):
        assert (
            curriculum(difficulty=kind, threshold=threshold).curriculum.difficulty_threshold().value
            == threshold["value"]
        )


@pytest.mark.parametrize("value", [1, 1.0, 2.5])
def test_no_share_of_failures_is_larger_than_one(value: float) -> None:
    message = refused(difficulty="pass-rate", threshold={"value": value})
    assert f"threshold.value = {value:g}: a share of failures is at most 1: nothing would be hard" in message


@pytest.mark.parametrize("key", ["schedule", "threshold", "rescoring"])
def test_without_difficulty_what_only_it_has_use_for_is_an_error(key: str) -> None:
    value: object = {"schedule": {"start": 0.5}, "threshold": {"value": 1.0}, "rescoring": "once"}[key]
    message = refused(difficulty="none", **{key: value})
    assert f'{key} has no effect with difficulty = "none": remove {key}' in message


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": {"kind": "competence"}},
        {"target": {"shares": "competence"}},
        {"schedule": {"kind": "competence"}, "rescoring": "once"},
    ],
)
def test_competence_is_read_from_the_scores_of_every_round(settings: dict[str, object]) -> None:
    assert "set rescoring = 'every-round'" in refused(**settings)
    assert curriculum(**settings | {"rescoring": "every-round"}).curriculum.alpha().rounds == 3


def test_a_single_round_with_shares_by_competence_is_told_what_it_lacks() -> None:
    message = refused(target={"shares": "competence"}, variant="single-round")
    assert "rescoring = 'every-round' and variant = 'multi-round', or choose other target.shares" in message


def test_a_change_to_no_difficulty_takes_away_what_the_recipe_had_for_it() -> None:
    for change in ('curriculum.difficulty="none"', "curriculum.difficulty=none", "curriculum.difficulty.kind=none"):
        plan = load("gym", [change]).curriculum
        assert plan.difficulty.kind == "none"
        assert plan.rounds == load("gym").curriculum.rounds


@pytest.mark.parametrize(("kind", "filled"), [("ifd", Ifd), ("length", Length), ("pass-rate", PassRateEstimator)])
def test_every_difficulty_has_somebody_who_measures_it(kind: str, filled: type) -> None:
    roles = build_roles(load("gym", [f"curriculum.difficulty={kind}", "curriculum.threshold.value=0.5"]))
    assert roles.estimator is not None
    assert (type(roles.estimator), roles.estimator.name) == (filled, kind)
    beside = build_roles(load("gym", [f'curriculum.compare=["{kind}"]']))
    assert beside.estimator is None
    assert [type(one) for one in beside.compared] == [filled]


def test_the_sampling_student_of_a_pass_rate_samples_and_is_opened_and_closed_like_the_other() -> None:
    roles = build_roles(
        load("gym", ['curriculum.difficulty={kind="pass-rate", samples=3}', "curriculum.threshold.value=0.5"])
    )
    assert isinstance(roles.estimator, PassRateEstimator)
    assert roles.estimator.student.section.temperature == 0.8  # type: ignore[attr-defined]
    assert roles.student.section.temperature == 0.0  # type: ignore[attr-defined]
    assert {id(roles.estimator.student), id(roles.student)} == {id(one) for one in roles.resources}
