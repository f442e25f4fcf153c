"""Concurrency limit, rate limit and circuit breaker of an endpoint.

Nothing here sleeps or reads a clock: every method is passed the time (seconds, monotonic).
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
_REFRESH = 8  # calls between two computations of the median
_TIMEOUTS, _MANY = 0.1, 256  # share of so many latest calls that makes timeouts a sign of overload
_SPREAD = 2.0  # times the rate at which calls end is the rate at which they may start
_APART = 0.05  # seconds between two calls, at most


@dataclass(slots=True)
class ConcurrencyLimit:
    """Limit of the calls in flight: grows while latency holds, shrinks on 429 and on many timeouts.

    A limit that adapts also spreads the calls: all sent in one moment, they would all meet a rate limit before the
    first of them could tell.
    """

    most: int = 0  # the recipe's number; 0 adapts the limit to the endpoint
    limit: float = FIRST
    in_flight: int = 0
    latency: float = 0.0  # median seconds of the latest calls; 0 before the first
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _timeouts: deque[bool] = field(default_factory=lambda: deque(maxlen=_MANY))
    _best: float = float("inf")
    _shrunk: float = float("-inf")
    _started: float = float("-inf")
    _replies: int = 0

    def __post_init__(self) -> None:
        self.limit = float(min(FIRST, self.most or MOST))

    def wait(self, now: float) -> float:
        """Return the seconds until one more call may start: 0 or less is now, infinite is when another one ends."""
        if self.in_flight >= int(self.limit):
            return float("inf")
        if self.most:
            return 0.0
        return self._started + min(_APART, self.latency / (_SPREAD * self.limit)) - now

    def acquire(self, now: float) -> None:
        """Count a call that starts."""
        self.in_flight += 1
        self._started = now

    def release(self) -> None:
        """Count a call that ended, whatever its result."""
        self.in_flight -= 1

    def record_success(self, latency: float) -> None:
        """Record that a call, not released yet, brought a reply after `latency` seconds."""
        if not self._replies:
            self.limit = float(self.most or FIRST)
        self._replies += 1
        self._latencies.append(latency)
        self._timeouts.append(False)
        if self._replies % _REFRESH == 0:
            self.latency = median(self._latencies)
            self._best = min(self._best, self.latency)
        if self.in_flight >= int(self.limit) and self.latency <= _SLOWER * self._best:
            self.limit = min(float(self.most or MOST), self.limit + _GROWTH)

    def record_timeout(self, now: float) -> None:
        """Record that a call met its timeout; many of them shrink the limit."""
        self._timeouts.append(True)
        if sum(self._timeouts) > _TIMEOUTS * _MANY:
            self.shrink(now)

    def reset(self) -> None:
        """Forget latencies, because another kind of call begins; the limit stays."""
        self._latencies.clear()
        self._timeouts.clear()
        self._best = float("inf")
        self.latency = 0.0

    def shrink(self, now: float) -> None:
        """Allow fewer calls at once, at most once in a round trip: the endpoint is overloaded."""
        if now - self._shrunk > max(self.latency, 1.0):
            self._shrunk = now
            self.limit = max(1.0, self.limit * _SHRINK)


_FASTER = 1.05  # a trial of a higher rate
_QUIET, _LONGEST_QUIET = 30.0, 120.0  # seconds without a 429 before a trial; doubled by every trial that fails
_BURST = 1.0  # seconds of a known quota that may be made up for at once
_LATE = 0.1  # seconds a timer may be late without slowing a learnt pace
_MARGIN = 0.98  # of the rate a server was seen to allow
_FIRST_PAUSE, _LONGER, _LONGEST_PAUSE = 1.0, 1.3, 30.0
_GRAIN, _GRAINS = 0.25, 256  # seconds between two marks in the history of calls, and how many are kept
_TELLING, _LASTING = 10, 5.0  # accepted calls, and seconds, without which a 429 belongs to the one before


@dataclass(slots=True)
class RateLimit:
    """Limit of requests and tokens per second: what the recipe says, and what a 429 teaches.

    A server that replies 429 says when to come again. The calls it accepted until then, over the time from the first
    of them to the moment it named, is the rate it allows; from then on calls are spread evenly. A server that names
    no moment, or the wrong one, is probed with single calls until one is accepted.
    """

    requests: float = float("inf")  # per second, as are `tokens`
    tokens: float = float("inf")
    learnt: float = float("inf")  # requests per second that a 429 taught
    paused_until: float = float("-inf")
    _next: float = float("-inf")
    _next_tokens: float = float("-inf")
    _sent: int = 0
    _refused: int = 0
    _known: int = 0  # calls sent before the last 429 came: theirs tell nothing new
    _accepted: int = 0  # later calls that met no 429
    _same: bool = False  # the last 429 came too soon after the one before to tell a rate by itself
    _probing: bool = False  # single calls, until one is accepted
    _history: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_GRAINS))
    _opening: float = float("-inf")
    _opened: float = float("-inf")
    _ended: float = float("-inf")
    _paused: float = 0.0
    _pause: float = _FIRST_PAUSE
    _tried: float = float("-inf")
    _quiet: float = _QUIET

    @classmethod
    def per_minute(cls, requests: int, tokens: int) -> RateLimit:
        """Build from the recipe's limits, 0 where one is not known."""
        return cls(requests / 60 or float("inf"), tokens / 60 or float("inf"))

    def wait(self, now: float) -> float:
        """Return the seconds until the next call may be sent; 0 or less is now."""
        return max(self.paused_until, self._next, self._next_tokens) - now

    def acquire(self, now: float, tokens: int) -> int:
        """Count a call of about so many tokens, read and written, that is sent; return its number among all calls."""
        number, self._sent = self._sent, self._sent + 1
        if number == self._known:
            self._opening = now
            if self._refused:
                self._learn(now)
                self._next = now
        if not self._history or now - self._history[-1][0] >= _GRAIN:
            self._history.append((now, number - self._refused))
        if self.learnt < float("inf") and now - self._tried > self._quiet:
            self.learnt *= _FASTER
            self._tried = now
        rate = min(self.requests, self.learnt)
        if rate < float("inf"):
            burst = _LATE if self.learnt < self.requests else _BURST
            self._next = max(self._next, now - burst) + 1 / rate
        if self._probing:
            self._next = now + self._pause
        if self.tokens < float("inf"):
            self._next_tokens = max(self._next_tokens, now - _BURST) + tokens / self.tokens
        return number

    def correct(self, tokens: int) -> None:
        """Add the tokens that a call took beyond its estimate; negative where it took fewer."""
        if self.tokens < float("inf"):
            self._next_tokens += tokens / self.tokens

    def record_success(self, number: int) -> None:
        """Record that the call of this number met no 429."""
        if number < self._known:
            return
        self._accepted += 1
        if self._accepted == 1:
            self._pause = _FIRST_PAUSE
        if self._probing:
            self._probing, self._next = False, float("-inf")

    def record_429(self, now: float, number: int, retry_after: float | None) -> None:
        """Record a 429 for the call of this number; `retry_after` in seconds, None where the server did not say."""
        self._refused += 1
        if number < self._known:
            if retry_after is not None:
                self.paused_until = max(self.paused_until, now + retry_after)
            return
        lasting = max(_LASTING, 2 * self._paused)
        self._same = self._refused > 1 and (self._accepted < _TELLING or now - self._opening < lasting)
        if not self._same:
            self._opened = self._opening
        too_early = not self._accepted and self._refused > 1
        if too_early:
            self._pause = min(_LONGER * self._pause, _LONGEST_PAUSE)
        guess = self._pause if too_early or retry_after is None else 0.0
        slack = _TELLING / self.learnt if self._same else 0.0  # a window that is always full refuses again and again
        pause = max(guess, slack, retry_after or 0.0)
        # A pause of our own is too long by half of it on average, a server's whole seconds are by half a second.
        over = guess / 2 if pause == guess else 0.5 * (pause >= 1 and pause.is_integer())
        self._paused = pause
        self.paused_until = max(self.paused_until, now + pause)
        self._ended = self.paused_until - over
        self._probing = guess > 0
        self._known, self._accepted, self._next = self._sent, 0, float("-inf")

    def _learn(self, now: float) -> None:
        """Set the learnt rate: that until the pause ended, from the stretch of history in which it was highest."""
        taken = self._known - self._refused
        marks = [mark for mark in self._history if self._opened <= mark[0] < self._ended]
        rate = _MARGIN * max(((taken - count) / (self._ended - moment) for moment, count in marks), default=0.0)
        first = self.learnt == float("inf")
        if rate <= 0:
            self.learnt /= 2
        elif first or self._same:
            self.learnt = min(rate, self.learnt)
        else:
            self.learnt = min(rate, self.learnt / _FASTER)
            self._quiet = min(2 * self._quiet, _LONGEST_QUIET)
        self._tried = now


