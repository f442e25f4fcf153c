"""The command as a user meets it, on a small real run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import tapir
from conftest import SmallRun
from support import small
from support.command import tapir as call
from support.paths import ROOT
from tapir.data.run.rows import ExpansionRow, MixtureRow
from tapir.data.run.store import RunStore
from tapir.domain.errors import Interrupted
from tapir.domain.progress import SilentProgress
from tapir.report.summary import summarise
from tapir.runs.build import build_roles
from tapir.runs.session import claim, stored_recipe


def test_a_run_tells_its_progress_and_ends_with_the_table_and_the_report_without_noise_of_others(
    small_run: SmallRun,
) -> None:
    lines = small_run.output.splitlines()
    for stage in ("answer", "judge", "tag", "expand", "refine", "train", "evaluate"):
        assert any(re.search(rf"\b{stage}\b", line) for line in lines), stage
    assert any(line.startswith("success on in-distribution (12 held-out") for line in lines)
    assert any("mean of the tasks" in line for line in lines)
    assert f"report: {small_run.folder / 'report.html'}" in small_run.output
    assert (small_run.folder / "report.html").stat().st_size > 100_000
    for noise in ("Warning", "it/s", "'loss'", "shards", "Map:", "examples/s"):
        assert noise not in small_run.output
    assert (small_run.folder / "log.txt").is_file()


def test_the_folder_holds_what_the_documentation_says(small_run: SmallRun) -> None:
    text = ROOT.joinpath("docs", "run-directory.md").read_text()
    found = {path.name for path in small_run.folder.rglob("*") if path.is_file() and "checkpoint" not in path.parts}
    for name in found - {".lock"}:
        assert f"`{name}`" in text, name


def test_a_finished_run_says_so_and_a_second_one_in_its_folder_changes_nothing(small_run: SmallRun) -> None:
    assert "finished" in call("status", str(small_run.folder)).stdout
    before = small.outcome(small_run.folder)
    again = small.run(small_run.folder)
    assert again.returncode == 0
    assert "mean of the tasks" in again.stdout
    assert small.outcome(small_run.folder) == before


def test_show_tells_the_life_of_an_expansion_and_of_its_parent(small_run: SmallRun) -> None:
    store = RunStore(small_run.folder)
    trained = {row.id for row in store.read("round-2/mixture", MixtureRow)}
    written = next(row for row in store.read("round-2/expansions", ExpansionRow) if row.id in trained)
    told = call("show", written.id, "--run", str(small_run.folder)).stdout
    for part in ("instruction", f"from {written.parents[0]}", "round 2: refined", "round 2: trained on"):
        assert part in told
    parent = call("show", written.parents[0][:12], "--run", str(small_run.folder)).stdout
    for part in ("corpus (gym:", "student's answer", "gym-verifier", "MFD", "task"):
        assert part in parent


def test_show_of_an_unknown_id_and_another_recipe_in_the_folder_are_refused(small_run: SmallRun) -> None:
    result = call("show", "zzz", "--run", str(small_run.folder))
    assert result.returncode == 1
    assert "mixture.parquet" in result.stderr
    result = call("run", "gym", "--out", str(small_run.folder))
    assert result.returncode == 1
    assert "corpus.size: 120 -> 2000" in result.stderr


def kill_when(folder: Path, pattern: str) -> None:
    """Start the run and SIGKILL it as soon as a file matches."""
    with subprocess.Popen(small.command(folder), stdout=subprocess.DEVNULL, env=small.environment()) as process:
        while process.poll() is None and not list(folder.glob(pattern)):
            time.sleep(0.01)
        process.kill()
    assert list(folder.glob(pattern))


def test_a_run_killed_at_its_start_and_in_a_training_ends_in_the_same_bytes(
    small_run: SmallRun, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    kill_when(folder, "round-0/*.parts.jsonl")
    kill_when(folder, "round-1/training/checkpoint-*/complete")
    result = small.run(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if "round 1/2" in line and "train" in line]
    assert any("from before" in line for line in lines)  # a slow machine also prints lines of the way
    assert small.outcome(folder) == small.outcome(small_run.folder)


@pytest.mark.parametrize("left", [[], ["manifest.json"], [".lock", "manifest.json", ".recipe.json.draft"]])
def test_a_run_killed_before_it_had_a_recipe_can_be_started_again(
    small_run: SmallRun, tmp_path: Path, left: list[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in left:
        (folder / name).write_text("{")
    recipe = stored_recipe(small_run.folder)
    claim(recipe, folder, build_roles(recipe))
    assert stored_recipe(folder) == recipe


@pytest.mark.slow
def test_a_corrupted_table_is_named_and_made_again_after_it_is_deleted(small_run: SmallRun, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run.folder, folder)
    table = folder / "round-1" / "mixture.parquet"
    table.write_bytes(table.read_bytes()[:-20] + b"x" * 20)
    result = call("resume", str(folder))
    assert result.returncode == 1
    assert str(table) in result.stderr
    assert "Traceback" not in result.stderr
    table.unlink()
    assert small.run(folder).returncode == 0
    assert small.outcome(folder) == small.outcome(small_run.folder)


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of so many bytes in a folder, or skip the test."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_clear_error_and_nothing_is_lost(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "260m") as place:
        folder, filler = place / "run", place / "filler"
        filler.touch()
        with subprocess.Popen(
            small.command(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=small.environment()
        ) as process:
            while process.poll() is None and not (folder / "round-1" / "training").exists():
                time.sleep(0.01)
            with filler.open("wb") as sink:
                os.posix_fallocate(sink.fileno(), 0, shutil.disk_usage(place).free - 2_000_000)
            output, errors = process.communicate(timeout=300)
        assert process.returncode == 1, output + errors
        assert "no space left" in errors
        assert "Traceback" not in output + errors
        filler.unlink()
        assert small.run(folder).returncode == 0
        assert summarise(RunStore(folder)).finished


def test_too_little_disk_is_said_before_work_begins(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "4m") as place:
        result = small.run(place / "run")
        assert result.returncode == 1
        assert "the run needs about" in result.stderr


def test_the_python_interface_gives_a_typed_result(small_run: SmallRun) -> None:
    result = tapir.resume(small_run.folder)
    assert result.summary.finished
    assert result.student.round == 2
    assert result.report == small_run.folder / "report.html"
    assert [one.round for one in result.summary.benchmark("in-distribution")] == [0, 1, 2]


def test_a_watch_can_stop_a_run_from_python(tmp_path: Path) -> None:
    from support import fakes

    progress = SilentProgress()
    progress.stop()
    with pytest.raises(Interrupted):
        tapir.run(fakes.recipe(), tmp_path / "run", progress, fakes.roles(tmp_path / "people"))
