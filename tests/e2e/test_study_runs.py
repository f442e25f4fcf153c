"""`tapir study` from its first command to its table: killed, stopped, resumed, with one run that cannot work."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import small
from support import studies as made
from tapir.config.recipe import Recipe
from tapir.data.files import locked
from tapir.domain.errors import Interrupted, RecipeError, RoleError, RunExists, RunLocked, RunMismatch
from tapir.runs import session
from tapir.runs import study as studies
from tapir.runs.study import run as execution
from tapir.runs.study.grid import StudyConfig

STUDY = """
name = "small"
recipe = "gym"
seeds = [1]
baseline = "first"
[set]
corpus = {{ size = 60, skills = ["chain_sum", "gcd"] }}
tagger.labelled = 40
chunk = 16
student.batch_size = 16
student.max_new_tokens = 24
curriculum = {{ size = 24, rounds = 1 }}
training = {{ epochs = 1, batch_size = 8, save_every = 2 }}
evaluation = {{ per_task = 3, harder_per_task = 1, unseen_per_task = 0 }}
[variants.first]
about = "the method"
[variants.broken]
about = "a student that cannot be loaded"
set = {{ "student.model" = "{broken}" }}
[variants.harder]
about = "hard examples only"
set = {{ "curriculum.schedule.start" = 1.0 }}
[variants.plain]
about = "no difficulty"
set = {{ "curriculum.difficulty" = "none", "curriculum.target.shares" = "pool", "curriculum.expand" = false }}
"""
FINISHED = ("first", "harder", "plain")
PATIENCE = 1200  # seconds, on a machine that does much else


@dataclass(frozen=True)
class Executed:
    """A study that was killed, then stopped, then run to its end: exit status and output of the last two."""

    file: Path
    folder: Path
    stopped: tuple[int, str]
    done: tuple[int, str]


@contextmanager
def started(file: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tapir.cli.main", "study", str(file), "--out", str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=small.environment()
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def events(folder: Path) -> list[str]:
    path = folder / "events.jsonl"
    return [json.loads(line)["event"] for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(event: str, count: int, run: Path, process: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + PATIENCE
    while events(run).count(event) < count:
        assert not process or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    place = tmp_path_factory.mktemp("study")
    broken, file, folder = place / "broken", place / "small.toml", place / "study"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    file.write_text(STUDY.format(broken=broken))
    run = folder / "first" / "seed-1"
    with started(file, folder) as process:
        wait_for("session", 1, run, process)
    wait_for("stopped", 1, run)  # the run stops in order although the study was killed
    with started(file, folder) as process:
        wait_for("session", 2, run, process)
        process.send_signal(signal.SIGTERM)
        stopped, _ = process.communicate(timeout=PATIENCE)
        status = process.returncode
    with started(file, folder) as process:
        done, _ = process.communicate(timeout=PATIENCE)
    return Executed(file, folder, (status, stopped), (process.returncode, done))


@pytest.mark.slow
def test_a_study_that_is_stopped_stops_its_runs_in_order_and_goes_on(executed: Executed) -> None:
    status, output = executed.stopped
    assert status == 130, output
    assert "first, seed 1: stopped" in output
    assert "every run keeps what it has finished" in output
    sessions = [
        event for event in events(executed.folder / "first" / "seed-1") if event in {"session", "stopped", "done"}
    ]
    assert sessions == ["session", "stopped", "session", "stopped", "session", "done"]


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(executed: Executed) -> None:
    status, output = executed.done
    assert status == 1, output
    failure = r"broken, seed 1: FAILED: no student can be loaded from .*\(exit status 1; "
    assert re.search(failure, output.replace("\n", " ")), output
    for name in FINISHED:
        assert re.search(rf"{name}, seed 1: [\d.]+ min", output), output
        assert events(executed.folder / name / "seed-1")[-1] == "done"
    assert "1 runs are not finished, 1 of them failed" in output
    assert "Traceback" not in output + executed.stopped[1]
    content = json.loads((executed.folder / "results.json").read_text())
    efforts = {variant["name"]: variant["effort"]["examples"] for variant in content["variants"]}
    assert efforts == {"untuned": 0} | dict.fromkeys(FINISHED, 24)
    assert all(name in output for name in ("untuned", "vs first (points)", "results.md"))


@pytest.mark.slow
def test_what_is_finished_is_not_done_again(executed: Executed) -> None:
    def times() -> dict[Path, int]:
        runs = [executed.folder / name for name in FINISHED]
        return {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*") if path.is_file()}

    grid, before, lines = studies.read(str(executed.file)), times(), list[str]()
    runs = studies.runs_of(grid, FINISHED)
    result = studies.execute(grid, executed.folder, runs, parallel=2, threads=1, report=lines.append)
    assert lines == ["3 of 3 runs are there from before"]
    assert times() == before
    assert (list(result.missing), list(result.failed)) == ([("broken", 1)], [])


@pytest.mark.slow
def test_a_run_that_copied_a_prelude_ends_in_the_same_bytes_as_one_that_did_not(
    executed: Executed, tmp_path: Path
) -> None:
    variant = "harder"
    run = made.run_of(studies.read(str(executed.file)), variant, 1)
    copied = run.folder(executed.folder)
    began = (copied / "study.log").read_text().split("round 1", 1)[0]
    assert not [stage for stage in ("evaluate", "judge") if stage in began]
    session.claim(run.recipe, tmp_path / variant, session.preflight(run.recipe))
    command = [sys.executable, "-m", "tapir.cli.main", "resume", str(tmp_path / variant)]
    subprocess.run(command, env=small.environment(), check=True, capture_output=True)
    expected, outcome = small.outcome(tmp_path / variant), small.outcome(copied)
    assert [name for name in expected.keys() | outcome.keys() if expected.get(name) != outcome.get(name)] == []
    assert sum(name.endswith("model.safetensors") for name in expected) == 1


@pytest.mark.slow
def test_a_folder_belongs_to_one_study_and_a_run_to_one_recipe(executed: Executed) -> None:
    grid = studies.read(str(executed.file))
    other = grid.model_copy(update={"name": "other"})
    with pytest.raises(RunMismatch, match="name: small -> other") as caught:
        studies.execute(other, executed.folder, studies.runs_of(other), parallel=1, threads=1, report=print)
    assert "--out" in caught.value.remedy
    changed = executed.file.with_name("changed.toml")
    changed.write_text(executed.file.read_text().replace('"pool", "curriculum.expand" = false', '"pool"'))
    grid, lines = studies.read(str(changed)), list[str]()
    with pytest.raises(RunMismatch, match=r"plain/seed-1 holds a run of another recipe:\n.*expand: False -> True"):
        studies.execute(grid, executed.folder, studies.runs_of(grid), parallel=1, threads=1, report=lines.append)
    assert not lines


def test_a_study_that_cannot_be_executed_leaves_its_folder_as_it_was(tmp_path: Path) -> None:
    def execute(grid: StudyConfig, folder: Path) -> None:
        studies.execute(grid, folder, studies.runs_of(grid), parallel=1, threads=1, report=print)

    mine, free = tmp_path / "mine", tmp_path / "free"
    for folder in (mine, free):
        folder.mkdir()
    (mine / "thesis.tex").write_text("")
    with pytest.raises(RunExists, match="holds no study"):
        execute(made.study(), mine)
    with locked(free), pytest.raises(RunLocked):
        execute(made.study(), free)
    with pytest.raises(RecipeError, match="benchmark = 'unseen'"):
        execute(made.study(benchmark="unseen"), free)
    assert not (free / "study.json").exists()


def test_where_every_run_fails_the_first_reason_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_disk(*_: object) -> None:
        raise RoleError("no space left", remedy="Free some.")

    lines: list[str] = []
    grid = made.study(variants=["random"])
    monkeypatch.setattr(session, "_check_space", fill_disk)
    with pytest.raises(RoleError, match="none of the 2 runs could be finished; the first: no space"):
        studies.execute(grid, tmp_path, studies.runs_of(grid), parallel=1, threads=1, report=lines.append)
    assert [line.split(": ", 1)[1] for line in lines] == ["FAILED: no space left"] * 2


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_between_two_runs_starts_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """It comes while the first run is about to be started: that run is stopped, the next never begins."""

    def interrupt(*_: object) -> None:
        for _turn in range(times):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(execution, "copy_prelude", interrupt)
    grid, lines = made.study(variants=["random"]), list[str]()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        studies.execute(grid, tmp_path, studies.runs_of(grid), parallel=1, threads=1, report=lines.append)
    assert lines == ["[0/2] random, seed 1: stopped"]
    assert not (tmp_path / "random" / "seed-2").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_part_of_a_study_copies_what_other_parts_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = studies.runs_of(made.study())
    seen: list[Path] = []

    def stop(_recipe: Recipe, _folder: Path, others: Sequence[Path]) -> None:
        seen.extend(others)
        raise RoleError("enough", remedy="")

    monkeypatch.setattr(execution, "copy_prelude", stop)
    failed = execution.execute_all(everything[:1], tmp_path, known=everything, parallel=1, threads=1, report=print)
    assert failed == [(everything[0], "enough")]
    assert seen == [run.folder(tmp_path) for run in everything[1:] if run.seed == everything[0].seed]
