from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir.errors import RecipeError
from tapir.recipe import Recipe
from tapir.recipe_file import differences, load, parse, restored, shipped
from tapir.sections import GymCorpus, Section
from tests.recipes import refusal, refusal_of

if TYPE_CHECKING:
    from pathlib import Path


def sections(root: type[Section] = Section) -> list[type[Section]]:
    return [found for child in root.__subclasses__() for found in (child, *sections(child))]


FIELDS = [(section, name) for section in sections() for name in section.model_fields]


# Reading


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_recipe_loads(name: str) -> None:
    assert load(name).name == name


def test_the_built_in_recipe_is_gym() -> None:
    assert "gym" in shipped()
    assert load("gym").student.model == "nano"


def test_the_defaults_are_the_schedule_reported_for_the_paper() -> None:
    assert parse({}).curriculum.alpha().shares == (0.3, 0.5, 0.7)


def test_a_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\n[curriculum]\nrounds = 2\n', encoding="utf-8")
    mine = load(str(file))
    assert (mine.name, mine.curriculum.rounds) == ("mine", 2)


def test_a_file_that_an_editor_began_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\n', encoding="utf-8-sig")
    assert load(str(file)).name == "mine"


def test_what_a_recipe_does_not_say_has_its_default() -> None:
    assert parse({}) == Recipe()


def test_a_recipe_cannot_be_changed_once_it_is_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load("gym").seed = 8  # type: ignore[misc]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.toml")
    assert missing in refusal_of(missing)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    assert str(folder) in refusal_of(str(folder))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "binary.toml"
    file.write_bytes(b"\xff\xfe\x00name")
    assert str(file) in refusal_of(str(file))


def test_bad_toml_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('name = "mine"\nseed = = 3\n', encoding="utf-8")
    message = refusal_of(str(file))
    assert str(file) in message
    assert "line 2" in message


def test_a_recipe_that_is_not_shipped_names_the_nearest() -> None:
    message = refusal_of("gymm")
    assert "'gymm'" in message
    assert "did you mean gym?" in message


def test_a_recipe_that_resembles_none_names_them_all() -> None:
    message = refusal_of("something else entirely")
    assert all(name in message for name in shipped())


# Keys


@pytest.mark.parametrize(
    ("content", "wrong", "right"),
    [
        ({"curiculum": {"rounds": 2}}, "curiculum", "curriculum"),
        ({"curriculum": {"roundz": 2}}, "curriculum.roundz", "rounds"),
        ({"curriculum": {"threshold": {"valeu": 2}}}, "curriculum.threshold.valeu", "value"),
        ({"curriculum": {"schedule": {"kind": "paper", "strat": 0.3}}}, "curriculum.schedule.strat", "start"),
        ({"curriculum": {"schedule": {"kind": "list", "share": [0.1]}}}, "curriculum.schedule.share", "shares"),
        ({"training": {"learning-rate": 1e-4}}, "training.learning-rate", "learning_rate"),
        ({"evaluation": {"per_tasks": 3}}, "evaluation.per_tasks", "per_task"),
    ],
)
def test_a_typo_in_a_key_names_the_nearest_right_one(content: dict[str, Any], wrong: str, right: str) -> None:
    assert f"{wrong}: no such key; did you mean {right}?" in refusal(content)


def test_a_key_that_resembles_none_is_refused_all_the_same() -> None:
    assert "curriculum.zzz: no such key" in refusal({"curriculum": {"zzz": 2}})


@pytest.mark.parametrize("key", ["list", "paper", "linear", "constant"])
def test_a_wrong_key_is_named_even_if_it_is_also_the_name_of_a_schedule(key: str) -> None:
    assert f"{key}: no such key" in refusal({key: 3})


def test_every_problem_is_named_at_once() -> None:
    message = refusal({"sead": 3, "curriculum": {"rounds": 0, "sise": 3}})
    assert "did you mean seed?" in message
    assert "curriculum.rounds = 0" in message
    assert "did you mean size?" in message


