"""How hard an endpoint may be pressed: calls at once, calls per minute, and when to give it up.

Nothing here sleeps or reads a clock: every method is told the time (seconds, monotonic), so that the
rules can be read and tested alone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

FIRST = 8  # calls at once before the endpoint has answered once
MOST = 512  # calls at once that are tried where the recipe sets no number
_GROWTH = 0.2  # of the limit, per round trip
_SHRINK = 0.7
_SLOWER = 2.0  # times the best median latency: no more growth
_WINDOW = 64  # latest calls that decide
_LOOK = 8  # calls between two looks at them
_TIMEOUTS = 0.1  # share of the latest calls that makes timeouts a sign of overload


@dataclass(slots=True)
class Gate:
    """How many calls at once: grows while latency holds, shrinks on 429 and on many timeouts.

    Attributes:
        most: the recipe's number; 0 lets the gate find its own.
        latency: median seconds of the latest calls; 0 before the first.
        slow: seconds that only the slowest of the latest calls took; infinite while there are too few to tell.
    """

    most: int = 0
    limit: float = FIRST
    in_flight: int = 0
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _timeouts: deque[bool] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _best: float = float("inf")
    _shrunk: float = float("-inf")
    _answers: int = 0
    latency: float = 0.0
    slow: float = float("inf")

    def __post_init__(self) -> None:
        self.limit = min(FIRST, self._ceiling)

    @property
    def _ceiling(self) -> int:
        return self.most or MOST

    @property
    def open(self) -> bool:
        """Whether one more call may start."""
        return self.in_flight < int(self.limit)

    def answered(self, latency: float) -> None:
        """A call came back whole after `latency` seconds."""
        if not self._answers:
            self.limit = float(self.most or FIRST)
        self._answers += 1
        self._latencies.append(latency)
        self._timeouts.append(False)
        if self._answers % _LOOK == 0:
            self._look()
        if self.in_flight + 1 >= int(self.limit) and self.latency <= _SLOWER * self._best:
            self.limit = min(float(self._ceiling), self.limit + _GROWTH)

    def forget(self) -> None:
        """Another kind of call begins: what the last ones took says nothing about it."""
        self._latencies.clear()
        self._timeouts.clear()
        self._best = self.slow = float("inf")
        self.latency = 0.0

    def _look(self) -> None:
        ordered = sorted(self._latencies)
        self.latency = median(ordered)
        self._best = min(self._best, self.latency)
        if len(ordered) == _WINDOW:
            self.slow = ordered[-_WINDOW // 16]

    def timed_out(self, now: float) -> None:
        """A call did not come back."""
        self._timeouts.append(True)
        if sum(self._timeouts) > _TIMEOUTS * _WINDOW:
            self.shrink(now)

    def shrink(self, now: float) -> None:
        """The endpoint is overloaded: fewer calls at once, at most once in a round trip."""
        if now - self._shrunk > max(self.latency, 1.0):
            self._shrunk = now
            self.limit = max(1.0, self.limit * _SHRINK)


_PATIENT = 60.0  # seconds without a 429 before a learnt pace is tried a little faster
_EVERY = 30.0  # seconds between two such trials
_FASTER = 1.05
_BURST = 1.0  # seconds of a known quota that may be made up for at once
_LATE = 0.1  # seconds a timer may be late without slowing a learnt pace
_MARGIN = 0.98  # of the rate a server was seen to allow
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


@dataclass(slots=True)
class Pace:
    """How many calls and tokens per second: what the recipe says, and what a 429 teaches.

    A server that answers 429 says when to come again. What it took until then, over the time from the first
    of these calls to the moment it named, is the rate it allows; from then on calls are spread evenly.

    Attributes:
        requests: per second; infinite where it is not known.
        tokens: per second; infinite where it is not known.
    """

    requests: float = float("inf")
    tokens: float = float("inf")
    learnt: float = float("inf")
    paused_until: float = float("-inf")
    _next: float = float("-inf")
    _next_tokens: float = float("-inf")
    _mark: float | None = None
    _sent: int = 0
    _limited: float = float("-inf")
    _tried: float = float("-inf")
    _pause: float = _FIRST_PAUSE

    @classmethod
    def per_minute(cls, requests: int, tokens: int) -> Pace:
        """From the recipe's limits, 0 where one is not known."""
        return cls(requests / 60 or float("inf"), tokens / 60 or float("inf"))

    def wait(self, now: float) -> float:
        """Seconds until the next call may be sent; 0 or less is now."""
        return max(self.paused_until, self._next, self._next_tokens) - now

    def sent(self, now: float, tokens: int) -> None:
        """A call of about so many tokens, read and written, is on its way."""
        if self._mark is None:
            self._mark, self._sent = now, 0
        self._sent += 1
        self._grow(now)
        rate = min(self.requests, self.learnt)
        burst = _LATE if self.learnt < self.requests else _BURST
        if rate < float("inf"):
            self._next = max(self._next, now - burst) + 1 / rate
        if self.tokens < float("inf"):
            self._next_tokens = max(self._next_tokens, now - _BURST) + tokens / self.tokens

    def correct(self, tokens: int) -> None:
        """A call took so many tokens more (or, negative, fewer) than thought when it was sent."""
        if self.tokens < float("inf"):
            self._next_tokens += tokens / self.tokens

    def limited(self, now: float, sent: float, retry_after: float | None) -> None:
        """A 429 came at `now` for a call sent at `sent`; `retry_after` is in seconds, None where it was not said."""
        self._sent = max(0, self._sent - 1)
        if sent < self._limited:  # sent before the last 429 was known: it tells nothing new
            if retry_after is not None:
                self.paused_until = max(self.paused_until, now + retry_after)
            return
        taken, began = self._sent, self._mark if self._mark is not None else now
        self._pause = _FIRST_PAUSE if taken else min(2 * self._pause, _LONGEST_PAUSE)
        pause = retry_after if retry_after is not None else self._pause
        self.paused_until = now + pause
        if taken > 1:
            rate = _MARGIN * taken / max(now - began + pause, 1e-3)
            self.learnt = rate if self.learnt == float("inf") else min(rate, self.learnt / _FASTER)
        elif self.learnt < float("inf"):
            self.learnt /= 2
        self._limited = self._tried = now
        self._mark = None
        self._next = float("-inf")

    def _grow(self, now: float) -> None:
        if self.learnt < float("inf") and now - self._limited > _PATIENT and now - self._tried > _EVERY:
            self.learnt *= _FASTER
            self._tried = now