_RACED = 0.02  # share of the calls that may be sent a second time
_KNOWN = 16  # replies that tell what is slow
_LATEST = 1024  # replies that count
_SLOW = 0.98  # quantile of the latencies beyond which a call is slow
_FAR = 1.5  # times the longest latency: beyond it a call is given up where no more may be raced
_SHORTEST = 1.0  # seconds


@dataclass(slots=True)
class RaceLimit:
    """Limit of second copies of slow calls, for an endpoint where a call costs nothing.

    The latencies are those of calls that were sent once, so that a copy teaches nothing.
    """

    calls: int = 0
    copies: int = 0
    slow: float = float("inf")  # seconds after which a call gives its slot to another
    longest: float = float("inf")  # of the latest latencies, in seconds
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATEST))

    def reset(self) -> None:
        """Forget latencies, because another kind of call begins."""
        self._latencies.clear()
        self.slow = self.longest = float("inf")

    def record_success(self, latency: float) -> None:
        """Record the reply to a call that was sent once."""
        self._latencies.append(latency)
        if len(self._latencies) % _KNOWN == 0 or latency > self.longest:
            ordered = sorted(self._latencies)
            self.slow = max(_SHORTEST, ordered[int(_SLOW * len(ordered))])
            self.longest = max(_SHORTEST, ordered[-1])

    @property
    def left(self) -> int:
        """How many calls may be sent again now."""
        return max(1, int(_RACED * self.calls)) - self.copies

    def gives_up(self, age: float, attempts: int) -> bool:
        """Whether a call has waited far longer than any reply took; each attempt is given twice the time."""
        return age > _FAR * self.longest * 2.0**attempts