@pytest.mark.parametrize(("section", "name"), FIELDS, ids=[f"{section.__name__}.{name}" for section, name in FIELDS])
def test_every_field_has_a_help_line(section: type[Section], name: str) -> None:
    description = section.model_fields[name].description
    assert description
    assert description.strip().endswith(".")


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_section_refuses_unknown_keys_and_says_what_it_is(section: type[Section]) -> None:
    assert section.model_config.get("extra") == "forbid"
    assert section.__doc__


# Values


@pytest.mark.parametrize("value", [1.4, -0.1])
@pytest.mark.parametrize("key", ["start", "step"])
def test_a_hard_share_out_of_range_is_named_with_its_value(key: str, value: float) -> None:
    message = refusal({"curriculum": {"schedule": {"kind": "paper", key: value}}})
    assert f"curriculum.schedule.{key} = {value}" in message


def test_a_hard_share_out_of_range_is_named_even_where_the_kind_of_schedule_is_left_out() -> None:
    assert "curriculum.schedule.start = 1.4" in refusal_of("gym", "curriculum.schedule.start=1.4")


def test_the_kind_of_schedule_may_be_left_out() -> None:
    assert parse({"curriculum": {"schedule": {"start": 0.4}}}).curriculum.alpha().shares == (0.4, 0.6, 0.8)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("seed=-1", "seed = -1"),
        ("chunk=0", "chunk = 0"),
        ("curriculum.rounds=0", "curriculum.rounds = 0"),
        ("curriculum.size=1.5", "curriculum.size = 1.5"),
        ("curriculum.threshold.value=nan", "curriculum.threshold.value = nan"),
        ("training.learning_rate=inf", "training.learning_rate = inf"),
        ("training.epochs=0", "training.epochs = 0"),
        ("student.temperature=hot", "student.temperature = 'hot'"),
        ("corpus=all", "corpus = 'all'"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_key(change: str, key: str) -> None:
    assert key in refusal_of("gym", change)


@pytest.mark.parametrize(
    ("change", "value", "right"),
    [
        ("curriculum.schedule.kind=papr", "'papr'", "'paper'"),
        ("corpus.kind=gim", "'gim'", "'gym'"),
        ("student.kind=transformer", "'transformer'", "'transformers'"),
        ("curriculum.variant=multi-rounds", "'multi-rounds'", "'multi-round'"),
        ("curriculum.rescoring=every_round", "'every_round'", "'every-round'"),
    ],
)
def test_an_unknown_kind_names_the_nearest_right_one(change: str, value: str, right: str) -> None:
    message = refusal_of("gym", change)
    assert value in message
    assert f"did you mean {right}?" in message


def test_an_unknown_kind_of_schedule_names_all_that_there_are() -> None:
    message = refusal_of("gym", "curriculum.schedule.kind=cosine")
    assert all(kind in message for kind in ("'paper'", "'constant'", "'linear'", "'list'"))


@pytest.mark.parametrize("value", [0.0, 1.0, 2.0])
def test_a_quantile_is_a_share_below_one(value: float) -> None:
    message = refusal({"curriculum": {"threshold": {"rule": "quantile", "value": value}}})
    assert "curriculum.threshold" in message
    assert f"got {value:g}" in message


# What has no effect is refused


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rounds": 3}, "rounds"),
        ({"schedule": {"kind": "constant", "share": 0.5}}, "schedule"),
        ({"rounds": 1, "schedule": {"kind": "paper"}}, "rounds and schedule"),
        ({"rescoring": "every-round"}, "rescoring"),
        ({"continue_from": "warm-up"}, "continue_from"),
    ],
)
def test_a_single_round_refuses_what_it_would_ignore(settings: dict[str, Any], named: str) -> None:
    message = refusal({"curriculum": {"variant": "single-round", **settings}})
    assert "single-round" in message
    assert f"remove {named}" in message


def test_a_single_round_is_one_round_of_hard_examples() -> None:
    assert load("gym", ["curriculum.variant=single-round"]).curriculum.alpha().shares == (1.0,)


def test_a_minimum_without_room_to_lean_is_refused() -> None:
    assert "target: minimum has no effect with shares" in refusal({"curriculum": {"target": {"minimum": 0.02}}})


