"""The command line of studies, where nothing is run."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tapir.cli import app
from tapir.errors import RecipeError
from tapir.store.files import write_json
from tests.study import made
from tests.study.test_results import SUCCESS

TOML = """
name = "made"
recipe = "gym"
seeds = [1, 2]
baseline = "random"
set = { curriculum.rounds = 2, curriculum.size = 10, evaluation.unseen_per_task = 0 }
[variants.tapir]
about = "the variant tapir"
[variants.random]
about = "the variant random"
"""


def tapir(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "made.toml"
    path.write_text(TOML)
    return path


def test_a_plan_names_every_run_and_runs_nothing(file: Path) -> None:
    folder = file.parent / "study"
    result = tapir("compare", file, "--plan", "--dir", folder)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[0] == ["tapir", "seed", "1", "2", "x", "10", "examples"]
    assert len(lines) == 5
    assert "4 runs; nothing was run" in result.output
    assert not folder.exists()


def test_a_part_can_be_planned(file: Path) -> None:
    result = tapir("compare", file, "--plan", "--only", "random", "--seed", 2)
    assert result.output.splitlines()[-1] == "1 runs; nothing was run"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('baseline = "random"', 'baseline = "randm"', "did you mean random?"),
        ('baseline = "random"', 'baseline = "random"\nbenchmark = "unsen"', "benchmark = 'unsen'"),
        ("curriculum.size = 10", 'student.model = "./absent"', "variants.tapir: student.model = './absent'"),
        (
            "curriculum.size = 10",
            'corpus.skills = ["gcd", "chain_smu"]',
            "no skill 'chain_smu'; did you mean chain_sum?",
        ),
    ],
)
def test_a_plan_finds_what_would_keep_a_run_from_running(file: Path, old: str, new: str, said: str) -> None:
    file.write_text(TOML.replace(old, new))
    result = tapir("compare", file, "--plan")
    assert isinstance(result.exception, RecipeError)
    assert said in str(result.exception)
    assert result.exception.remedy


def test_a_study_whose_runs_are_all_there_is_only_told(file: Path) -> None:
    folder = file.parent / "study"
    grid = made.study()
    for (variant, seed), by_round in SUCCESS.items():
        made.finish(made.job_of(grid, variant, seed), folder, by_round)
    write_json(folder / "study.json", grid.model_dump(mode="json"))
    result = tapir("compare", file, "--dir", folder)
    assert result.exit_code == 0, result.output
    assert "4 of 4 runs are there from before" in result.output
    for text in ("65.0 %", "+25.0", "untuned", "results.md", "figure.svg"):
        assert text in result.output
    assert "not finished" not in result.output
    assert (folder / "results.json").exists()
