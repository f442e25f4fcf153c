"""Kill it anywhere, resume it, get the same result; two kills are among the fast tests (test_run.py)."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import SmallRun
from support import small

pytestmark = pytest.mark.slow
KILLS = 10


def killed_and_resumed(folder: Path, after: float) -> bool:
    """Start, SIGKILL so many seconds after the work began, go on to the end; whether it was killed in time."""
    with subprocess.Popen(
        small.command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=small.environment()
    ) as process:
        while process.poll() is None and not (folder / "recipe.json").exists():
            time.sleep(0.01)
        time.sleep(after)
        in_time = process.poll() is None
        process.kill()
    result = small.run(folder)
    assert result.returncode == 0, f"killed after {after:.2f} s: {result.stdout}{result.stderr}"
    return in_time


def test_a_run_killed_at_ten_random_moments_ends_in_the_same_bytes(small_run: SmallRun, tmp_path: Path) -> None:
    wanted = small.outcome(small_run.folder)
    assert sum(name.endswith(".parquet") for name in wanted) >= 18
    assert sum(name.endswith("model.safetensors") for name in wanted) == 2
    moments = [random.uniform(0, 0.8 * small_run.seconds) for _ in range(KILLS)]
    folders = [tmp_path / f"{number}" for number in range(KILLS)]
    with ThreadPoolExecutor(2) as pool:
        in_time = list(pool.map(killed_and_resumed, folders, moments, timeout=1800))
    for moment, folder in zip(moments, folders, strict=True):
        outcome = small.outcome(folder)
        differing = [name for name in wanted.keys() | outcome.keys() if wanted.get(name) != outcome.get(name)]
        assert not differing, f"killed after {moment:.2f} s: {differing} differ"
    assert sum(in_time) >= KILLS - 3


def test_the_first_ctrl_c_saves_prints_how_to_resume_and_exits_130(small_run: SmallRun, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        small.command(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=small.environment()
    ) as process:
        while process.poll() is None and not (folder / "round-1" / "training").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, output + errors
    assert f"tapir resume {folder}" in errors
    assert "Traceback" not in output + errors
    assert list((folder / "round-1" / "training").glob("checkpoint-*/complete"))
    assert small.run(folder).returncode == 0
    assert small.outcome(folder) == small.outcome(small_run.folder)


def test_the_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(small.command(folder), stdout=subprocess.PIPE, text=True, env=small.environment()) as process:
        assert process.stdout is not None
        while process.poll() is None and not (folder / "events.jsonl").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert any("press Ctrl-C again" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert process.returncode == 130
    assert '"stopped"' not in (folder / "events.jsonl").read_text()
