"""Work for the tests' workers. It is imported by them, so it is in a file of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tapir.domain.errors import RoleError

HEAVY = 300_000  # bytes: a result of this size lies in the store of its node until it is fetched


@dataclass(frozen=True)
class Done:
    number: int
    node: str
    process: int
    ballast: bytes = b""


def _done(number: int, ballast: bytes = b"") -> Done:
    import ray

    return Done(number, ray.get_runtime_context().get_node_id(), os.getpid(), ballast)


@dataclass(frozen=True)
class Slow:
    """Takes its time, so that there is a middle in which something can happen."""

    seconds: float
    ballast: int = 0

    def __call__(self, note: Callable[[str], None]) -> Callable[[int], Done]:
        note(f"{self.seconds:g} s each")

        def do(number: int) -> Done:
            time.sleep(self.seconds)
            return _done(number, bytes(self.ballast))

        return do


@dataclass(frozen=True)
class Meeting:
    """Each worker waits with its first block until all of them are there."""

    folder: Path
    workers: int

    def __call__(self, note: Callable[[str], None]) -> Callable[[int], Done]:
        self.folder.mkdir(exist_ok=True)
        (self.folder / str(os.getpid())).touch()
        deadline = time.monotonic() + 120.0
        while len(list(self.folder.iterdir())) < self.workers and time.monotonic() < deadline:
            time.sleep(0.05)
        note("met")
        return _done


@dataclass(frozen=True)
class Deadly:
    """Its process is killed at one block: once, where there is a file to remember it, else always."""

    number: int
    memory: Path | None

    def __call__(self, note: Callable[[str], None]) -> Callable[[int], Done]:
        del note

        def do(number: int) -> Done:
            if number == self.number and not (self.memory and self.memory.exists()):
                if self.memory:
                    self.memory.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return _done(number)

        return do


@dataclass(frozen=True)
class Failing:
    """Meets trouble with a block: ours, or a mistake."""

    ours: bool

    def __call__(self, note: Callable[[str], None]) -> Callable[[int], Done]:
        del note

        def do(number: int) -> Done:
            if self.ours:
                raise RoleError(f"no weights for {number}", remedy="Download them.")
            return _done(1 // (number - number))

        return do
