"""Recipes: reading, errors that name the nearest right key, changes from the command line, comparing."""

from __future__ import annotations

import math
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from support.recipes import refusal, refusal_of
from tapir.config.base import Section
from tapir.config.corpus import GymCorpusConfig
from tapir.config.recipe import Recipe
from tapir.config.toml import as_toml, load, parse, shipped
from tapir.domain.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path


def sections(root: type[Section] = Section) -> list[type[Section]]:
    return [found for child in root.__subclasses__() for found in (child, *sections(child))]


# Reading


def test_every_shipped_recipe_loads_and_the_defaults_are_those_of_the_paper() -> None:
    assert [load(name).name for name in shipped()] == shipped()
    assert load("gym").student.model == "nano"
    assert parse({}) == Recipe()
    assert parse({}).curriculum.alpha().shares == (0.3, 0.5, 0.7)
    with pytest.raises(ValueError, match="frozen"):
        load("gym").seed = 8  # type: ignore[misc]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_recipe_is_read_from_a_file(encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\r\n[curriculum]\r\nrounds = 2\r\n', encoding=encoding)
    mine = load(str(file))
    assert (mine.name, mine.curriculum.rounds) == ("mine", 2)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    contents = {
        "cannot be read: not text in UTF-8": [b"\xff\xfe\x00name", b"\x89PNG\r\n", "name = 'ä'".encode("latin-1")],
        "is empty": [b"", b" \r\n", b"\xef\xbb\xbf", b"\xff\xfe"],
        "is not valid TOML: ": [b"a\x00b = 1", b'name = "mine"\nseed = = 3\n'],
    }
    path = tmp_path / "mine.toml"
    for message, files in contents.items():
        for content in files:
            path.write_bytes(content)
            assert refusal_of(str(path)).startswith(f"{path} {message}")
    assert "line 2" in refusal_of(str(path))
    (tmp_path / "folder.toml").mkdir()
    for folder in (tmp_path, tmp_path / "folder.toml"):
        assert refusal_of(str(folder)) == f"{folder} cannot be read: Is a directory"
    assert "No such file" in refusal_of(str(tmp_path / "missing.toml"))


def test_a_recipe_that_is_not_shipped_names_the_nearest_or_all() -> None:
    assert "no recipe named 'gymm'; did you mean gym?" in refusal_of("gymm")
    assert all(name in refusal_of("something else entirely") for name in shipped())


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
        ({"curriculum": {"zzz": 2}}, "curriculum.zzz", ""),
        *(({key: 3}, key, "") for key in ("list", "paper", "linear", "constant")),  # also kinds of schedules
    ],
)
def test_a_wrong_key_names_the_nearest_right_one(content: dict[str, Any], wrong: str, right: str) -> None:
    assert f"{wrong}: no such key" + (f"; did you mean {right}?" if right else "") in refusal(content)


def test_every_problem_is_named_at_once() -> None:
    message = refusal({"sead": 3, "curriculum": {"rounds": 0, "sise": 3}})
    for part in ("did you mean seed?", "curriculum.rounds = 0", "did you mean size?"):
        assert part in message


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_every_section_refuses_unknown_keys_and_every_field_has_a_help_line(section: type[Section]) -> None:
    assert section.model_config.get("extra") == "forbid"
    assert section.__doc__
    for name, field in section.model_fields.items():
        assert name == "kind" or (field.description or "").strip().endswith("."), name  # its help is the class's


# Values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed=-1", "seed = -1"),
        ("chunk=0", "chunk = 0"),
        ('name=""', "name = ''"),
        ("curriculum.rounds=0", "curriculum.rounds = 0"),
        ("curriculum.size=1.5", "curriculum.size = 1.5: must be a valid integer"),
        ("curriculum.size=[500, 0, 900]", "curriculum.size.1 = 0: must be greater"),
        ("curriculum.size=[500, 900]", "size has 2 entries for 3 rounds: give one, or one for each round"),
        ("curriculum.size=[]", "size has 0 entries for 3 rounds"),
        ("curriculum.threshold.value=nan", "curriculum.threshold.value = nan"),
        ("curriculum.schedule.start=1.4", "curriculum.schedule.start = 1.4"),
        ("curriculum.schedule.step=-0.1", "curriculum.schedule.step = -0.1"),
        ("curriculum.schedule={kind='list', shares=[]}", "curriculum.schedule.shares"),
        ("training.learning_rate=inf", "training.learning_rate = inf"),
        ("training.epochs=0", "training.epochs = 0"),
        ("student.temperature=hot", "student.temperature = 'hot'"),
        ("corpus=all", "corpus = 'all'"),
        ("curriculum.schedule.kind=papr", "curriculum.schedule.kind = 'papr': must be"),
        ("curriculum.schedule.kind=papr", "did you mean 'paper'?"),
        ("corpus.kind=gim", "did you mean 'gym'?"),
        ("student.kind=transformer", "did you mean 'transformers'?"),
        ("curriculum.variant=multi-rounds", "did you mean 'multi-round'?"),
        ("curriculum.rescoring=every_round", "did you mean 'every-round'?"),
        ("curriculum.schedule.kind=cosine", "'paper', 'constant', 'linear'"),
        ("name.first=3", "name is not a table"),
        *((f"{text}", f"--set {text!r} is not key=value") for text in ("curriculum.rounds", "=3", " = 3", "")),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_key_and_what_is(change: str, message: str) -> None:
    assert message in refusal_of("gym", change)


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
def test_a_single_round_refuses_what_has_no_effect(settings: dict[str, Any], named: str) -> None:
    message = refusal({"curriculum": {"variant": "single-round", **settings}})
    assert "single-round" in message
    assert f"remove {named}" in message
    assert load("gym", ["curriculum.variant=single-round"]).curriculum.alpha().shares == (1.0,)


