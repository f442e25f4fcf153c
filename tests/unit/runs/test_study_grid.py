"""Study files: their keys, and the errors in them before anything is run."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from support import studies as made
from tapir.config.toml import load, shipped
from tapir.config.training import SftConfig
from tapir.domain.errors import RecipeError
from tapir.runs import study as studies

GOOD = """
name = "mine"
recipe = "gym"
seeds = [1, 2]
baseline = "random"
[set]
"curriculum.size" = 30
[variants.tapir]
about = "the method"
[variants.random]
about = "uniform"
set = { "curriculum.difficulty" = "none", "curriculum.target.shares" = "pool" }
"""


def write(folder: Path, text: str) -> str:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def error_of(folder: Path, text: str) -> str:
    """Return the error of a study, when it is read or its recipes are."""
    with pytest.raises(RecipeError) as caught:
        studies.runs_of(studies.read(write(folder, text)))
    assert caught.value.remedy
    return str(caught.value)


def test_every_variant_is_run_with_every_seed_unless_it_has_its_own(tmp_path: Path) -> None:
    text = GOOD.replace('about = "the method"', 'about = "the method"\nseeds = [2, 5]')
    runs = studies.runs_of(studies.read(write(tmp_path, text)))
    assert [(run.variant, run.seed) for run in runs] == [("tapir", 2), ("tapir", 5), ("random", 1), ("random", 2)]
    assert [run.recipe.seed for run in runs] == [2, 5, 1, 2]
    assert [run.recipe.name for run in runs] == ["mine/tapir", "mine/tapir", "mine/random", "mine/random"]
    assert runs[0].folder(Path("place")) == Path("place/tapir/seed-2")
    assert {run.recipe.curriculum.size for run in runs} == {30}


def test_a_part_of_a_study_can_be_chosen() -> None:
    grid = made.study()
    assert [(run.variant, run.seed) for run in studies.runs_of(grid, ["random"], [2])] == [("random", 2)]


@pytest.mark.parametrize(
    "table",
    [
        '[set]\n"curriculum.size" = 30',
        "[set]\ncurriculum.size = 30",
        "[set.curriculum]\nsize = 30",
        "[set]\ncurriculum = { size = 30 }",
    ],
)
def test_a_key_means_the_same_however_its_table_is_written_and_leaves_the_rest_of_the_recipe(
    tmp_path: Path, table: str
) -> None:
    text = GOOD.replace('[set]\n"curriculum.size" = 30', table)
    first = studies.runs_of(studies.read(write(tmp_path, text)))[0].recipe
    assert first == load("gym", ["curriculum.size=30", "name=mine/tapir", "seed=1"])
    assert first.curriculum.rounds == load("gym").curriculum.rounds


def test_values_of_every_type_arrive_in_the_recipe(tmp_path: Path) -> None:
    text = GOOD.replace(
        '"curriculum.size" = 30',
        '"corpus.skills" = ["gcd", "chain_sum"]\n"curriculum.expand" = false\n"training.learning_rate" = 3e-4\n'
        'student.chat_template = "Größe \\"{{ x }}\\" \\U0001F469 \\\\ \\u007f"',
    )
    recipe = studies.runs_of(studies.read(write(tmp_path, text)))[0].recipe
    assert recipe.corpus.model_dump()["skills"] == ("gcd", "chain_sum")
    assert recipe.curriculum.expand is False
    assert isinstance(recipe.training, SftConfig)
    assert recipe.training.learning_rate == 3e-4
    assert recipe.student.chat_template == tomllib.loads('x = "Größe \\"{{ x }}\\" \\U0001F469 \\\\ \\u007f"')["x"]


def test_the_shipped_studies_can_be_run() -> None:
    assert "gym" in shipped("studies")
    for name in shipped("studies"):
        assert len(studies.runs_of(studies.read(name))) >= 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('baseline = "random"', 'baseline = "randm"', "baseline: there is no variant 'randm'; did you mean random?"),
        (
            'baseline = "random"',
            'baseline = "random"\nmethod = "tapr"',
            "method: there is no variant 'tapr'; did you mean tapir?",
        ),
        ("seeds = [1, 2]", "seeds = [1, 1, 2]", "seeds = [1, 1, 2]: 1 more than once"),
        ("seeds = [1, 2]", "seeds = []", "seeds = []: must have at least 1 item"),
        ("seeds = [1, 2]", "seed = [1, 2]", "seed: no such key; did you mean seeds?"),
        (
            'about = "the method"',
            'abut = "the method"',
            "variants.tapir.abut: no such key; did you mean about?",
        ),
        ('about = "the method"', "", "variants.tapir.about: is required"),
        ('about = "the method"', 'about = "x"\nseeds = [7]', "variants.tapir.seeds = [7]: none of them is a seed of"),
        ("[variants.tapir]", '[variants."a/../../b"]', "variants.a/../../b: a folder is named so"),
        ("[variants.tapir]", "[variants.untuned]", "variants.untuned: the student before any round is measured"),
        ('"curriculum.size" = 30', "seed = 3", "set: seed cannot be set: it is one of `seeds`"),
        ('"curriculum.size" = 30', '"curriculum.sise" = 3', "variants.tapir: curriculum.sise: no such key; did you"),
        ('"curriculum.size" = 30', '"curriculum.size" = 0', "variants.tapir: curriculum.size = 0: must be greater"),
        ('recipe = "gym"', 'recipe = "gim"', "no recipe named 'gim'; did you mean gym?"),
        (
            '"curriculum.target.shares" = "pool"',
            '"evaluation.per_task" = 3',
            "variants.random is measured with another",
        ),
        ("seeds = [1, 2]", "seeds = [1, 2", "is not valid TOML"),
    ],
)
def test_a_mistake_is_one_error_that_names_the_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    assert message in error_of(tmp_path, GOOD.replace(old, new))


HELD_OUT = """
name = "mine"
recipe = "alpaca-api"
seeds = [1]
baseline = "few"
[set]
"evaluation.held_out" = 50
[variants.few]
about = "as it is"
[variants.other]
about = "another one"
set = { CHANGED }
"""


@pytest.mark.parametrize(("key", "value"), [("limit", "2000"), ("answers", '"teacher"'), ("columns.category", '"x"')])
def test_variants_that_would_hold_out_other_prompts_are_refused(tmp_path: Path, key: str, value: str) -> None:
    error = error_of(tmp_path, HELD_OUT.replace("CHANGED", f'"corpus.{key}" = {value}'))
    assert f"variants.other holds out other prompts than variants.few: corpus.{key}: " in error


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("judge.mode", '"single"'),
        ("endpoints.judge.model", '"other"'),
        ("curriculum.target.taxonomy", '"gym"'),
        ("tagger.labelled", "20"),
    ],
)
def test_variants_that_would_be_graded_otherwise_are_refused(tmp_path: Path, key: str, value: str) -> None:
    error = error_of(tmp_path, HELD_OUT.replace("CHANGED", f'"{key}" = {value}'))
    assert f"variants.other is graded otherwise than variants.few: {key}" in error


def test_variants_of_other_skills_are_refused(tmp_path: Path) -> None:
    error = error_of(
        tmp_path, GOOD.replace('"curriculum.target.shares" = "pool"', '"corpus.skills" = ["gcd", "products"]')
    )
    assert "holds out other prompts than" in error
    assert "corpus.skills" in error


@pytest.mark.parametrize(
    ("changed", "evaluation"),
    [
        ('"corpus.screen" = "drop", "corpus.near_duplicates" = "drop"', '"evaluation.held_out" = 50'),
        ('"corpus.answers" = "teacher"', 'evaluation = { kind = "exact", held_out = 50 }'),
        ('"corpus.limit" = 2000', 'evaluation = { held_out = 0, file = "prompts.json" }'),
    ],
)
def test_a_corpus_that_differs_in_no_held_out_prompt_is_a_variant(
    tmp_path: Path, changed: str, evaluation: str
) -> None:
    text = HELD_OUT.replace("CHANGED", changed).replace('"evaluation.held_out" = 50', evaluation)
    assert len(studies.runs_of(studies.read(write(tmp_path, text)))) == 2


@pytest.mark.parametrize(("source", "message"), [("gim", "did you mean gym?"), ("absent.toml", "cannot be read")])
def test_a_study_that_is_not_there_is_an_error(source: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("?", r"\?")) as caught:
        studies.read(source)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("only", "seeds", "message"),
    [
        (["tapr"], [], "no variant named 'tapr'; did you mean tapir?"),
        ([], [1, 9], "no variant has the seed 9; there are 1, 2"),
        (["tapir"], [9], "none of the chosen variants has the seed 9"),
    ],
)
def test_a_part_that_is_not_there_is_an_error(only: list[str], seeds: list[int], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        studies.runs_of(made.study(), only, seeds)
    assert message in str(caught.value)
    assert "--only" in caught.value.remedy or "--seed" in caught.value.remedy
