"""Watches: who is told how far a run is."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field

from tapir.errors import Interrupted
from tapir.roles import Calls, Watch
from tapir.store.files import write_json
from tapir.store.run import RunStore


class SilentWatch:
    """Watches without a word; `stop()` ends the run in order."""

    def __init__(self) -> None:
        """Nobody has asked to stop yet."""
        self._stopping = False

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        """Say nothing."""

    def advance(self, items: int = 1) -> None:
        """Say nothing."""

    def finish(self) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def measure(self, **figures: float) -> None:
        """Say nothing."""

    def stop(self) -> None:
        """Ask the run to stop after what it is doing."""
        self._stopping = True

    @property
    def stopping(self) -> bool:
        """Whether somebody asked to stop."""
        return self._stopping

    def check(self) -> None:
        """Raise `Interrupted` once somebody asked to stop."""
        if self._stopping:
            raise Interrupted("stopped; everything finished is on disk")


@dataclass(slots=True)
class Diary:
    """A watch that also writes events.jsonl and spending.json."""

    watch: Watch
    store: RunStore
    calls: Calls | None = None
    _open: tuple[int, str, float] = field(default=(0, "", 0.0))

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        """A stage begins."""
        self._open = (number, stage, time.monotonic())
        if self.calls:
            self.calls.enter(number, stage)
        self.store.event("stage", round=number, stage=stage, total=total, done=done)
        self.watch.start(number, stage, total, done)

    def advance(self, items: int = 1) -> None:
        """Items are finished."""
        self.watch.advance(items)

    def finish(self) -> None:
        """The stage is complete; what it cost is kept."""
        number, stage, began = self._open
        self.store.event("finished", round=number, stage=stage, seconds=round(time.monotonic() - began, 3))
        if self.calls:
            write_spending(self.store, self.calls)
        self.watch.finish()

    def note(self, text: str) -> None:
        """A fact worth a line."""
        self.store.event("note", text=text)
        self.watch.note(text)

    def measure(self, **figures: float) -> None:
        """How the stage is doing."""
        self.store.event("figures", round=self._open[0], stage=self._open[1], **figures)
        self.watch.measure(**figures)

    @property
    def stopping(self) -> bool:
        """Whether somebody asked to stop."""
        return self.watch.stopping

    def check(self) -> None:
        """Raise `Interrupted` once somebody asked to stop."""
        self.watch.check()


def write_spending(store: RunStore, calls: Calls) -> None:
    """Keep what was paid so far in spending.json, for the report and `tapir status`."""
    write_json(store.folder / "spending.json", [asdict(one) for one in calls.spent()])