UNPROVEN = 10  # failures in a row of an endpoint that has never answered
DEAD = 20  # failures in a row, of calls sent since the first of them, of one that has
_CAREFUL = 5  # failures in a row after which calls are sent one at a time, with pauses
_FIRST_TRIAL, _LONGEST_TRIAL = 0.5, 10.0


@dataclass(slots=True)
class Breaker:
    """When an endpoint is given up: so many failures in a row, none of them in flight when the row began.

    Attributes:
        patience: multiplies all pauses; tests are impatient.
    """

    patience: float = 1.0
    failures: int = 0
    proven: bool = False
    _since: float = float("inf")
    _until: float = float("-inf")

    @property
    def dead(self) -> bool:
        """Whether the endpoint is given up."""
        return self.failures >= (DEAD if self.proven else UNPROVEN)

    @property
    def careful(self) -> bool:
        """Whether only one call at a time may try."""
        return self.failures >= _CAREFUL

    def wait(self, now: float) -> float:
        """Seconds until the next trial."""
        return self._until - now if self.careful else 0.0

    def answered(self) -> None:
        """The endpoint works."""
        self.failures, self.proven, self._since = 0, True, float("inf")

    def failed(self, now: float, sent: float) -> None:
        """A call sent at `sent` met a dead, broken or silent endpoint."""
        if self.failures and self.proven and sent < self._since:
            return
        if not self.failures:
            self._since = now
        self.failures += 1
        if self.careful:
            trial = _FIRST_TRIAL * 2 ** (self.failures - _CAREFUL)
            self._until = now + self.patience * min(trial, _LONGEST_TRIAL)
