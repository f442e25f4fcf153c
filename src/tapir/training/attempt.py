"""One attempt to train in other processes: start them, follow them, end them, tell how it ended."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tapir.errors import Interrupted, TapirError, TrainingError
from tapir.roles import Trainer, TrainJob, TrainReport, Watch
from tapir.store.files import disk_errors, full
from tapir.training import lifeline
from tapir.training.handover import PROGRESS, JobFolder, Rank
from tapir.training.relay import ProgressReader

LOG = "launch.log"
"""Everything that the processes print, in the training's folder."""

FOLDER = "launch"
"""The job and its progress, in the training's folder."""

_TICK = 0.1  # seconds between two looks at the progress
_PATIENCE = 5.0  # seconds that ranks are given to end by themselves once one of them has failed
_FAREWELL = 10.0  # seconds that a launcher waits for its ranks when its parent is gone
_LINES = 24  # of the log, in an error
_SPARE = 1 << 20  # bytes; a disk with fewer is full


@dataclass(frozen=True, slots=True)
class Command:
    """What starts the processes.

    Attributes:
        arguments: a module and its arguments; the job's folder is among them.
        where: in words, for messages.
        restarts: whether it starts lost processes again by itself.
        environment: set on top of this process's own.
    """

    arguments: Sequence[str]
    where: str
    restarts: bool
    environment: Mapping[str, str] = field(default_factory=dict)


class Attempt:
    """A training in other processes, from its start to its end."""

    def __init__(self, job: TrainJob, watch: Watch) -> None:
        """Nothing is started yet."""
        self.folder = JobFolder((job.work / FOLDER).absolute())
        self._job = job
        self._watch = watch
        self._log = job.work / LOG
        self._progress = ProgressReader(self.folder.path / PROGRESS, watch)
        self._silent: list[Rank] = []

    def offer(self, trainer: Trainer) -> None:
        """Write the job where the processes find it."""
        self.folder.offer(trainer, self._job)

    def run(self, command: Command) -> TrainReport:
        """Start the processes and wait for their end.

        Raises:
            TapirError: what a process raised, as the same class.
            TrainingError: a process was lost, or failed in a way that nobody foresaw.
            Interrupted: the watch asked to stop, or somebody else told the processes to.
        """
        with disk_errors(self._log), self._log.open("ab") as log:
            began = log.tell()
            process = self._start(command, log.fileno())
        try:
            self._follow(process, command)
        finally:
            _end(process)
        self._progress.hand_on()
        report = self.folder.report()
        if report is not None and self._job.out.exists():
            return report
        self._watch.check()
        raise self._failure(command, self._last_lines(began))

    def _start(self, command: Command, log: int) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **command.environment, lifeline.VARIABLE: str(_FAREWELL)}
        arguments = [sys.executable, "-m", "tapir.training.lifeline", *command.arguments]
        return subprocess.Popen(  # noqa: S603 - the command is made here, of settings that were checked
            arguments,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _follow(self, process: subprocess.Popen[bytes], command: Command) -> None:
        until = 0.0
        while process.poll() is None:
            self._progress.hand_on()
            if self._watch.stopping:
                if not self._progress.begun:
                    return
                self.folder.ask_to_stop()
            until = until or self._until(command)
            if until and time.monotonic() > until:
                return
            time.sleep(_TICK)

    def _until(self, command: Command) -> float:
        """Until when the processes may go on; 0 while nothing speaks against it."""
        ranks = self.folder.ranks()
        if command.restarts:  # after an error of ours, beginning again would not help
            return time.monotonic() if any(rank.error() for rank in ranks) else 0.0
        self._silent = [rank for rank in ranks if _lost(rank)]
        if self._silent or any(rank.state == "failed" for rank in ranks):
            return time.monotonic() + _PATIENCE
        return 0.0

    def _failure(self, command: Command, lines: str) -> TapirError:
        ranks = self.folder.ranks()
        failed = sorted((rank for rank in ranks if rank.state == "failed"), key=lambda rank: rank.ended)
        for rank in failed:
            error = rank.error()
            if error:
                return error
        if any(rank.state == "stopped" for rank in ranks):
            return Interrupted("the training was told to stop from outside; its last training checkpoint is on disk")
        if shutil.disk_usage(self._job.work).free < _SPARE:
            return full(self._job.work)
        silent = self._silent or [rank for rank in ranks if _lost(rank) or _never_answered(rank, command)]
        told = failed[0].trace if failed and not silent else lines
        return TrainingError(
            f"training {command.where} failed: {_cause(ranks, silent, failed)}. More is in {self._log}:\n{told}",
            remedy="`tapir resume` goes on from the last complete training checkpoint, if one was saved; where memory "
            "ran out, lower training.micro_batch first.",
        )

    def _last_lines(self, began: int) -> str:
        with disk_errors(self._log), self._log.open("rb") as log:
            log.seek(began)
            lines = log.read().decode("utf-8", errors="replace").splitlines()
        return "\n".join([line for line in lines if line.strip()][-_LINES:])


def _never_answered(rank: Rank, command: Command) -> bool:
    return command.restarts and rank.state == "training"


def _lost(rank: Rank) -> bool:
    """Whether a process of this machine is gone without a word."""
    if rank.state != "training" or rank.machine or rank.host != socket.gethostname():
        return False
    try:
        os.kill(rank.pid, 0)
    except ProcessLookupError:
        return True
    return False


def _cause(ranks: Sequence[Rank], silent: Sequence[Rank], failed: Sequence[Rank]) -> str:
    """A process that ended without a word comes first: the others fail because it does not answer."""
    if silent:
        names = ", ".join(f"{rank.number} (process {rank.pid} on {rank.host})" for rank in silent)
        return f"rank {names} was killed, or its machine ran out of memory"
    if failed:
        return f"rank {failed[0].number} ended with {failed[0].kind}: {failed[0].message}"
    return "a process could not be reached" if ranks else "no process came up"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let go of the lifeline: every process that hangs on it ends; returns when they have."""
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(_FAREWELL + _PATIENCE)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
