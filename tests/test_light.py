"""The core is light, the command line clear."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tapir.recipe_file import as_toml, load, parse

HEAVY = ("torch", "transformers", "trl", "reasoning_gym", "sklearn", "datasets", "pyarrow")


def tapir(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tapir.cli", *arguments]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


@pytest.mark.parametrize("program", ["import tapir", "import tapir.cli, tapir.algorithm, tapir.stages, tapir.store"])
def test_nothing_heavy_is_loaded(program: str) -> None:
    check = f"{program}; import sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", check], text=True).strip() == "[]"


def test_help_loads_nothing_heavy() -> None:
    check = (
        "import sys; sys.argv = ['tapir', '--help']\nfrom tapir.cli import main\ntry: main()\n"
        f"except SystemExit: pass\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", check], text=True).splitlines()[-1] == "[]"


def test_every_command_has_help() -> None:
    text = tapir("--help").stdout
    for command in (
        "run",
        "plan",
        "resume",
        "status",
        "show",
        "report",
        "check",
        "recipe",
        "eval",
        "audit",
        "review",
        "compare",
    ):
        assert f"  {command} " in text
        assert tapir(command, "--help").returncode == 0


def test_the_libraries_of_the_hub_are_told_to_send_no_telemetry() -> None:
    program = "import os; os.environ.pop('HF_HUB_DISABLE_TELEMETRY', 0); import tapir; "
    program += "from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True"


def test_version() -> None:
    from tapir import __version__

    assert tapir("--version").stdout.strip() == f"tapir {__version__}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "gmy"], "did you mean gym?"),
        (["run", "nothing.toml"], "nothing.toml cannot be read"),
        (["check", "gym", "--set", "curiculum.rounds=2"], "did you mean curriculum?"),
        (["check", "gym", "--set", "curriculum.schedule.start=1.4"], "curriculum.schedule.start = 1.4"),
        (["check", "gym", "--set", 'corpus.skills=["chain_sun"]'], "did you mean chain_sum?"),
        (["check", "gym", "--set", "curriculum.target.taxonomy=nowhere"], "nowhere"),
        (["plan", "gym", "--set", "rounds"], "is not key=value"),
        (["resume", "nowhere"], "not a run directory"),
        (["status", "nowhere"], "not a run directory"),
        (["report", "nowhere"], "not a run directory"),
        (["show", "abc", "--dir", "nowhere"], "not a run directory"),
        (["run", "gym", "--dir", "/proc/nothing"], "/proc/nothing"),
        (["run", "gym", "--set", "student.model=/no/such/model"], "/no/such/model"),
    ],
)
def test_a_users_mistake_is_one_clear_error(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = tapir(*arguments, cwd=tmp_path)
    assert result.returncode not in {0, 130}
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert not list(tmp_path.iterdir())


def test_a_good_recipe_is_called_good() -> None:
    result = tapir("check", "gym")
    assert (result.returncode, result.stderr) == (0, "")
    assert "good" in result.stdout


def test_the_shown_recipe_reads_back_as_the_same_recipe() -> None:
    for changes in ([], ["curriculum.variant=single-round"], ["curriculum.target.shares=room"]):
        recipe = load("gym", changes)
        assert parse(tomllib.loads(as_toml(recipe))) == recipe


def test_the_schema_is_json_schema_with_help() -> None:
    schema = json.loads(tapir("recipe", "schema").stdout)
    assert schema["properties"]["seed"]["description"]
    assert "gym" in tapir("recipe", "list").stdout.split()


def test_a_plan_counts_without_writing(tmp_path: Path) -> None:
    result = tapir("plan", "gym", "--no-time", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for stage in ("answer", "judge", "tag", "expand", "refine", "train", "evaluate"):
        assert stage in result.stdout
    assert "disk: about" in result.stdout
    assert not list(tmp_path.iterdir())
