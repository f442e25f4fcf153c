"""What the tests of the student behind a server share: settings, a session, and what a watch was told."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from tapir.domain.instruction import Instruction, Origin
from tapir.domain.round import Checkpoint
from tapir.errors import Interrupted
from tapir.students.load import ModelSettings
from tapir.students.vllm import VllmSettings, VllmStudent

NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
_PATIENCE = 20.0  # seconds


class Notes:
    """A watch that remembers what it was told; `stop()` is what a user would do."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.stopping = False

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        """Say nothing."""

    def advance(self, items: int = 1) -> None:
        """Say nothing."""

    def finish(self) -> None:
        """Say nothing."""

    def measure(self, **figures: float) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        self.told.append(text)

    def stop(self) -> None:
        self.stopping = True

    def check(self) -> None:
        if self.stopping:
            raise Interrupted("stopped")


@contextlib.contextmanager
def student(
    python: str, folder: Path, watch: Notes | None = None, model: ModelSettings | None = None, **changes: Any
) -> Iterator[VllmStudent]:
    """A student for the time of a session in a folder."""
    settings: dict[str, Any] = {
        "python": python,
        "options": (),
        "start_timeout": 20.0,
        "reply_timeout": 20.0,
        "while_training": "stop",
        "max_new_tokens": 32,
        "temperature": 0.0,
        "seed": 1,
        **changes,
    }
    found = VllmStudent(VllmSettings(**settings), model or ModelSettings())
    found.open(folder, watch or Notes())
    try:
        yield found
    finally:
        found.close()


def instructions(count: int, text: str = "Question number") -> list[Instruction]:
    return [Instruction.of(f"{text} {number}", Origin("corpus")) for number in range(count)]


def copy_of_nano(folder: Path, *without: str) -> Checkpoint:
    """Another folder with the same student, but for some files."""
    shutil.copytree(NANO.path, folder, ignore=shutil.ignore_patterns(*without))
    return Checkpoint(str(folder), 1)


def runs(pid: int) -> bool:
    """Whether a process lives; one that is dead and not yet counted does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether something comes to hold before patience ends."""
    deadline = time.monotonic() + _PATIENCE
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()