UNPROVEN = 10  # failures in a row of an endpoint that has never answered
DEAD = 20  # failures in a row, of calls sent since the first of them, of one that has
_HALF_OPEN = 5  # failures in a row after which calls are sent one at a time, with pauses
_DIFFERENT = 4  # requests that must have failed: fewer may be to blame themselves
_FIRST_TRIAL, _LONGEST_TRIAL = 0.5, 10.0  # seconds


@dataclass(slots=True)
class CircuitBreaker:
    """When an endpoint is given up: so many failures in a row, none of them in flight when the row began."""

    pause_factor: float = 1.0  # of the pauses between trials
    failures: int = 0
    proven: bool = False
    _failed: set[int] = field(default_factory=set)
    _unreachable: bool = False
    _since: float = float("inf")
    _until: float = float("-inf")

    @property
    def dead(self) -> bool:
        """Whether the endpoint is given up."""
        enough = self.failures >= (DEAD if self.proven else UNPROVEN)
        return enough and (self._unreachable or len(self._failed) >= _DIFFERENT)

    @property
    def half_open(self) -> bool:
        """Whether only one call at a time may try."""
        return self.failures >= _HALF_OPEN

    def wait(self, now: float) -> float:
        """Return the seconds until the next trial."""
        return self._until - now if self.half_open else 0.0

    def record_success(self, sent: float) -> None:
        """Record that the endpoint works, if the call was sent after the row of failures began."""
        if self.failures and self.proven and sent < self._since:
            return
        self.failures, self.proven, self._unreachable, self._since = 0, True, False, float("inf")
        self._failed.clear()

    def record_failure(self, now: float, sent: float, request: int, *, unreachable: bool = False) -> None:
        """Record that a call made at `sent` met a dead, broken or silent endpoint.

        `request` is a hash that distinguishes requests; `unreachable` means that none can be to blame.
        """
        if self.failures and self.proven and sent < self._since:
            return
        self.failures += 1
        self._failed.add(request)
        self._unreachable = self._unreachable or unreachable
        if self.failures == 1 or self.half_open:
            self._since = now
        if self.half_open:
            trial = _FIRST_TRIAL * 2 ** (self.failures - _HALF_OPEN)
            self._until = now + self.pause_factor * min(trial, _LONGEST_TRIAL)
