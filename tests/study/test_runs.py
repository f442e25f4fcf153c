"""`tapir compare` from its first command to its table: killed, stopped, gone on with, and one run that cannot work."""

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

from tapir import session
from tapir import study as studies
from tapir.errors import Interrupted, RecipeError, RoleError, RunExists, RunLocked, RunMismatch
from tapir.recipe import Recipe
from tapir.store.lock import locked
from tapir.study import Job, runs
from tests import small
from tests.study import made

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
PATIENCE = 1200  # seconds, on a machine that does much else


@dataclass(frozen=True)
class Carried:
    """A study after all that happened to it.

    Attributes:
        alone: whether its run ended by itself after the study was killed.
        stopped: exit status, output and errors of the command that was sent SIGTERM.
        done: of the command that came to the end.
    """

    file: Path
    folder: Path
    alone: bool
    stopped: tuple[int, str, str]
    done: tuple[int, str, str]

    def job(self, variant: str) -> Job:
        return made.job_of(studies.read(str(self.file)), variant, 1)


@contextmanager
def comparing(file: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tapir.cli", "compare", str(file), "--dir", str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=small.environment()
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def to_the_end(file: Path, folder: Path) -> tuple[int, str, str]:
    with comparing(file, folder) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, output, errors


def events(folder: Path) -> list[str]:
    path = folder / "events.jsonl"
    return [json.loads(line)["event"] for line in path.read_text().splitlines()] if path.exists() else []


def until(sessions: int, run: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a run works, for the so-manieth time."""
    end = time.monotonic() + PATIENCE
    while events(run).count("session") < sessions:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(run: Path) -> bool:
    """Whether nobody works in a run's folder any more, or soon will not."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            with locked(run):
                return True
        except RunLocked:
            time.sleep(0.1)
    return False


def written(folder: Path) -> dict[str, int]:
    """When every file of the runs was written."""
    runs = [folder / name for name in ("first", "harder", "plain")]
    files = [path for run in runs for path in run.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Carried:
    place = tmp_path_factory.mktemp("compare")
    broken, file, folder = place / "broken", place / "small.toml", place / "study"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    file.write_text(STUDY.format(broken=broken))
    run = folder / "first" / "seed-1"
    with comparing(file, folder) as process:
        until(1, run, process)
        process.kill()
        process.communicate()
    alone = ended(run)
    with comparing(file, folder) as process:
        until(2, run, process)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=PATIENCE)
    stopped = process.returncode, output, errors
    return Carried(file, folder, alone, stopped, to_the_end(file, folder))


@pytest.mark.slow
def test_a_study_that_is_killed_takes_its_runs_with_it_in_order(carried: Carried) -> None:
    assert carried.alone
    found = [one for one in events(carried.folder / "first" / "seed-1") if one in {"session", "stopped", "done"}]
    assert found == ["session", "stopped", "session", "stopped", "session", "done"]


@pytest.mark.slow
def test_a_study_that_is_stopped_stops_its_runs_in_order_and_says_so(carried: Carried) -> None:
    code, output, errors = carried.stopped
    assert code == 130, output + errors
    assert "first, seed 1: stopped" in output
    assert "every run keeps what it has finished" in errors
    assert "Traceback" not in output + errors


@pytest.mark.slow
def test_the_same_command_goes_on_and_a_run_that_fails_does_not_stop_the_others(carried: Carried) -> None:
    code, output, errors = carried.done
    assert code == 1, output + errors
    assert re.search(
        r"broken, seed 1: FAILED: no student can be loaded from .*\(exit status 1; ", output.replace("\n", " ")
    ), output
    for name in ("first", "harder", "plain"):
        assert re.search(rf"{name}, seed 1: [\d.]+ min", output), output
        assert events(carried.folder / name / "seed-1")[-1] == "done"
    assert "1 runs are not finished, 1 of them failed" in output
    assert "Traceback" not in output + errors


@pytest.mark.slow
def test_what_is_finished_is_not_done_again(carried: Carried) -> None:
    grid, before, said = studies.read(str(carried.file)), written(carried.folder), list[str]()
    wanted = studies.jobs(grid, ["first", "harder", "plain"])
    found = studies.compare(grid, carried.folder, wanted, at_once=2, threads=1, say=said.append)
    assert said == ["3 of 3 runs are there from before"]
    assert written(carried.folder) == before
    assert (list(found.missing), list(found.failed)) == ([("broken", 1)], [])


@pytest.mark.slow
def test_the_table_has_every_finished_variant_and_the_untuned_student(carried: Carried) -> None:
    found = json.loads((carried.folder / "results.json").read_text())
    assert {one["name"] for one in found["variants"]} == {"untuned", "first", "harder", "plain"}
    assert found["missing"] == [["broken", 1]]
    for one in found["variants"]:
        assert one["effort"]["examples"] == (0 if one["name"] == "untuned" else 24)
        assert set(one["success"]) == {"in-distribution", "harder"}
    assert all(name in carried.done[1] for name in ("untuned", "vs first (points)", "results.md"))
    assert (carried.folder / "figure.svg").exists()


@pytest.mark.slow
def test_runs_that_took_over_a_beginning_end_in_the_same_bytes_as_runs_that_did_not(
    carried: Carried, tmp_path: Path
) -> None:
    jobs = [carried.job(variant) for variant in ("harder", "plain")]
    for job in jobs:
        session.claim(job.recipe, tmp_path / job.variant, session.preflight(job.recipe))
        assert _began_later(job.folder(carried.folder))
    both = "import sys, pathlib, tapir.session as one; list(map(one.resume, map(pathlib.Path, sys.argv[1:])))"
    result = subprocess.run(
        [sys.executable, "-c", both, *(str(tmp_path / job.variant) for job in jobs)],
        capture_output=True,
        text=True,
        env=small.environment(),
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for job in jobs:
        wanted, outcome = small.outcome(tmp_path / job.variant), small.outcome(job.folder(carried.folder))
        assert [name for name in wanted.keys() | outcome.keys() if wanted.get(name) != outcome.get(name)] == []
        assert sum(name.endswith("model.safetensors") for name in wanted) == 1


def _began_later(run: Path) -> bool:
    """Whether the untuned student was not evaluated in this run."""
    return "evaluate" not in (run / "study.log").read_text().split("round 1", 1)[0]


@pytest.mark.slow
def test_a_folder_belongs_to_one_study(carried: Carried) -> None:
    grid = studies.read(str(carried.file))
    other = grid.model_copy(update={"name": "other"})
    with pytest.raises(RunMismatch, match="name: small -> other") as caught:
        studies.compare(other, carried.folder, studies.jobs(other), at_once=1, threads=1, say=print)
    assert "--dir" in caught.value.remedy


@pytest.mark.slow
def test_a_variant_that_was_changed_is_told_before_anything_begins(carried: Carried) -> None:
    changed = carried.file.read_text().replace('"curriculum.schedule.start" = 1.0', '"curriculum.schedule.start" = 0.9')
    file = carried.file.with_name("changed.toml")
    file.write_text(changed)
    grid = studies.read(str(file))
    said: list[str] = []
    with pytest.raises(RunMismatch, match=r"harder/seed-1 holds a run of another recipe:\n.*start: 1.0 -> 0.9"):
        studies.compare(grid, carried.folder, studies.jobs(grid), at_once=1, threads=1, say=said.append)
    assert not said


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    grid = made.study()
    with pytest.raises(RunExists, match="holds no study"):
        studies.compare(grid, tmp_path, studies.jobs(grid), at_once=1, threads=1, say=print)


def test_a_study_is_carried_out_once_at_a_time(tmp_path: Path) -> None:
    grid = made.study()
    with locked(tmp_path), pytest.raises(RunLocked):
        studies.compare(grid, tmp_path, studies.jobs(grid), at_once=1, threads=1, say=print)


def test_where_every_run_fails_the_first_reason_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    grid = made.study(variants=["random"])
    monkeypatch.setattr(session, "_check_space", lambda *_: _full())
    with pytest.raises(RoleError, match="none of the 2 runs could be finished; the first: no space"):
        studies.compare(grid, tmp_path, studies.jobs(grid), at_once=1, threads=1, say=said.append)
    assert [line.split(": ", 1)[1] for line in said] == ["FAILED: no space left"] * 2


def _full() -> None:
    raise RoleError("no space left", remedy="Free some.")


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_between_two_runs_starts_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """It comes while the first run is about to be started: that run is stopped, the next never begins."""

    def asked(*_: object) -> None:
        for _turn in range(times):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("tapir.study.runs.take_over", asked)
    grid, said = made.study(variants=["random"]), list[str]()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        studies.compare(grid, tmp_path, studies.jobs(grid), at_once=1, threads=1, say=said.append)
    assert said == ["[0/2] random, seed 1: stopped"]
    assert not (tmp_path / "random" / "seed-2").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_study_with_a_mistake_leaves_its_folder_free(tmp_path: Path) -> None:
    wrong = made.study(benchmark="unseen")
    with pytest.raises(RecipeError, match="benchmark = 'unseen'"):
        studies.compare(wrong, tmp_path, studies.jobs(wrong), at_once=1, threads=1, say=print)
    assert not (tmp_path / "study.json").exists()


def test_a_part_of_a_study_takes_over_what_other_parts_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = studies.jobs(made.study())
    seen: list[Path] = []

    def enough(_recipe: Recipe, _folder: Path, others: Sequence[Path]) -> None:
        seen.extend(others)
        raise RoleError("enough", remedy="")

    monkeypatch.setattr(runs, "take_over", enough)
    ((job, why),) = runs.carry_out(everything[:1], tmp_path, known=everything, at_once=1, threads=1, say=print)
    assert (job, why) == (everything[0], "enough")
    assert seen == [one.folder(tmp_path) for one in everything[1:] if one.seed == job.seed]
    assert seen
