"""A program run beside us: in a process group of its own, stopped in order, never running twice."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tapir.errors import TrainingError
from tapir.roles import Watch
from tapir.store.files import disk_errors

GRACE = 30.0
"""Seconds a program has to end after SIGTERM."""

_LOOK = 0.2  # seconds between two looks
_KILLED = 5.0  # seconds until what was killed is gone, also where nobody waits for it


def _nothing() -> None:
    """Look at nothing."""


@dataclass(frozen=True, slots=True)
class Program:
    """A command and where its output goes; further runs append to it. `look` is called now and then, and at the end."""

    command: tuple[str, ...]
    log: Path
    grace: float = GRACE
    look: Callable[[], None] = _nothing

    def run(self, watch: Watch) -> int | None:
        """Run to its end, or until the watch stops.

        Returns:
            Exit status, below 0 the number of the signal that ended it; None if it was stopped for the watch.

        Raises:
            TrainingError: the program cannot be started, or one of an earlier session cannot be ended.
        """
        with disk_errors(self.log):
            self.log.parent.mkdir(parents=True, exist_ok=True)
        with self._alone() as lock, self.log.open("ab") as output:
            process = self._started(output, lock)
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(process.pid).encode(), 0)
            grace = 0.0  # a second Ctrl-C waits for nobody
            try:
                while process.poll() is None and not watch.stopping:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_LOOK)
                    self.look()
                grace = self.grace
                return process.returncode
            finally:
                _end_group(process.pid, grace, process)
                process.wait()
                self.look()

    def _started(self, output: IO[bytes], lock: int) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603 (the recipe's own command)
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
            )
        except OSError as error:
            raise TrainingError(
                f"{self.command[0]} cannot be started: {error.strerror or error}",
                remedy="Mend training.command, then `tapir resume`.",
            ) from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """Hold the lock that the program inherits, so that it tells of itself even when we are killed."""
        place = self.log.with_suffix(".lock")
        with disk_errors(place):
            lock = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _taken(lock):
                self._end_earlier(lock)
            yield lock
        finally:
            os.close(lock)

    def _end_earlier(self, lock: int) -> None:
        """End the program that a killed session left running: two of them would write over each other."""
        group = int(os.pread(lock, 20, 0) or b"0")
        if group > 1:
            _end_group(group, self.grace)
        if not _taken(lock):
            raise TrainingError(
                f"the training command of an earlier session is still running (it holds {self.log.stem}.lock)",
                remedy="End its processes, then `tapir resume`.",
            )


def _taken(lock: int) -> bool:
    """Whether nobody else had the lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end_group(group: int, grace: float, leader: subprocess.Popen[bytes] | None = None) -> None:
    """SIGTERM to all of a group, and SIGKILL to what is left of it after `grace` seconds."""
    for sent, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, min(grace, _KILLED))):
        try:
            os.killpg(group, sent)
        except (ProcessLookupError, PermissionError):
            return
        end = time.monotonic() + seconds
        while time.monotonic() < end and _alive(group, leader):
            time.sleep(_LOOK)


def _alive(group: int, leader: subprocess.Popen[bytes] | None) -> bool:
    if leader:
        leader.poll()  # a leader that nobody waits for stays in its group
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
