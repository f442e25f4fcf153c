"""A Ray cluster as a run uses it: its address or its start, and the driver process of each piece of work."""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Self, TypeAlias

from tapir.config.student import RayEngineConfig
from tapir.domain.errors import RecipeError, RoleError, TapirError
from tapir.domain.progress import Progress, SilentProgress
from tapir.models.process import ChildProcess, describe_status

LOG = "ray.log"
"""What Ray prints, in the run's folder."""

_PATIENCE = 60.0  # seconds to wait for a place for the first worker
_TO_CONNECT = 5.0  # seconds for a machine to answer at all
_TO_START, _TO_END = 120.0, 15.0  # seconds for Ray to start or to connect, and to end
_POLL = 0.5  # seconds between two checks whether to stop
_LINES = 8  # of the log, where it is shown


@dataclass(frozen=True, slots=True)
class Room:
    """What the cluster has for an engine section: workers that fit in parallel, and machines that are alive."""

    engine: RayEngineConfig
    workers: int
    nodes: int


Result: TypeAlias = tuple[int, bytes] | str
"""The place of a block and its result, pickled by the worker; or a fact worth a line in the log."""

DataFlow: TypeAlias = Callable[[Iterator[bytes], Room], Iterator[Result]]
"""Makes blocks of work results on a cluster: called in the driver, connected to Ray; it can be pickled to get there."""


