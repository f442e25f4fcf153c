"""A Ray cluster as a run sees it: blocks of work go in, results come out."""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import tempfile
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tapir.cluster.process import Process
from tapir.cluster.wire import Broken, Done, Failed, Flow, Note, Order, Result, Room, Started
from tapir.errors import RecipeError, RoleError
from tapir.roles import Watch

LOG = "ray.log"
"""What Ray prints, in the run's folder."""

_TO_ANSWER = 5.0  # seconds for a machine to answer at all
_TO_START = 120.0  # seconds for Ray to start or to connect
_LOOK = 0.5  # seconds between two questions whether to stop


@dataclass(frozen=True, slots=True)
class RaySettings:
    """The cluster and the workers in it.

    Attributes:
        address: "auto" for the cluster that this machine is part of, "HOST:PORT", or empty to start one here.
        workers: that work beside each other, at most.
        cpus: cores of each.
        gpus: GPUs of each.
        patience: seconds to wait for a place for the first worker.
    """

    address: str = ""
    workers: int = 2
    cpus: float = 1.0
    gpus: float = 0.0
    patience: float = 60.0


class RayCluster:
    """Shared by all roles of a run. Each piece of work has a driver process of its own, which ends with it."""

    def __init__(self, settings: RaySettings) -> None:
        """Take the settings; nothing is started or connected before there is work.

        Raises:
            RecipeError: the address is none.
        """
        _check_form(settings.address)
        self.settings = settings
        self._folder: Path | None = None
        self._watch: Watch | None = None
        self._kept: _Kept | None = None
        self._told: set[str] = set()

    def open(self, folder: Path, watch: Watch) -> None:
        """A session begins in the run's folder, where the log will be."""
        self._folder, self._watch = folder, watch

    def rest(self) -> None:
        """Workers end with their work, so there is nothing to give back."""

    def close(self) -> None:
        """The session ends; a cluster that was started here ends too. May be called more than once."""
        kept, self._kept = self._kept, None
        if kept:
            kept.end()
        self._folder = self._watch = None
        self._told.clear()

    def map(self, flow: Flow, blocks: Iterable[Any]) -> Generator[tuple[int, Any], None, None]:
        """Place of a block among `blocks`, and its result; in any order, as they come.

        All blocks are taken and handed to the cluster's store before the first result is given.

        Raises:
            RoleError: no cluster at the address, no place for a worker, or trouble that concerns all work.
            Interrupted: the user stopped; what is under way is given up.
        """
        source = iter(blocks)
        first = list(islice(source, 1))
        if not first:
            return
        address = self._address()
        with Process("tapir.cluster.driver", (), self._log(), self._secret()) as driver:
            self._begin(driver, address, flow)
            self._hand_over(driver, chain(first, source))
            while not isinstance(message := self._next(driver, Result | Note | Done), Done):
                if isinstance(message, Note):
                    self._note(message.text)
                else:
                    yield message.place, pickle.loads(message.content)  # noqa: S301 (written by a worker of ours)

    def _begin(self, driver: Process, address: str, flow: Flow) -> None:
        one = self.settings
        driver.send(Order(address, one.workers, one.cpus, one.gpus, one.patience))
        driver.send(flow)
        room: Room = self._next(driver, Room, _TO_START + one.patience)
        if room.workers < one.workers:
            self._note(f"the Ray cluster ({room.nodes} machines) has room for {room.workers} of {one.workers} workers")

    def _hand_over(self, driver: Process, blocks: Iterable[Any]) -> None:
        for block in blocks:
            self._check()
            driver.send_bytes(pickle.dumps(block))
        driver.send_bytes(b"")

    def _next(self, process: Process, kind: Any, patience: float = float("inf")) -> Any:
        """The next message; the user may stop meanwhile."""
        deadline = time.monotonic() + patience
        while not process.has_message(_LOOK):
            self._check()
            if time.monotonic() > deadline:
                raise RoleError(
                    f"Ray did not answer for {patience:g} s; the last lines of {process.log}:\n{process.last_lines()}",
                    remedy="See that a Ray cluster runs at engine.address, or leave it empty.",
                )
        self._check()
        message = process.receive()
        if isinstance(message, Failed):
            raise message.error
        if isinstance(message, Broken):
            raise RoleError(
                f"the Ray cluster failed: {message.why}",
                remedy=f"{process.log} has the whole message; mend what it says, `tapir resume` then goes on.",
            )
        assert isinstance(message, kind), message  # noqa: S101 (both ends are of one version)
        return message

    def _address(self) -> str:
        """Of the cluster, which is started here if need be."""
        if self.settings.address:
            _check_answers(self.settings.address)
            return self.settings.address
        if self._kept is None:
            kept = _Kept(self._log())
            try:
                kept.address = self._next(kept.process, Started, _TO_START).address
            except BaseException:
                kept.end()
                raise
            self._kept = kept
        return self._kept.address

    def _secret(self) -> dict[str, str]:
        return self._kept.secret if self._kept else {}

    def _log(self) -> Path:
        if self._folder is None:
            raise RoleError("the Ray cluster was asked outside of a run", remedy="Call open() first.")
        return self._folder / LOG

    def _check(self) -> None:
        if self._watch:
            self._watch.check()

    def _note(self, text: str) -> None:
        if self._watch and text not in self._told:
            self._told.add(text)
            self._watch.note(text)


class _Kept:
    """A cluster on this machine that only this run can use: its key is in no file."""

    def __init__(self, log: Path) -> None:
        self.address = ""
        self.secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._files = tempfile.TemporaryDirectory(prefix="tapir-ray-", ignore_cleanup_errors=True)
        self.process = Process("tapir.cluster.keeper", (self._files.name,), log, self.secret)

    def end(self) -> None:
        self.process.end()
        self._files.cleanup()


def _check_form(address: str) -> None:
    """Raise `RecipeError` unless an address is one that this can work with."""
    if "://" in address:
        raise RecipeError(
            f"engine.address = {address!r}: Ray Data streams its results to a machine of the cluster only",
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
    """Raise `RoleError` where nothing answers: Ray itself would ask for minutes."""
    there = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = there.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise RoleError(
            f"engine.address = {address!r}: nothing answers at {there} ({error})",
            remedy="See that `ray start --head` runs there, or leave it empty to work on this machine alone.",
        ) from error
