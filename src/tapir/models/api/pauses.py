"""Lines about an endpoint that keeps a run waiting: what it waits for, since when, and that it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from tapir.domain.progress import duration

SAID = 30.0  # seconds without a reply after which a pause is said
_SLOWER = 3.0  # times the slowest reply so far


@dataclass(slots=True)
class PauseReport:
    """What an endpoint has done since its last reply; times are seconds, monotonic."""

    name: str
    slowest: float = 0.0
    _since: float = 0.0  # the last reply, or the first call after a time without any
    _cause: str = ""  # the last error since then
    _until: float = 0.0  # when the server allows the next call
    _said: str = ""
    _said_until: float = 0.0  # the end that was said
    _ended: float = 0.0

    def record_call(self, now: float, in_flight: int) -> None:
        """Record that a call starts while so many others are in flight."""
        if not in_flight and not self._cause:
            self._since = now

    def record_reply(self, now: float, latency: float) -> None:
        """Record that a reply came."""
        self.slowest = max(self.slowest, latency)
        self._ended = now - self._since if self._said else 0.0
        self._since, self._cause, self._until, self._said = now, "", 0.0, ""

    def record_error(self, cause: str, until: float) -> None:
        """Record why a call brought none, and until when no other is sent."""
        self._cause, self._until = cause, max(until, self._until)

    def lines(self, now: float, in_flight: int) -> Iterator[str]:
        """Yield what has not been said: the beginning of a pause, another cause of it, its end."""
        if self._ended:
            yield f"endpoints.{self.name}: goes on after {duration(self._ended)}"
            self._ended = 0.0
        left, silent = self._until - now, now - self._since
        if self._cause and (left > SAID or silent > SAID):
            pause = f"paused until {_clock(left)} ({duration(left)})"
            line = f"{pause if left > SAID else f'no reply for {duration(silent)}'}: {self._cause}"
        elif in_flight and silent > max(SAID, _SLOWER * self.slowest):
            known = f", the slowest so far took {duration(self.slowest)}" if self.slowest else ""
            line = f"no reply for {duration(silent)}; {in_flight:,} calls in flight{known}"
        else:
            return
        if not self._said or (left > SAID and (self._cause not in self._said or now > self._said_until)):
            self._said, self._said_until = line, self._until
            yield f"endpoints.{self.name}: {line}"


def _clock(seconds: float) -> str:
    """Return the local time so many seconds from now, with the date where it is another day."""
    then = time.localtime(time.time() + seconds)
    return time.strftime("%H:%M" if time.strftime("%j") == time.strftime("%j", then) else "%Y-%m-%d %H:%M", then)
