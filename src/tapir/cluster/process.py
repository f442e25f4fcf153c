"""A process of ours that uses Ray, seen from the run: started, spoken to, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tapir.errors import RoleError
from tapir.store.files import disk_errors

_TO_END = 15.0  # seconds
_LINES, _WIDTH, _TAIL = 8, 300, 1 << 15  # of the log, where it is shown


class Process:
    """`python -m MODULE DESCRIPTOR ARGUMENTS...`, with a socket to speak through and a log for all it prints.

    Its standard input is a pipe that is at its end when this process goes away; it listens to no Ctrl-C.
    """

    def __init__(self, module: str, arguments: tuple[str, ...], log: Path, environment: Mapping[str, str]) -> None:
        """Start it."""
        self.log = log
        self._connection, theirs = Pipe()
        descriptor = theirs.fileno()
        with disk_errors(log), theirs:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                self._begins = output.tell()
                self._process = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-m", module, str(descriptor), *arguments],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(descriptor,),
                    env=_environment(environment),
                    start_new_session=True,
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def send(self, message: object) -> None:
        """Send one message; where it is gone, `receive` will tell."""
        with suppress(OSError):
            self._connection.send(message)

    def send_bytes(self, content: bytes) -> None:
        """Send a block; where it is gone, `receive` will tell."""
        with suppress(OSError):
            self._connection.send_bytes(content)

    def has_message(self, seconds: float) -> bool:
        """Whether there is one within so many seconds; also true once it is gone."""
        return self._connection.poll(seconds)

    def receive(self) -> Any:
        """The next message.

        Raises:
            RoleError: it ended without one.
        """
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_TO_END)
            raise RoleError(
                f"the process that uses Ray ended with {_ended(self._process.poll())}; the last lines of {self.log}:\n"
                + self.last_lines(),
                remedy="Mend what they say; where the cluster was lost, start it again. `tapir resume` then goes on.",
            ) from error

    def last_lines(self) -> str:
        """The end of what it printed, indented."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(self._begins, log.seek(0, os.SEEK_END) - _TAIL))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            lines = []
        found = [line[:_WIDTH] for line in lines if line.strip()][-_LINES:]
        return "\n".join(f"    {line}" for line in found or ["(it printed nothing)"])

    def end(self) -> None:
        """Have it end, by force after a while."""
        self._connection.close()
        assert self._process.stdin  # noqa: S101 (it is a pipe)
        self._process.stdin.close()
        try:
            self._process.wait(_TO_END)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """Ours, with the modules that this process was given, without telemetry and what `uv run` would have Ray do.

    Packages installed in this Python are left out: a worker of another one has its own. So is the number of threads:
    Ray gives each worker as many as it has cores, unless it finds one there.
    """
    installed = (sys.prefix, sys.base_prefix)
    folders = [Path(folder).absolute() for folder in sys.path]
    path = os.pathsep.join(str(one) for one in folders if not any(one.is_relative_to(home) for home in installed))
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return {
        **kept,
        "PYTHONPATH": path,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        **more,
    }


def _ended(status: int | None) -> str:
    if status is None:
        return "its connection"
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name
