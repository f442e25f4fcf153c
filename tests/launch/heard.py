"""A watch that remembers what it was told, and does something at a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tapir.errors import Interrupted


class Heard:
    """Remembers; `at` maps a count of finished steps to what is done then."""

    def __init__(self, at: dict[int, Callable[[], None]] | None = None) -> None:
        self.starts: list[tuple[int, str, int, int]] = []
        self.notes: list[str] = []
        self.figures: list[dict[str, float]] = []
        self.done = 0
        self.finished = 0
        self.at = at or {}
        self._stopping = False

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        self.starts.append((number, stage, total, done))
        self.done = done

    def advance(self, items: int = 1) -> None:
        for _ in range(items):
            self.done += 1
            if self.done in self.at:
                self.at.pop(self.done)()

    def finish(self) -> None:
        self.finished += 1

    def note(self, text: str) -> None:
        self.notes.append(text)

    def measure(self, **figures: float) -> None:
        self.figures.append(figures)

    def stop(self) -> None:
        self._stopping = True

    @property
    def stopping(self) -> bool:
        return self._stopping

    def check(self) -> None:
        if self.stopping:
            raise Interrupted("stopped; everything finished is on disk")


def processes_of(folder: Path) -> list[int]:
    """Every process on this machine that was started for a job in `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in entry.read_text("utf-8", errors="replace"):
                found.append(int(entry.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
