"""The watch of a tagger that is used outside a run."""

from __future__ import annotations


class Alone:
    """Nobody to tell, nobody who could ask to stop."""

    stopping = False

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        """Tell nobody."""

    def advance(self, items: int = 1) -> None:
        """Tell nobody."""

    def finish(self) -> None:
        """Tell nobody."""

    def note(self, text: str) -> None:
        """Tell nobody."""

    def measure(self, **figures: float) -> None:
        """Tell nobody."""

    def check(self) -> None:
        """Nobody asked to stop."""
