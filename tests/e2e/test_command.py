"""The installed command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tapir.version import __version__

COMMAND = [sys.executable, "-m", "tapir.cli.main"]


def test_the_command_starts() -> None:
    result = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == f"tapir {__version__}"


def test_an_error_of_the_user_is_printed_without_a_traceback(tmp_path: Path) -> None:
    result = subprocess.run([*COMMAND, "status", "nowhere"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert "not a run directory" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_what_a_terminal_cannot_show_is_replaced_and_json_keeps_it(encoding: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    (tmp_path / "mine.toml").write_text('name = "\u2264 \u65e5"', encoding="utf-8")
    calls = (["plan", "mine.toml", "--no-time"], ["recipe", "show", "mine.toml", "--json"], ["resume", "\u65e5"])
    shown, printed, failed = (
        subprocess.run([*COMMAND, *call], capture_output=True, check=False, cwd=tmp_path, env=environment)
        for call in calls
    )
    assert shown.stdout.startswith("plan of \u2264 \u65e5: expected \u2264".encode(encoding, "replace"))
    assert json.loads(printed.stdout.decode(encoding))["name"] == "\u2264 \u65e5"
    assert failed.stderr.startswith("error: \u65e5 is not a run directory".encode(encoding, "replace"))