# Schedules


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ({"kind": "paper", "start": 0.6, "step": 0.3}, (0.6, 0.9, 1.0)),
        ({"kind": "constant", "share": 0.5}, (0.5, 0.5, 0.5)),
        ({"kind": "linear", "start": 0.2, "end": 1.0}, (0.2, 0.6, 1.0)),
        ({"kind": "list", "shares": [0.9, 0.5, 0.5]}, (0.9, 0.5, 0.5)),
    ],
)
def test_every_kind_of_schedule_gives_a_share_for_each_round(
    schedule: dict[str, Any], shares: tuple[float, ...]
) -> None:
    found = parse({"curriculum": {"rounds": 3, "schedule": schedule}}).curriculum.alpha()
    assert found.shares == pytest.approx(shares)


@pytest.mark.parametrize("shares", [[0.5], [0.1, 0.2], [0.1, 0.2, 0.3, 0.4]])
def test_a_list_of_the_wrong_length_is_refused_with_both_lengths(shares: list[float]) -> None:
    message = refusal({"curriculum": {"rounds": 3, "schedule": {"kind": "list", "shares": shares}}})
    assert f"{len(shares)} entries for rounds = 3" in message


def test_an_empty_list_of_shares_is_refused() -> None:
    assert "curriculum.schedule.shares" in refusal({"curriculum": {"schedule": {"kind": "list", "shares": []}}})


def test_a_list_that_rises_and_falls_is_refused() -> None:
    message = refusal({"curriculum": {"schedule": {"kind": "list", "shares": [0.2, 0.6, 0.4]}}})
    assert "must rise or fall, not both: [0.2, 0.6, 0.4]" in message


# Changes from the command line


def test_changes_are_applied_in_order() -> None:
    changed = load("gym", ["curriculum.rounds=2", "curriculum.rounds=4", "seed=9"])
    assert (changed.curriculum.rounds, changed.seed) == (4, 9)


@pytest.mark.parametrize("change", ["name=mine", 'name="mine"', "name = mine", "name='mine'"])
def test_a_bare_word_is_taken_as_text(change: str) -> None:
    assert load("gym", [change]).name == "mine"


def test_a_change_may_hold_a_truth_value_a_list_or_a_table() -> None:
    changed = load(
        "gym",
        [
            "curriculum.expand=false",
            'corpus.skills=["gcd", "aiw"]',
            'curriculum.schedule={kind = "constant", share = 0.5}',
            "curriculum.rounds=3",
        ],
    )
    assert not changed.curriculum.expand
    assert isinstance(changed.corpus, GymCorpus)
    assert changed.corpus.skills == ("gcd", "aiw")
    assert changed.curriculum.alpha().shares == (0.5, 0.5, 0.5)


def test_a_change_leaves_the_rest_as_it_was() -> None:
    assert load("gym", ["curriculum.rounds=2"]).training == load("gym").training


def test_a_typo_in_a_change_names_the_nearest_right_key() -> None:
    assert "curriculum.roundz: no such key; did you mean rounds?" in refusal_of("gym", "curriculum.roundz=2")


@pytest.mark.parametrize("change", ["curriculum.rounds", "=3", " = 3", ""])
def test_a_change_that_is_not_key_and_value_is_refused(change: str) -> None:
    assert f"--set {change!r} is not key=value" in refusal_of("gym", change)


