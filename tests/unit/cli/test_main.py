"""The core is light, the command line clear."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tapir as package
from support.command import tapir
from tapir.cli.main import app
from tapir.config.toml import as_toml, load, parse
from tapir.runs import session
from tapir.version import __version__

HEAVY = ("torch", "transformers", "trl", "reasoning_gym", "sklearn", "datasets", "pyarrow", "rich", "pydantic")
COMMANDS = ("run", "plan", "resume", "status", "show", "report", "check", "recipe", "export", "eval", "audit", "review")


def in_a_new_process(program: str) -> str:
    return subprocess.check_output([sys.executable, "-c", program], text=True)


def test_nothing_heavy_is_loaded_and_no_telemetry_is_sent() -> None:
    program = (
        "import os, sys; os.environ.pop('HF_HUB_DISABLE_TELEMETRY', 0)\n"
        "import tapir, tapir.cli.main\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(tapir.cli.main.app, ['--help']).exit_code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
        "import tapir.algorithm, tapir.stages, tapir.data.run, tapir.data.readers, tapir.data.duplicates\n"
        f"print([name for name in (*{HEAVY[:-2]!r}, 'rapidfuzz', 'datasketch') if name in sys.modules])\n"
        "from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    assert in_a_new_process(program).splitlines() == ["[]", "[]", "True"]


def test_every_command_has_help() -> None:
    text = tapir("--help").stdout
    for command in COMMANDS:
        assert f"  {command} " in text
        assert tapir(command, "--help").returncode == 0


def test_version() -> None:
    assert tapir("--version").stdout.strip() == f"tapir {__version__}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "gmy"], "did you mean gym?"),
        (["run", "nothing.toml"], "nothing.toml cannot be read"),
        *(([command, "/"], "/ cannot be read: Is a directory") for command in ("run", "check", "plan")),
        (["check", "gym", "--set", "curiculum.rounds=2"], "did you mean curriculum?"),
        (["check", "gym", "--set", "curriculum.schedule.start=1.4"], "curriculum.schedule.start = 1.4"),
        (["check", "gym", "--set", 'corpus.skills=["chain_sun"]'], "did you mean chain_sum?"),
        (["check", "gym", "--set", "curriculum.target.taxonomy=nowhere"], "nowhere"),
        (["plan", "gym", "--set", "rounds"], "is not key=value"),
        (["resume", "nowhere"], "not a run directory"),
        (["report", "nowhere"], "not a run directory"),
        (["show", "abc", "--run", "nowhere"], "not a run directory"),
        (["status", "folder", "--dir", "out"], "No such option"),
        (["run", "gym", "--out", "/proc/nothing"], "/proc/nothing"),
        (["run", "gym", "--set", "student.model=/no/such/model"], "/no/such/model"),
    ],
)
def test_a_users_mistake_is_one_clear_error(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = tapir(*arguments, cwd=tmp_path)
    assert result.returncode not in {0, 130}
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_every_path_of_a_command_line_may_be_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # bash leaves the ~ of --out=~/mine as it is
    for arguments in (["show", "x", "--run=~/no"], ["show", "x", "--run", "~/no"], ["status", "~/no"]):
        assert str(CliRunner().invoke(app, arguments).exception) == f"{tmp_path}/no is not a run directory"
    audit = ["audit", str(tmp_path), "--labels=~/no"]
    monkeypatch.setattr("tapir.evaluation.audit.readers.open_all", lambda _, labels, **__: sys.exit(str(labels[0])))
    assert str(CliRunner().invoke(app, audit).exception) == f"{tmp_path}/no"
    folders: list[Path] = []
    monkeypatch.setattr(session, "run", lambda _recipe, folder, *_: folders.append(folder))
    monkeypatch.setattr(session, "resume", lambda folder, *_: folders.append(folder))
    package.run("gym", "~/mine")
    package.resume("~/mine")
    assert folders == [tmp_path / "mine"] * 2


def test_an_error_names_a_path_as_it_is() -> None:
    command = [sys.executable, "-m", "tapir.cli.main", "plan", "/no/:key:/[b].toml"]
    said = subprocess.run(command, check=False, capture_output=True, text=True).stderr
    assert "/no/:key:/[b].toml cannot be read" in said


def test_a_good_recipe_is_called_good() -> None:
    result = tapir("check", "gym")
    assert (result.returncode, result.stderr) == (0, "")
    content = json.loads(tapir("check", "gym", "--json").stdout)
    last = f"gym: good ({content['rounds']} rounds of {content['size']} examples)"
    assert result.stdout.splitlines() == [*content["checks"], last]


def test_the_shown_recipe_reads_back_as_the_same_recipe() -> None:
    for changes in ([], ["curriculum.variant=single-round"], ["curriculum.target.shares=room"]):
        recipe = load("gym", changes)
        assert parse(tomllib.loads(as_toml(recipe))) == recipe
    assert parse(json.loads(tapir("recipe", "show", "gym", "--json").stdout)) == load("gym")
    assert parse(tomllib.loads(tapir("recipe", "show", "gym").stdout)) == load("gym")


def test_the_schema_is_json_schema_with_help() -> None:
    schema = json.loads(tapir("recipe", "schema").stdout)
    assert schema["properties"]["seed"]["description"]
    assert "gym" in tapir("recipe", "list").stdout.split()
    assert "gym" in json.loads(tapir("recipe", "list", "--json").stdout)
