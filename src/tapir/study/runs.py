"""Carry out the runs of a study: several at a time, each in a process of its own, none twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tapir import session
from tapir.errors import Interrupted, RunMismatch, TapirError
from tapir.recipe_file import differences
from tapir.store.files import disk_errors, read_json
from tapir.study.beginning import take_over
from tapir.study.grid import Job

_POLL = 0.2  # seconds between two looks at the processes
_PATIENCE = 60  # seconds that a run has to stop in order when the study is gone
_TAIL = 2_000  # bytes of a log in which its last lines are found
_STOPPED = {Interrupted.exit_code, -signal.SIGTERM, -signal.SIGKILL}
LOG = "study.log"


@dataclass(slots=True)
class Progress:
    """How far a study is: told once for each run that ends."""

    total: int
    done: int = 0
    failed: list[tuple[Job, str]] = field(default_factory=list)
    stopped: list[Job] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Runs that are neither finished nor failed."""
        return self.total - self.done - len(self.failed)


def finished(job: Job, study: Path) -> bool:
    """Whether this run is complete, of this very recipe."""
    folder = job.folder(study)
    rounds = job.recipe.curriculum.alpha().rounds
    if not (folder / f"round-{rounds}" / "metrics.json").exists():
        return False
    return not differences(job.recipe, read_json(folder / "recipe.json"))


def carry_out(
    jobs: Sequence[Job],
    study: Path,
    *,
    known: Sequence[Job] = (),
    at_once: int,
    threads: int,
    say: Callable[[str], None],
) -> list[tuple[Job, str]]:
    """Run every job that is not finished; a run that fails is reported and does not stop the others.

    Args:
        jobs: in the order they are begun.
        study: folder of the study.
        known: further jobs of the study, whose finished parts are taken over where they are the same.
        at_once: runs beside each other.
        threads: CPU threads of each.
        say: is told a line for each run that ends.

    Returns:
        The jobs that failed, each with its last words.

    Raises:
        RunMismatch: a folder holds a run of another recipe; nothing was begun.
        Interrupted: Ctrl-C or SIGTERM; every run stops in order and goes on with the same command.
    """
    _see_that_folders_fit(jobs, study)
    waiting = [job for job in jobs if not finished(job, study)]
    known = [*jobs, *(job for job in known if job not in jobs)]
    progress = Progress(len(jobs), len(jobs) - len(waiting))
    before, began = progress.done, time.monotonic()
    if before:
        say(f"{before} of {progress.total} runs are there from before")
    active: dict[subprocess.Popen[bytes], tuple[Job, float]] = {}
    told: set[subprocess.Popen[bytes]] = set()
    with _stopping(active) as stopped:
        while waiting or active:
            while waiting and len(active) < at_once and not stopped():
                _begin(waiting.pop(0), known, study, threads=threads, active=active, progress=progress, say=say)
            if stopped():
                _pass_on(active.keys() - told, at_once=False)
                told |= active.keys()
            if stopped() > 1:
                _pass_on(active, at_once=True)
            for process in [one for one in active if one.poll() is not None]:
                job, since = active.pop(process)
                _end(process, job, study, progress, asked=bool(stopped()))
                pace = (time.monotonic() - began) / max(1, progress.done - before)
                say(_line(progress, job, time.monotonic() - since, pace * progress.left))
            if stopped() and not active:
                raise Interrupted("stopped; every run keeps what it has finished")
            if active:
                time.sleep(_POLL)
    return progress.failed


def _see_that_folders_fit(jobs: Sequence[Job], study: Path) -> None:
    for job in jobs:
        path = job.folder(study) / "recipe.json"
        if path.exists() and (differing := differences(job.recipe, read_json(path))):
            raise RunMismatch(
                f"{job.folder(study)} holds a run of another recipe:\n  " + "\n  ".join(differing),
                remedy="Give the changed variant another name, remove that folder, or choose another with --dir.",
            )


def _line(progress: Progress, job: Job, seconds: float, left: float) -> str:
    how = f"{seconds / 60:.1f} min"
    if job in progress.stopped:
        how = "stopped"
    for failed, why in progress.failed:
        how = f"FAILED: {why}" if failed == job else how
    more = f", about {left / 60:.0f} min left" if left and progress.left and job not in progress.stopped else ""
    return f"[{progress.done}/{progress.total}] {job.variant}, seed {job.seed}: {how}{more}"


def _begin(
    job: Job,
    known: Sequence[Job],
    study: Path,
    *,
    threads: int,
    active: dict[subprocess.Popen[bytes], tuple[Job, float]],
    progress: Progress,
    say: Callable[[str], None],
) -> None:
    """Start a run; one that cannot be started is a run that failed."""
    try:
        process = _start(job, known, study, threads)
    except TapirError as error:
        progress.failed.append((job, str(error)))
        say(_line(progress, job, 0, 0))
    else:
        active[process] = (job, time.monotonic())


def _start(job: Job, known: Sequence[Job], study: Path, threads: int) -> subprocess.Popen[bytes]:
    """Claim the run's folder, give it the beginning that another run of the seed has, and start it."""
    folder = job.folder(study)
    session.claim(job.recipe, folder, session.preflight(job.recipe))
    take_over(job.recipe, folder, [one.folder(study) for one in known if one != job and one.seed == job.seed])
    environment = {**os.environ, **_threads(threads), "TAPIR_LIFELINE": str(_PATIENCE), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "tapir.training.lifeline", "tapir.cli", "resume", str(folder)]
    with disk_errors(folder / LOG), (folder / LOG).open("ab") as log:
        return subprocess.Popen(  # noqa: S603 (our own command line; the pipe ends the run with the study)
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _threads(count: int) -> Mapping[str, str]:
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(count))


def _end(process: subprocess.Popen[bytes], job: Job, study: Path, progress: Progress, *, asked: bool) -> None:
    if process.stdin:
        process.stdin.close()
    if process.returncode == 0:
        progress.done += 1
    elif asked and process.returncode in _STOPPED:
        progress.stopped.append(job)
    else:
        progress.failed.append((job, _last_words(job.folder(study) / LOG, process.returncode)))


def _last_words(log: Path, code: int) -> str:
    """The error a run ended with."""
    text = log.read_bytes()[-_TAIL:].decode(errors="replace").strip().splitlines()
    error = next((line for line in reversed(text) if line.startswith("error: ")), text[-1] if text else "no output")
    return f"{error.removeprefix('error: ')} (exit status {code}; {log})"


@contextmanager
def _stopping(active: Mapping[subprocess.Popen[bytes], object]) -> Iterator[Callable[[], int]]:
    """While inside, Ctrl-C and SIGTERM are counted; whatever else ends it ends every run."""
    asked = [0]

    def on_signal(_number: int, _frame: object) -> None:
        asked[0] += 1

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked[0]
    except BaseException:
        _pass_on(active, at_once=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(processes: Iterable[subprocess.Popen[bytes]], *, at_once: bool) -> None:
    """Have runs stop: in order, or with everything they started."""
    for process in processes:
        if process.poll() is None:
            if at_once:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.terminate()