class RayProcess:
    """A process of ours that uses Ray (`ray_driver`), with a socket for messages and a log for all it prints."""

    def __init__(self, arguments: Sequence[str], log: Path, secret: Mapping[str, str]) -> None:
        self.log = log
        self.connection, theirs = Pipe()
        with theirs:
            descriptor = theirs.fileno()
            command = [sys.executable, "-m", "tapir.models.local.ray_driver", str(descriptor), *arguments]
            self.child = ChildProcess(
                command, log, environment=_environment(secret), pass_fds=[descriptor], orphan_grace=_TO_END
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(0)

    def end(self, grace: float = _TO_END) -> None:
        """End it, in order within so many seconds."""
        self.child.stop(grace) if grace else self.child.kill()
        self.connection.close()

    def send(self, message: object) -> None:
        """Send a message; where the process is gone, `receive` says so."""
        with suppress(OSError):
            self.connection.send(message)

    def receive(self) -> Any:
        """Return the next message, or raise it where it is an error."""
        try:
            message = self.connection.recv()
        except (EOFError, OSError) as error:
            status = self.child.wait(_TO_END)
            how = "its connection" if status is None else describe_status(status)
            raise RoleError(
                f"the process that uses Ray ended with {how}; the last lines of {self.log}:\n{self.last_lines()}",
                remedy="Fix what they say; where the cluster was lost, start it again. `tapir resume` then goes on.",
            ) from error
        if isinstance(message, TapirError):
            raise message
        return message

    def last_lines(self) -> str:
        """Return the end of what it printed, indented."""
        lines = self.child.last_lines(_LINES)
        return "\n".join(f"    {line}" for line in lines or ["(it printed nothing)"])


def _environment(secret: Mapping[str, str]) -> dict[str, str]:
    """Return our environment with our modules, without telemetry and what `uv run` would have Ray do.

    Packages installed in this Python are left out: a worker of another one has its own. So is the number of threads,
    which Ray chooses for each worker.
    """
    installed = (sys.prefix, sys.base_prefix)
    folders = [Path(folder).absolute() for folder in sys.path]
    path = [str(folder) for folder in folders if not any(folder.is_relative_to(prefix) for prefix in installed)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"PYTHONPATH": os.pathsep.join(path), "RAY_USAGE_STATS_ENABLED": "0"}
    return {**environment, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", **secret}


class RayCluster:
    """The cluster of a run. Each piece of work has a driver process of its own, which ends with it."""

    def __init__(self, section: RayEngineConfig, patience: float = _PATIENCE) -> None:
        check_form(section.address)
        self.section = section
        self.patience = patience
        self._folder: Path | None = None
        self._progress: Progress = SilentProgress()
        self._own: _OwnCluster | None = None
        self._noted: set[str] = set()

    def open(self, folder: Path, progress: Progress) -> None:
        """Begin a session in the run's folder, where the log will be."""
        self._folder, self._progress = folder, progress

    def close(self) -> None:
        """End the session, and a cluster that was started here. May be called more than once."""
        own, self._own = self._own, None
        if own:
            own.end()
        self._folder, self._progress = None, SilentProgress()
        self._noted.clear()

    def map(self, flow: DataFlow, blocks: Iterable[Any]) -> Generator[tuple[int, Any], None, None]:
        """Yield the place of each block and its result, in any order.

        All blocks are taken and handed to the cluster's store before the first result is given.
        """
        source = iter(blocks)
        first = next(source, None)
        if first is None:
            return
        section = self.section.model_copy(update={"address": self._address()})
        with RayProcess(["work"], self._log(), self._own.secret if self._own else {}) as driver:
            driver.send((section, self.patience, flow))
            room: Room = self._receive(driver, _TO_START + self.patience)
            if room.workers < section.workers:
                nodes, fit = room.nodes, room.workers
                self._note(f"the Ray cluster ({nodes} machines) has room for {fit} of {section.workers} workers")
            for block in chain([first], source):
                self._progress.check()
                driver.send(pickle.dumps(block))
            driver.send(b"")
            while (message := self._receive(driver)) is not None:
                if isinstance(message, str):
                    self._note(message)
                else:
                    yield message[0], pickle.loads(message[1])  # noqa: S301 (written by a worker of ours)

    def _receive(self, process: RayProcess, patience: float = float("inf")) -> Any:
        deadline = time.monotonic() + patience
        while not process.connection.poll(_POLL):  # which is true once the process is gone, too
            self._progress.check()
            if time.monotonic() > deadline:
                raise RoleError(
                    f"Ray did not answer for {patience:g} s; the last lines of {process.log}:\n{process.last_lines()}",
                    remedy="See that a Ray cluster runs at engine.address, or leave it empty.",
                )
        self._progress.check()
        return process.receive()

    def _address(self) -> str:
        """Return the address of the cluster, which is started here if need be."""
        if self.section.address:
            _check_answers(self.section.address)
            return self.section.address
        if self._own is None:
            own = _OwnCluster(self._log())
            try:
                own.address = self._receive(own.process, _TO_START)
            except BaseException:
                own.end()
                raise
            self._own = own
        return self._own.address

    def _log(self) -> Path:
        if self._folder is None:
            raise RoleError("the Ray cluster was used outside of a run", remedy="Call open() first.")
        return self._folder / LOG

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._progress.note(text)


class _OwnCluster:
    """A cluster on this machine that only this run can use: its key is in no file."""

    def __init__(self, log: Path) -> None:
        self.address = ""
        self.secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._files = tempfile.TemporaryDirectory(prefix="tapir-ray-", ignore_cleanup_errors=True)
        self.process = RayProcess(["cluster", self._files.name], log, self.secret)

    def end(self) -> None:
        self.process.end()
        self._files.cleanup()


def check_form(address: str) -> None:
    """Raise `RecipeError` unless an address is one that tapir can work with."""
    if "://" in address:
        raise RecipeError(
            f"engine.address = {address!r}: Ray Data and Ray Train work from a machine of the cluster only",
            remedy='Run tapir on such a machine and set it to "auto"; `ray start --address=HOST:PORT` makes this one'
            " join.",
        )
    host, _, port = address.rpartition(":")
    if address not in {"", "auto"} and not (host and port.isdigit()):
        raise RecipeError(
            f"engine.address = {address!r} is no address",
            remedy='Use "auto", "HOST:PORT" as `ray start --head` prints it, or "" to start a cluster on this machine.',
        )


def _check_answers(address: str) -> None:
    """Raise `RoleError` where nothing answers: Ray itself would try for minutes."""
    resolved = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = resolved.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise RoleError(
            f"engine.address = {address!r}: nothing answers at {resolved} ({error})",
            remedy="See that `ray start --head` runs there, or leave it empty to work on this machine alone.",
        ) from error
