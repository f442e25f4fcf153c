"""Child processes: start, log, stop in order, kill the whole tree; none outlives the process that started it.

A child runs under a small supervisor (this module as a program), which is the leader of a session and process group
of its own. The supervisor's standard input is a pipe that nobody writes to: at its end the parent is gone, however it
ended, and the supervisor ends the child and all its descendants, those in other sessions too. It writes the status of
the child to a second pipe as soon as that has ended, ends what it has left running, and exits as the child.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import psutil

from tapir.data.files import disk_errors

_GRACE = 30.0  # seconds that a child has to end after SIGTERM
_LEFTOVER_GRACE = 5.0  # seconds for descendants that outlive the child itself
_POLL = 0.05  # seconds between two looks at descendants
_TO_VANISH = 5.0  # seconds in which a killed process is gone, unless it hangs in the kernel
_TO_FOLLOW = 1.0  # seconds in which the supervisor exits after its child
_TAIL, _WIDTH = 1 << 18, 300  # bytes read from the end of a log; characters of a line
_NOT_STARTED = 127  # exit status of a command that cannot be run, as in a shell
_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)  # meant for the child


class ChildProcess:
    """A command that runs in a session of its own; what it prints is added to a log.

    It has no standard input and gets no Ctrl-C. As a context manager it is stopped at the end.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        orphan_grace: float = 0.0,
    ) -> None:
        """Start it; if it cannot be run, it ends with status 127 and the log says why.

        `environment` is the whole one, `orphan_grace` the seconds to end in order if this process dies (0: killed).
        """
        self.log = log
        self._lock = threading.Lock()
        self._command_status: int | None = None
        with disk_errors(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            self._pipe, writing = Pipe(duplex=False)
            with log.open("ab") as output, writing:
                self.log_start = output.tell()
                descriptors = [*pass_fds, writing.fileno()]
                options = json.dumps({"grace": orphan_grace, "fds": descriptors})
                self._process = subprocess.Popen(  # noqa: S603 (callers check what they run)
                    [sys.executable, "-m", "tapir.models.process", options, *command],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=descriptors,
                    start_new_session=True,
                )
        self.pid = self._process.pid  # of the supervisor, which is also that of the process group

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.status is None

    @property
    def status(self) -> int | None:
        """Exit status, below 0 the number of the signal that ended it; None while it runs."""
        return self._process.poll()

    @property
    def ended(self) -> bool:
        """Whether the command itself has ended; what it has left running may take a few seconds more."""
        return self.command_status is not None

    @property
    def command_status(self) -> int | None:
        """Exit status as soon as the command itself has ended; None before."""
        with self._lock:
            if self._command_status is None and self._pipe.poll():
                with suppress(EOFError):  # its supervisor was killed
                    self._command_status = self._pipe.recv()
        return self.status if self._command_status is None else self._command_status

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end, at most so many seconds; return its status, None if it still runs."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.status

    def terminate(self) -> None:
        """Send SIGTERM to its process group."""
        if self.alive:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill it and all its descendants at once; any thread may do so."""
        if self.alive:
            _kill_descendants(self.pid)
            self.wait(_TO_FOLLOW)
        if self.status is None or self.status < 0:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)  # also what is left of the group of a supervisor that was killed
            _wait_for_group(self.pid)
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()

    def stop(self, grace: float = _GRACE) -> int | None:
        """End it in order, or by force after `grace` seconds; nothing of it is left. Return its status."""
        try:
            self.terminate()
            self.wait(grace)
        finally:  # a second Ctrl-C waits for nobody
            self.kill()
        return self.status

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines, other than empty ones, that it has printed; none where its log is gone."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(self.log_start, log.seek(0, os.SEEK_END) - _TAIL))
                text = log.read(_TAIL).decode(errors="replace")
        except OSError:
            return []
        return [line.rstrip()[:_WIDTH] for line in text.splitlines() if line.strip()][-count:]


def describe_status(status: int) -> str:
    """Return how a process ended: "exit status 1", or the name of the signal."""
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


def _kill_descendants(root: int) -> None:
    """Kill all descendants of a process, those too that are started meanwhile; return when they are gone."""
    deadline = time.monotonic() + _TO_VANISH
    while (running := _descendants(root)) and time.monotonic() < deadline:
        _signal(running, signal.SIGKILL)
        time.sleep(_POLL)


def _wait_for_group(group: int) -> None:
    """Wait until no process of a group that was killed runs: on a busy machine that takes a moment."""
    deadline = time.monotonic() + _TO_VANISH
    while time.monotonic() < deadline:
        lives = False
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
                lives |= os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
        if not lives:
            return
        time.sleep(_POLL)


def _descendants(root: int) -> list[psutil.Process]:
    """Return those that run; one that is dead and waits for its parent to notice does not."""
    running = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(root).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    running.append(process)
    return running


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.send_signal(number)


def main() -> None:
    """Supervise a command: `python -m tapir.models.process OPTIONS COMMAND...`; exit as it does."""
    options, command = json.loads(sys.argv[1]), sys.argv[2:]
    with suppress(OSError, AttributeError):  # so that descendants whose own parent ends can still be found (Linux only)
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in _SIGNALS:  # by a handler, as the child would inherit SIG_IGN
        signal.signal(number, lambda *_: None)
    *descriptors, pipe = options["fds"]
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=descriptors)  # noqa: S603
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror or error}\n")
        sys.exit(_NOT_STARTED)
    for descriptor in descriptors:
        os.close(descriptor)
    threading.Thread(target=_end_with_parent, args=(options["grace"],), daemon=True).start()
    status = child.wait()
    with suppress(OSError):  # the parent may be gone
        Connection(pipe, readable=False).send(status)
    _end_leftovers()
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # one core file is enough
        with suppress(OSError):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _end_with_parent(grace: float) -> None:
    while os.read(0, 1):
        pass
    if grace:
        os.killpg(0, signal.SIGTERM)
        time.sleep(grace)
    _kill_descendants(os.getpid())


def _end_leftovers() -> None:
    this = os.getpid()
    _signal(_descendants(this), signal.SIGTERM)
    deadline = time.monotonic() + _LEFTOVER_GRACE
    while _descendants(this) and time.monotonic() < deadline:
        time.sleep(_POLL)
    _kill_descendants(this)


if __name__ == "__main__":
    main()
