"""What the tests of the student behind a server share: a session, instructions, and notes."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from support.recording import RecordingProgress
from tapir.config.student import VllmStudentConfig
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.round import Checkpoint
from tapir.models.local.loading import ModelSettings
from tapir.models.local.vllm import VllmStudent

NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
_PATIENCE = 20.0  # seconds


@contextlib.contextmanager
def student(
    python: str,
    folder: Path,
    progress: RecordingProgress | None = None,
    model: ModelSettings | None = None,
    **changes: Any,
) -> Iterator[VllmStudent]:
    """A student for the time of a session in a folder."""
    seed = changes.pop("seed", 1)
    section = {"start_timeout": 20.0, "reply_timeout": 20.0, "max_new_tokens": 32, **changes}
    answers = VllmStudent(VllmStudentConfig(python=python, **section), seed, model or ModelSettings())
    answers.open(folder, progress or RecordingProgress())
    try:
        yield answers
    finally:
        answers.close()


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
