"""Kill it anywhere, resume it, get the same result."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import small
from tests.conftest import SmallRun

KILLS = 10


def killed_and_resumed(folder: Path, after: float) -> dict[str, bytes]:
    """Start, SIGKILL after so many seconds, go on to the end."""
    with subprocess.Popen(
        small.command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=small.environment()
    ) as process:
        time.sleep(after)
        process.kill()
    result = small.run(folder)
    assert result.returncode == 0, f"killed after {after:.2f} s: {result.stdout}{result.stderr}"
    return small.outcome(folder)


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_ends_in_the_same_bytes(small_run: SmallRun, tmp_path: Path) -> None:
    wanted = small.outcome(small_run.folder)
    assert sum(name.endswith(".parquet") for name in wanted) >= 18
    assert sum(name.endswith("model.safetensors") for name in wanted) == 2
    moments = [random.uniform(0.5, small_run.seconds) for _ in range(KILLS)]
    with ThreadPoolExecutor(2) as pool:
        outcomes = pool.map(
            killed_and_resumed, (tmp_path / f"{number}" for number in range(KILLS)), moments, timeout=900
        )
        for moment, outcome in zip(moments, outcomes, strict=True):
            differing = [name for name in wanted.keys() | outcome.keys() if wanted.get(name) != outcome.get(name)]
            assert not differing, f"killed after {moment:.2f} s: {differing} differ"


@pytest.mark.slow
def test_a_training_killed_in_the_middle_goes_on_from_its_last_checkpoint(small_run: SmallRun, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    work = folder / "round-1" / "training"
    with subprocess.Popen(small.command(folder), stdout=subprocess.DEVNULL, env=small.environment()) as process:
        while process.poll() is None and not list(work.glob("checkpoint-*/complete")):
            time.sleep(0.01)
        process.kill()
    assert list(work.glob("checkpoint-*/complete"))
    shutil.copytree(work, work.with_name("kept"))
    result = small.run(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    line = next(line for line in result.stdout.splitlines() if "round 1/2" in line and "train" in line)
    assert "from before" in line
    shutil.rmtree(work.with_name("kept"))
    assert small.outcome(folder) == small.outcome(small_run.folder)


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(small.command(folder), stdout=subprocess.PIPE, text=True, env=small.environment()) as process:
        while process.poll() is None and not (folder / "events.jsonl").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130