def test_a_change_below_something_that_is_no_table_is_refused() -> None:
    assert "name is not a table" in refusal_of("gym", "name.first=3")


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        (["chunkk=3"], "gym"),
        (["judge.kind=llm"], "alpaca-api"),
        (["corpus.kind=hub"], "alpaca-api"),
        (["endpoints.gpt.model=large"], "alpaca-api"),
        (["endpoints.gpt.model=large", "chunk.first=3", "chunk.first.second=3"], "alpaca-api"),
    ],
)
def test_a_refusal_names_the_recipe_that_shows_the_keys_in_question(changes: list[str], shown: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load("gym", changes)
    assert f"`tapir recipe show {shown}`" in caught.value.remedy


# Resolved recipes


def examples() -> list[dict[str, Any]]:
    return [
        {},
        {"name": "mine", "seed": 0, "corpus": {"skills": ["gcd"]}},
        {"curriculum": {"variant": "single-round"}},
        {"curriculum": {"target": {"shares": "room", "minimum": 0.02}}},
        {"curriculum": {"threshold": {"rule": "quantile", "value": 0.25}}},
        {"curriculum": {"rounds": 2, "schedule": {"kind": "list", "shares": [0.2, 0.4]}}},
        {"curriculum": {"rounds": 2, "schedule": {"kind": "linear", "start": 0.2, "end": 0.4}}},
    ]


@pytest.mark.parametrize("content", examples(), ids=json.dumps)
def test_a_resolved_recipe_can_be_read_again(content: dict[str, Any]) -> None:
    written = json.loads(json.dumps(parse(content).resolved()))
    again = parse(written)
    assert again == parse(content)
    assert again.resolved() == written


@pytest.mark.parametrize("content", examples(), ids=json.dumps)
def test_a_recipe_does_not_differ_from_itself(content: dict[str, Any]) -> None:
    written = json.loads(json.dumps(parse(content).resolved()))
    assert parse(content).differences(written) == []


def test_a_resolved_recipe_holds_every_setting() -> None:
    resolved = parse({}).resolved()
    assert resolved["curriculum"]["schedule"] == {"kind": "paper", "start": 0.3, "step": 0.2}
    assert resolved.keys() == Recipe.model_fields.keys()


def test_differences_name_the_keys_and_both_values() -> None:
    theirs = load("gym").resolved()
    ours = load("gym", ["seed=8", "curriculum.rounds=2", 'corpus.skills=["gcd"]'])
    assert ours.differences(theirs) == [
        "corpus.skills: [] -> ['gcd']",
        "curriculum.rounds: 3 -> 2",
        "seed: 7 -> 8",
    ]


def test_differences_name_keys_that_only_one_of_them_has() -> None:
    theirs = load("gym").resolved()
    ours = load("gym", ['curriculum.schedule={kind = "constant", share = 0.5}'])
    assert ours.differences(theirs) == [
        "curriculum.schedule.kind: paper -> constant",
        "curriculum.schedule.share: not set -> 0.5",
        "curriculum.schedule.start: 0.5 -> not set",
        "curriculum.schedule.step: 0.15 -> not set",
    ]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**9), rounds=st.integers(1, 20), size=st.integers(1, 10**6))
def test_what_a_change_sets_is_what_the_recipe_holds(seed: int, rounds: int, size: int) -> None:
    changes = [f"seed={seed}", f"curriculum.rounds={rounds}", f"curriculum.size={size}"]
    found = load("gym", changes)
    assert (found.seed, found.curriculum.rounds, found.curriculum.size) == (seed, rounds, size)
    assert found.curriculum.alpha().rounds == rounds


# Recipes of earlier versions


def test_a_stored_recipe_is_read_without_the_keys_that_have_no_effect_any_more() -> None:
    ours = load("gym", ["curriculum.variant=single-round"])
    stored = ours.resolved()
    stored["curriculum"] |= {"rescoring": "every-round", "continue_from": "previous"}
    with pytest.raises(RecipeError, match="continue_from and rescoring have no effect"):
        parse(stored)
    assert restored(stored) == ours
    assert differences(ours, stored) == []
    assert stored["curriculum"]["rescoring"] == "every-round"


def test_a_key_that_a_stored_recipe_did_not_have_yet_has_its_default() -> None:
    ours = load("gym", ["curriculum.expand=false"])
    stored = ours.resolved()
    del stored["curriculum"]["novelty"]
    assert differences(ours, stored) == []
    near = load("gym", ["curriculum.expand=false", "curriculum.novelty.rule=near"])
    assert "curriculum.novelty.rule: exact -> near" in differences(near, stored)


def test_a_stored_recipe_of_another_version_differs_in_what_this_one_does_not_know() -> None:
    ours = load("gym")
    stored = ours.resolved() | {"sorcery": 3}
    with pytest.raises(RecipeError, match="sorcery: no such key"):
        restored(stored)
    assert differences(ours, stored) == ["sorcery: 3 -> not set"]
