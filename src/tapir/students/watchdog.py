"""Sees that a server which owes replies still works, and ends one that does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

_LOOK = 0.2  # seconds between two looks
_MOMENT = 1.0  # seconds
_GRACE = 5.0  # seconds for what is on its way when the user stops
_HEALTH = 5.0  # seconds between two questions about its health
_UNWELL = 3  # bad answers in a row; one alone may be a moment without a free connection


class Watched(Protocol):
    """A server that can be asked how it is."""

    @property
    def alive(self) -> bool:
        """Whether its process runs."""

    def healthy(self) -> bool:
        """Whether it takes requests; an answer that does not come in time counts as no."""

    def kill(self) -> None:
        """End it at once."""


class Watchdog:
    """A thread beside whoever waits for replies. A server is lost when it is gone, unwell, or silent for too long.

    A lost server is killed, so that whoever waits for it waits no longer; so is one whose answers the user does not
    want any more, after a while in which those on their way may come.

    Attributes:
        lost: what is wrong, as the end of a sentence; empty while all is well.
    """

    def __init__(self, server: Watched, patience: float, stopping: Callable[[], bool] = lambda: False) -> None:
        """Be ready to watch.

        Args:
            server: it owes replies.
            patience: how many seconds they may stay away.
            stopping: whether the user asked to stop.
        """
        self.lost = ""
        self._stopping = stopping
        self._server = server
        self._patience = patience
        self._since: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tapir-watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While inside, a reply is waited for; only then can the server be silent."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def verdict(self) -> str:
        """What is wrong, after a moment in which a server that has just ended is seen to."""
        self._thread.join(_MOMENT)
        return self.lost

    def _watch(self) -> None:
        asked, unwell, stopped = time.monotonic(), 0, float("inf")
        while not self._done.wait(_LOOK):
            since, now = self._since, time.monotonic()
            if self._stopping():
                stopped = min(stopped, now)
            if not self._server.alive:
                self.lost = "ended"
            elif since is not None and now - since > self._patience:
                self.lost = f"gave no reply for {self._patience:g} s (student.reply_timeout)"
            elif now - stopped > _GRACE:
                self.lost = "was ended because the user stopped"
            elif now - asked > _HEALTH:
                replied = since is not None and since > asked
                unwell = 0 if replied or self._server.healthy() else unwell + 1
                asked = time.monotonic()
                self.lost = "was not healthy any more" if unwell >= _UNWELL else ""
            if self.lost:
                self._server.kill()
                return
