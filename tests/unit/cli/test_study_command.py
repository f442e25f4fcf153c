"""The command line of studies, where nothing is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from support import studies as made
from tapir.cli.main import app
from tapir.data.files import write_json
from tapir.domain.errors import RecipeError
from unit.runs.test_study_results import SUCCESS

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
    result = tapir("study", file, "--plan", "--out", folder)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[0] == ["tapir", "seed", "1", "2", "x", "10", "examples"]
    assert len(lines) == 5
    assert "4 runs; nothing was run" in result.output
    plans = json.loads(tapir("study", file, "--plan", "--json", "--out", folder).stdout)
    assert (plans[0], len(plans)) == ({"variant": "tapir", "seed": 1, "rounds": 2, "size": 10}, 4)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('baseline = "random"', 'baseline = "random"\nbenchmark = "unsen"', "benchmark = 'unsen'"),
        ("curriculum.size = 10", 'student.model = "./absent"', "variants.tapir: student.model = './absent'"),
    ],
)
def test_a_plan_finds_what_would_keep_a_run_from_running(file: Path, old: str, new: str, message: str) -> None:
    file.write_text(TOML.replace(old, new))
    result = tapir("study", file, "--plan")
    assert isinstance(result.exception, RecipeError)
    assert message in str(result.exception)
    assert result.exception.remedy


def test_the_results_of_finished_runs_are_a_table_or_json(file: Path) -> None:
    folder = file.parent / "study"
    for (variant, seed), by_round in SUCCESS.items():
        made.finish_run(made.run_of(made.study(), variant, seed), folder, by_round)
    write_json(folder / "study.json", made.study().model_dump(mode="json"))
    result = tapir("study", file, "--out", folder)
    assert result.exit_code == 0, result.output
    assert "4 of 4 runs are there from before" in result.output
    assert all(text in result.output for text in ("65.0 %", "+25.0", "untuned", "results.md", "figure.svg"))
    assert "not finished" not in result.output
    content = json.loads(tapir("study", file, "--out", folder, "--json").stdout)
    assert content == json.loads((folder / "results.json").read_text())
