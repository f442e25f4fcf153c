"""Progress callbacks of a run."""

from __future__ import annotations

from typing import Protocol

from tapir.domain.errors import Interrupted


class Progress(Protocol):
    """Callbacks that report how far a stage is, and that may stop the run."""

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        """Report that a stage of round `number` begins; `done` of its `total` items are on disk already."""

    def advance(self, items: int = 1) -> None:
        """Report that `items` more items are finished and on disk."""

    def finish(self) -> None:
        """Report that the stage is complete."""

    def note(self, text: str) -> None:
        """Report a fact worth a line, for example a shortfall."""

    def measure(self, **figures: float) -> None:
        """Report metrics of the running stage by name: `loss`, `tokens_per_second`, `seconds_left` and the like."""

    @property
    def stopping(self) -> bool:
        """Whether the user asked to stop."""

    def check(self) -> None:
        """Raise `Interrupted` if the user asked to stop."""


class SilentProgress:
    """Progress that reports nothing; `stop()` ends the run in order."""

    def __init__(self) -> None:
        self._stopping = False

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None: ...  # noqa: D102

    def advance(self, items: int = 1) -> None: ...  # noqa: D102

    def finish(self) -> None: ...  # noqa: D102

    def note(self, text: str) -> None: ...  # noqa: D102

    def measure(self, **figures: float) -> None: ...  # noqa: D102

    def stop(self) -> None:
        """Ask the run to stop after the item in progress."""
        self._stopping = True

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def check(self) -> None:
        """Raise `Interrupted` once `stop` was called."""
        if self._stopping:
            raise Interrupted("stopped; everything finished is on disk")


def duration(seconds: float) -> str:
    """Return a duration as a person says it, e.g. "1 h 12 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
