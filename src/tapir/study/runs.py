"""Carry out the runs of a study: several at a time, each in a process of its own, none twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tapir import session
from tapir.errors import Interrupted
from tapir.store.files import disk_errors, read_json
from tapir.study.beginning import beginning, take_over
from tapir.study.grid import Job

_POLL = 0.2  # seconds between two looks at the processes
_PATIENCE = 60  # seconds that a run has to stop in order when the study is gone
_TAIL = 2_000  # bytes of a log in which its last lines are found
LOG = "study.log"


@dataclass(slots=True)
class Progress:
    """How far a study is: told once for each run that ends."""

    total: int
    done: int = 0
    failed: list[tuple[Job, str]] = field(default_factory=list)


def finished(job: Job, study: Path) -> bool:
    """Whether this run is complete, of this very recipe."""
    folder = job.folder(study)
    rounds = job.recipe.curriculum.alpha().rounds
    if not (folder / f"round-{rounds}" / "metrics.json").exists():
        return False
    return not job.recipe.differences(read_json(folder / "recipe.json"))


def carry_out(
    jobs: Sequence[Job], study: Path, *, at_once: int, threads: int, say: Callable[[str], None]
) -> list[tuple[Job, str]]:
    """Run every job that is not finished; a run that fails is reported and does not stop the others.

    Args:
        jobs: in the order they are begun.
        study: folder of the study.
        at_once: runs beside each other.
        threads: CPU threads of each.
        say: is told a line for each run that ends.

    Returns:
        The jobs that failed, each with its last words.

    Raises:
        RunMismatch: a folder holds a run of another recipe.
        Interrupted: Ctrl-C or SIGTERM; every run stops in order and goes on with the same command.
    """
    owed = [job for job in jobs if not finished(job, study)]
    progress = Progress(len(jobs), len(jobs) - len(owed))
    if progress.done:
        say(f"{progress.done} of {progress.total} runs are there from before")
    active: dict[subprocess.Popen[bytes], tuple[Job, float]] = {}
    waiting = list(owed)
    began = time.monotonic()
    with _stopping(active) as stopped:
        while waiting or active:
            while waiting and len(active) < at_once and not stopped():
                job = waiting.pop(0)
                active[_start(job, jobs, study, threads)] = (job, time.monotonic())
            for process in [one for one in active if one.poll() is not None]:
                job, since = active.pop(process)
                _end(process, job, study, progress)
                left = (
                    (time.monotonic() - began)
                    / max(1, progress.done - len(jobs) + len(owed))
                    * (progress.total - progress.done)
                )
                say(_line(progress, job, time.monotonic() - since, left))
            if stopped() and not active:
                raise Interrupted("stopped; every run keeps what it has finished")
            time.sleep(_POLL)
    return progress.failed


def _line(progress: Progress, job: Job, seconds: float, left: float) -> str:
    how = next((f"FAILED: {why}" for failed, why in progress.failed if failed == job), f"{seconds / 60:.1f} min")
    more = f", about {left / 60:.0f} min left" if progress.done < progress.total else ""
    return f"[{progress.done}/{progress.total}] {job.variant}, seed {job.seed}: {how}{more}"


def _start(job: Job, jobs: Sequence[Job], study: Path, threads: int) -> subprocess.Popen[bytes]:
    """Claim the run's folder, give it the beginning that another run of the seed has, and start it."""
    folder = job.folder(study)
    session.claim(job.recipe, folder, session.preflight(job.recipe))
    same = beginning(job.recipe)
    others = [one.folder(study) for one in jobs if one != job and beginning(one.recipe) == same]
    take_over(job.recipe, folder, [one for one in others if (one / "recipe.json").exists()])
    environment = {**os.environ, **_threads(threads), "TAPIR_LIFELINE": str(_PATIENCE), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "tapir.training.lifeline", "tapir.cli", "resume", str(folder)]
    with disk_errors(folder / LOG), (folder / LOG).open("ab") as log:
        return subprocess.Popen(  # noqa: S603 (our own command line; the pipe ends the run with the study)
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _threads(count: int) -> Mapping[str, str]:
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(count))


def _end(process: subprocess.Popen[bytes], job: Job, study: Path, progress: Progress) -> None:
    if process.stdin:
        process.stdin.close()
    if process.returncode == Interrupted.exit_code:
        return
    progress.done += 1
    if process.returncode:
        progress.failed.append((job, _last_words(job.folder(study) / LOG, process.returncode)))


def _last_words(log: Path, code: int) -> str:
    """The error a run ended with."""
    text = log.read_bytes()[-_TAIL:].decode(errors="replace").strip().splitlines()
    error = next((line for line in reversed(text) if line.startswith("error: ")), text[-1] if text else "no output")
    return f"{error.removeprefix('error: ')} (exit status {code}; {log})"


@contextmanager
def _stopping(active: Mapping[subprocess.Popen[bytes], object]) -> Iterator[Callable[[], bool]]:
    """While inside, the first Ctrl-C or SIGTERM stops every run in order, the second at once."""
    asked = [0]

    def on_signal(_number: int, _frame: object) -> None:
        asked[0] += 1
        for process in list(active):
            if process.poll() is None:
                os.kill(process.pid, signal.SIGTERM if asked[0] == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked[0] > 0
    except BaseException:
        for process in list(active):
            process.kill()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
