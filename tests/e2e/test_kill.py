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
KILLS, FOLDERS = 10, 2


def killed(folder: Path, after: float) -> bool:
    """Start it or go on, SIGKILL so many seconds after its next stage has begun; whether it was killed in time."""
    events = folder / "events.jsonl"
    seen = stages(events)
    with subprocess.Popen(
        small.command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=small.environment()
    ) as process:
        while process.poll() is None and stages(events) == seen:
            time.sleep(0.01)
        time.sleep(after)
        in_time = process.poll() is None
        process.kill()
    return in_time


def stages(events: Path) -> int:
    return events.read_text("utf-8").count('"event": "stage"') if events.exists() else 0


def killed_again_and_again(folder: Path) -> list[tuple[float, bool]]:
    """Kill it at random moments and let it come to its end; the moments, and whether each came in time."""
    moments = [random.uniform(0, 3) for _ in range(KILLS // FOLDERS)]
    in_time = [killed(folder, moment) for moment in moments]
    result = small.run(folder)
    assert result.returncode == 0, f"killed after {moments}: {result.stdout}{result.stderr}"
    return list(zip(moments, in_time, strict=True))


def test_a_run_killed_at_ten_random_moments_ends_in_the_same_bytes(small_run: SmallRun, tmp_path: Path) -> None:
    wanted = small.outcome(small_run.folder)
    assert sum(name.endswith(".parquet") for name in wanted) >= 18
    assert sum(name.endswith("model.safetensors") for name in wanted) == 2
    folders = [tmp_path / f"{number}" for number in range(FOLDERS)]
    with ThreadPoolExecutor(FOLDERS) as pool:
        kills = list(pool.map(killed_again_and_again, folders, timeout=1800))
    for folder, moments in zip(folders, kills, strict=True):
        outcome = small.outcome(folder)
        differing = [name for name in wanted.keys() | outcome.keys() if wanted.get(name) != outcome.get(name)]
        assert not differing, f"killed after {moments}: {differing} differ"
    assert sum(in_time for moments in kills for _, in_time in moments) >= KILLS - 3


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
