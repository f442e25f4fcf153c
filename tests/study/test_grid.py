"""A study as a file: what it may say, and what is told about a mistake before anything is run."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tapir import study as studies
from tapir.errors import RecipeError
from tapir.learning import Sft
from tapir.recipe_file import load
from tests.study import made

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


def written(folder: Path, text: str) -> str:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(folder: Path, text: str) -> str:
    """What the error says about a study, when it is read or its recipes are."""
    with pytest.raises(RecipeError) as caught:
        studies.jobs(studies.read(written(folder, text)))
    assert caught.value.remedy
    return str(caught.value)


def test_every_variant_is_run_with_every_seed_unless_it_has_its_own(tmp_path: Path) -> None:
    text = GOOD.replace('about = "the method"', 'about = "the method"\nseeds = [2, 5]')
    jobs = studies.jobs(studies.read(written(tmp_path, text)))
    assert [(job.variant, job.seed) for job in jobs] == [("tapir", 2), ("tapir", 5), ("random", 1), ("random", 2)]
    assert [job.recipe.seed for job in jobs] == [2, 5, 1, 2]
    assert [job.recipe.name for job in jobs] == ["mine/tapir", "mine/tapir", "mine/random", "mine/random"]
    assert jobs[0].folder(Path("place")) == Path("place/tapir/seed-2")
    assert {job.recipe.curriculum.size for job in jobs} == {30}


def test_a_part_of_a_study_can_be_chosen() -> None:
    grid = made.study()
    assert [(job.variant, job.seed) for job in studies.jobs(grid, ["random"], [2])] == [("random", 2)]


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
    first = studies.jobs(studies.read(written(tmp_path, text)))[0].recipe
    assert first == load("gym", ["curriculum.size=30", "name=mine/tapir", "seed=1"])
    assert first.curriculum.rounds == load("gym").curriculum.rounds


def test_what_a_variant_sets_wins_over_what_the_study_sets(tmp_path: Path) -> None:
    text = GOOD.replace('about = "the method"', 'about = "the method"\n[variants.tapir.set.curriculum]\nsize = 99')
    sizes = {job.variant: job.recipe.curriculum.size for job in studies.jobs(studies.read(written(tmp_path, text)))}
    assert sizes == {"tapir": 99, "random": 30}


def test_values_of_every_type_arrive_in_the_recipe(tmp_path: Path) -> None:
    text = GOOD.replace(
        '"curriculum.size" = 30',
        '"corpus.skills" = ["gcd", "chain_sum"]\n"curriculum.expand" = false\n"training.learning_rate" = 3e-4\n'
        'student.chat_template = "Größe \\"{{ x }}\\" \\U0001F469 \\\\ \\u007f"',
    )
    recipe = studies.jobs(studies.read(written(tmp_path, text)))[0].recipe
    assert recipe.corpus.model_dump()["skills"] == ("gcd", "chain_sum")
    assert recipe.curriculum.expand is False
    assert isinstance(recipe.training, Sft)
    assert recipe.training.learning_rate == 3e-4
    assert recipe.student.chat_template == tomllib.loads('x = "Größe \\"{{ x }}\\" \\U0001F469 \\\\ \\u007f"')["x"]


@pytest.mark.parametrize("difficulty", ['"none"', '{ kind = "none" }'])
def test_a_variant_without_difficulty_drops_what_only_difficulty_has_use_for(tmp_path: Path, difficulty: str) -> None:
    text = GOOD.replace('"curriculum.difficulty" = "none"', f'"curriculum.difficulty" = {difficulty}')
    recipe = studies.jobs(studies.read(written(tmp_path, text)), ["random"])[0].recipe
    assert recipe.curriculum.difficulty.kind == "none"
    assert recipe.curriculum.alpha().shares == (1.0,) * recipe.curriculum.rounds


def test_the_shipped_studies_can_be_run() -> None:
    assert "gym" in studies.shipped()
    for name in studies.shipped():
        assert len(studies.jobs(studies.read(name))) >= 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('baseline = "random"', 'baseline = "randm"', "baseline: there is no variant 'randm'; did you mean random?"),
        ('baseline = "random"', 'baseline = "zzz"', "there are tapir, random"),
        (
            'baseline = "random"',
            'baseline = "random"\nmethod = "tapr"',
            "method: there is no variant 'tapr'; did you mean tapir?",
        ),
        ("seeds = [1, 2]", "seeds = [1, 1, 2]", "seeds: 1 more than once"),
        ("seeds = [1, 2]", "seeds = []", "seeds: Tuple should have at least 1 item"),
        ("seeds = [1, 2]", "seeds = [-1]", "seeds.0: Input should be greater than or equal to 0"),
        ("seeds = [1, 2]", "seed = [1, 2]", "seed is no key of a study; did you mean seeds?"),
        (
            'about = "the method"',
            'abut = "the method"',
            "variants.tapir.abut is no key of a study; did you mean about?",
        ),
        ('about = "the method"', "", "variants.tapir.about: Field required"),
        ('about = "the method"', 'about = "x"\nseeds = [7]', "variants.tapir.seeds = [7]: none of them is a seed of"),
        ("[variants.tapir]", '[variants."a/../../b"]', "variants.a/../../b: a folder is named so"),
        ("[variants.tapir]", '[variants.".."]', "variants...: a folder is named so"),
        ("[variants.tapir]", "[variants.untuned]", "variants.untuned: the student before any round is measured"),
        ('"curriculum.size" = 30', "seed = 3", "set: seed cannot be set: it is one of `seeds`"),
        ('"curriculum.size" = 30', 'name = "x"', "set: name cannot be set"),
        ('"curriculum.size" = 30', '"curriculum.sise" = 3', "variants.tapir: curriculum.sise: no such key; did you"),
        ('"curriculum.size" = 30', '"curriculum.size" = 0', "variants.tapir: curriculum.size = 0: must be greater"),
        ('recipe = "gym"', 'recipe = "gim"', "no recipe named 'gim'; did you mean gym?"),
        ('recipe = "gym"', 'recipe = "absent.toml"', "absent.toml cannot be read"),
        (
            '"curriculum.target.shares" = "pool"',
            '"evaluation.per_task" = 3',
            "variants.random is measured with another",
        ),
        ("seeds = [1, 2]", "seeds = [1, 2", "is not valid TOML"),
    ],
)
def test_a_mistake_is_one_error_that_names_the_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    assert said in refused(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize(("source", "said"), [("gim", "did you mean gym?"), ("absent.toml", "cannot be read")])
def test_a_study_that_is_not_there_is_said_so(source: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said.replace("?", r"\?")) as caught:
        studies.read(source)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("only", "seeds", "said"),
    [
        (["tapr"], [], "no variant named 'tapr'; did you mean tapir?"),
        ([], [1, 9], "no variant has the seed 9; there are 1, 2"),
        (["tapir"], [9], "none of the chosen variants has the seed 9"),
    ],
)
def test_a_part_that_is_not_there_is_said_so(only: list[str], seeds: list[int], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        studies.jobs(made.study(), only, seeds)
    assert said in str(caught.value)
    assert "--only" in caught.value.remedy or "--seed" in caught.value.remedy


def test_a_benchmark_that_no_run_is_measured_with_is_found_before_the_first_run() -> None:
    grid = made.study(benchmark="unseen")
    with pytest.raises(RecipeError, match="benchmark = 'unseen': the runs are measured with in-distribution, harder"):
        studies.check(grid, studies.jobs(grid))


def test_a_variant_that_cannot_be_run_is_found_before_the_first_run(tmp_path: Path) -> None:
    grid = made.study(variants=("random",))
    wrong = made.study(set={"student.model": str(tmp_path)}, variants=("random",))
    studies.check(grid, studies.jobs(grid))
    with pytest.raises(RecipeError, match=r"variants\.random: student\.model = .* no config\.json"):
        studies.check(wrong, studies.jobs(wrong))
