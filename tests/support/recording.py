"""Progress callbacks that record their calls and act at a given step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tapir.domain.errors import Interrupted
from tapir.domain.progress import SilentProgress


class RecordingProgress(SilentProgress):
    """Records its calls; `at` maps a number of finished steps to an action, `stops_after` so many steps it stops."""

    def __init__(self, at: dict[int, Callable[[], None]] | None = None, stops_after: int = 0) -> None:
        super().__init__()
        self.starts: list[tuple[int, str, int, int]] = []
        self.notes: list[str] = []
        self.metrics: list[dict[str, float]] = []
        self.done = 0
        self.steps = 0
        self.finished = 0
        self.at = at or {}
        self.stops_after = stops_after

    @property
    def resumes(self) -> list[tuple[int, int]]:
        """All steps, and those done before, of every start."""
        return [(total, done) for _, _, total, done in self.starts]

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        self.starts.append((number, stage, total, done))
        self.done = done

    def advance(self, items: int = 1) -> None:
        for _ in range(items):
            self.done += 1
            self.steps += 1
            if self.done in self.at:
                self.at.pop(self.done)()

    def finish(self) -> None:
        self.finished += 1

    def note(self, text: str) -> None:
        self.notes.append(text)

    def measure(self, **figures: float) -> None:
        self.metrics.append(figures)

    @property
    def stopping(self) -> bool:
        return self._stopping or 0 < self.stops_after <= self.steps

    def check(self) -> None:
        if self.stopping:
            raise Interrupted("stopped; everything finished is on disk")


def processes_of(folder: Path) -> list[int]:
    """Every process on this machine that was started for a job in `folder`."""
    processes = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in entry.read_text("utf-8", errors="replace"):
                processes.append(int(entry.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return processes
