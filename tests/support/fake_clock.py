"""A stage against a rate limit by a fake clock: limits and the server's window, without a socket or a sleep."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

from support.window import Window
from tapir.models.api.limits import ConcurrencyLimit, RateLimit

NETWORK = 0.001  # seconds, one way
STEP = 1e-4


@dataclass(frozen=True)
class Limit:
    """What the server does; times in seconds. `said` is how it says when to come again."""

    requests: int = 200
    window: float = 10.0
    sliding: bool = False
    said: str = "float"
    latency: float = 0.1
    after_latency: bool = False

    def retry_after(self, wait: float) -> float | None:
        if self.said == "none":
            return None
        if self.said == "date":
            return max(0.0, math.ceil(wait + 0.3) - 0.3)
        return float(math.ceil(wait)) if self.said == "integer" else round(wait, 3)


@dataclass
class Stage:
    """So many rows, sent as soon as the limits let them."""

    rows: int
    limit: Limit
    concurrency: ConcurrencyLimit = field(default_factory=ConcurrencyLimit)
    rate: RateLimit = field(default_factory=RateLimit)
    now: float = 1000.0
    sent: int = 0
    refused: int = 0
    accepted: list[float] = field(default_factory=list)
    _left: int = 0
    _events: list[tuple[float, int, bool, int, float | None, float]] = field(default_factory=list)
    _window: Window = field(default_factory=Window)

    def run(self) -> Stage:
        """All rows; afterwards `now` is the end."""
        self._left = self.rows
        while self._left or self._events:
            wait = max(self.concurrency.wait(self.now), self.rate.wait(self.now)) if self._left else math.inf
            if wait <= 0:
                self._send()
            elif self._events and self._events[0][0] <= self.now + wait:
                self._receive()
            else:
                assert wait < math.inf, "nothing is in flight and nothing may be sent"
                self.now += max(wait, STEP)
        return self

    def _send(self) -> None:
        self._left -= 1
        self.sent += 1
        self.concurrency.acquire(self.now)
        place = self.rate.acquire(self.now, 0)
        arrival = self.now + NETWORK
        wait = self._window.wait(arrival, self.limit.requests, self.limit.window, sliding=self.limit.sliding)
        if not wait:
            self.accepted.append(arrival)
        delay = self.limit.latency if not wait or self.limit.after_latency else 0.0
        again = self.limit.retry_after(wait) if wait else None
        heapq.heappush(self._events, (arrival + delay + NETWORK, self.sent, bool(wait), place, again, self.now))

    def _receive(self) -> None:
        self.now, _, refused, place, again, sent = heapq.heappop(self._events)
        if refused:
            self.refused += 1
            self._left += 1
            self.rate.record_429(self.now, place, again)
            self.concurrency.shrink(self.now)
        else:
            self.concurrency.record_success(self.now - sent)
            self.rate.record_success(place)
        self.concurrency.release()