# Schedules


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ({"start": 0.4}, (0.4, 0.6, 0.8)),
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


@pytest.mark.parametrize("shares", [[0.5], [0.1, 0.2], [0.1, 0.2, 0.3, 0.4], [0.2, 0.6, 0.4]])
def test_a_list_of_the_wrong_length_or_without_direction_is_refused(shares: list[float]) -> None:
    message = refusal({"curriculum": {"rounds": 3, "schedule": {"kind": "list", "shares": shares}}})
    wrong_length, wrong_order = f"{len(shares)} entries for rounds = 3", f"must rise or fall, not both: {shares}"
    assert (wrong_order if len(shares) == 3 else wrong_length) in message


@pytest.mark.parametrize("shares", [[], [-0.1, 0.5, 0.5], [0.5, 0.5, 1.1], [math.nan, 0.5, 0.5]])
def test_a_list_without_shares_or_with_one_outside_zero_to_one_is_refused(shares: list[float]) -> None:
    assert "curriculum.schedule.shares" in refusal({"curriculum": {"schedule": {"kind": "list", "shares": shares}}})


def test_every_round_may_have_a_size_of_its_own() -> None:
    recipe = load("gym", ["curriculum.size=[500, 1000, 1500]"])
    assert [recipe.curriculum.size_of(number) for number in (1, 2, 3)] == [500, 1000, 1500]
    assert parse(tomllib.loads(as_toml(recipe))) == recipe
    assert load("gym").curriculum.size_of(3) == load("gym").curriculum.size == 2000


# Changes from the command line


@pytest.mark.parametrize("change", ["name=mine", 'name="mine"', "name = mine", "name='mine'"])
def test_a_bare_word_is_taken_as_text(change: str) -> None:
    assert load("gym", [change]).name == "mine"


def test_changes_are_applied_in_order_and_may_hold_any_value() -> None:
    changes = ["curriculum.expand=false", 'corpus.skills=["gcd", "aiw"]', "curriculum.rounds=2", "curriculum.rounds=3"]
    changed = load("gym", [*changes, 'curriculum.schedule={kind = "constant", share = 0.5}'])
    assert not changed.curriculum.expand
    assert isinstance(changed.corpus, GymCorpusConfig)
    assert changed.corpus.skills == ("gcd", "aiw")
    assert changed.curriculum.alpha().shares == (0.5, 0.5, 0.5)
    assert changed.training == load("gym").training


@pytest.mark.parametrize(
    ("changes", "recipe"),
    [
        (["chunkk=3"], "gym"),
        (["judge.kind=llm"], "alpaca-api"),
        (["corpus.kind=hub"], "alpaca-api"),
        (["endpoints.gpt.model=large"], "alpaca-api"),
        (["endpoints.gpt.model=large", "chunk.first=3", "chunk.first.second=3"], "alpaca-api"),
    ],
)
def test_a_refusal_names_the_recipe_that_shows_the_keys_in_question(changes: list[str], recipe: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load("gym", changes)
    assert f"`tapir recipe show {recipe}`" in caught.value.remedy


# Resolved recipes


def test_a_resolved_recipe_holds_every_setting() -> None:
    resolved = parse({}).resolved()
    assert resolved["curriculum"]["schedule"] == {"kind": "paper", "start": 0.3, "step": 0.2}
    assert resolved.keys() == Recipe.model_fields.keys()


def test_differences_name_the_keys_and_both_values() -> None:
    theirs = load("gym").resolved()
    changes = ["seed=8", "curriculum.rounds=2", 'corpus.skills=["gcd"]']
    schedule = 'curriculum.schedule={kind = "constant", share = 0.5}'
    assert load("gym", [*changes, schedule]).differences(theirs) == [
        "corpus.skills: [] -> ['gcd']",
        "curriculum.rounds: 3 -> 2",
        "curriculum.schedule.kind: paper -> constant",
        "curriculum.schedule.share: not set -> 0.5",
        "curriculum.schedule.start: 0.5 -> not set",
        "curriculum.schedule.step: 0.15 -> not set",
        "seed: 7 -> 8",
    ]
