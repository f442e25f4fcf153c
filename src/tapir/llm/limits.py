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
_TIMEOUTS, _MANY = 0.1, 256  # share of so many latest calls that makes timeouts a sign of overload
_SILENT = 5  # timeouts without any answer that may still be chance
_ENOUGH = 16  # answers without which nothing is said about the slow ones
_SPREAD = 2.0  # times the rate at which calls end is the rate at which they may start
_APART = 0.05  # seconds between two calls, at most


@dataclass(slots=True)
class Gate:
    """How many calls at once: grows while latency holds, shrinks on 429 and on many timeouts.

    A gate that finds its own limit also spreads the calls: all sent in one moment, they would all meet a rate
    limit before the first of them could tell.

    Attributes:
        most: the recipe's number; 0 lets the gate find its own.
        latency: median seconds of the latest calls; 0 before the first.
        slow: seconds that only the slowest of the latest calls took; infinite while there are too few to tell.
    """

    most: int = 0
    limit: float = FIRST
    in_flight: int = 0
    latency: float = 0.0
    slow: float = float("inf")
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    _timeouts: deque[bool] = field(default_factory=lambda: deque(maxlen=_MANY))
    _silent: int = 0
    _best: float = float("inf")
    _shrunk: float = float("-inf")
    _started: float = float("-inf")
    _answers: int = 0
    _like_these: int = 0

    def __post_init__(self) -> None:
        self.limit = float(min(FIRST, self._ceiling))

    @property
    def _ceiling(self) -> int:
        return self.most or MOST

    def wait(self, now: float) -> float:
        """Seconds until one more call may start: 0 or less is now, infinite is not before another one ends."""
        if self.in_flight >= int(self.limit):
            return float("inf")
        if self.most:
            return 0.0
        return self._started + min(_APART, self.latency / (_SPREAD * self.limit)) - now

    def take(self, now: float) -> None:
        """A call starts."""
        self.in_flight += 1
        self._started = now

    def release(self) -> None:
        """A call ended, however it did."""
        self.in_flight -= 1

    def answered(self, latency: float) -> None:
        """A call, not released yet, came back whole after `latency` seconds."""
        if not self._answers:
            self.limit = float(self.most or FIRST)
        self._answers += 1
        self._like_these += 1
        self._latencies.append(latency)
        self._timeouts.append(False)
        self._silent = 0
        if self._answers % _LOOK == 0:
            self._look()
        if self.in_flight >= int(self.limit) and self.latency <= _SLOWER * self._best:
            self.limit = min(float(self._ceiling), self.limit + _GROWTH)

    def forget(self) -> None:
        """Another kind of call begins: what the last ones took says nothing about it."""
        self._latencies.clear()
        self._timeouts.clear()
        self._best = self.slow = float("inf")
        self.latency = 0.0
        self._like_these = 0

    def _look(self) -> None:
        ordered = sorted(self._latencies)
        self.latency = median(ordered)
        self._best = min(self._best, self.latency)
        # The first to answer are the fast ones: the slow ones are known once every call of the start had its time.
        if self._like_these >= max(_ENOUGH, self.limit):
            self.slow = ordered[-max(1, len(ordered) // 16)]

    def timed_out(self, now: float, waited: float, *, overtaken: bool) -> None:
        """A call did not come back in the seconds that were waited for it; later ones did if it was overtaken."""
        self._timeouts.append(True)
        self._silent += not overtaken
        if self._silent > _SILENT:  # all calls may take that long by now
            self.slow = max(self.slow, waited)
        if self._silent > _SILENT or sum(self._timeouts) > _TIMEOUTS * _MANY:
            self.shrink(now)

    def shrink(self, now: float) -> None:
        """The endpoint is overloaded: fewer calls at once, at most once in a round trip."""
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
_TELLING, _LASTING = 10, 5.0  # calls let through, and seconds, without which a 429 belongs to the one before


@dataclass(slots=True)
class Pace:
    """How many calls and tokens per second: what the recipe says, and what a 429 teaches.

    A server that answers 429 says when to come again. The calls it let through until then, over the time from
    the first of them to the moment it named, is the rate it allows; from then on calls are spread evenly. A
    server that names no moment, or the wrong one, is asked with single calls until one is let through.

    Attributes:
        requests: per second; infinite where it is not known.
        tokens: per second; infinite where it is not known.
        learnt: calls per second that a 429 taught; infinite before the first.
    """

    requests: float = float("inf")
    tokens: float = float("inf")
    learnt: float = float("inf")
    paused_until: float = float("-inf")
    _next: float = float("-inf")
    _next_tokens: float = float("-inf")
    _sent: int = 0
    _refused: int = 0
    _known: int = 0  # calls sent before the last 429 came: theirs tell nothing new
    _passed: int = 0  # later calls that were let through
    _same: bool = False  # the last 429 came too soon after the one before to tell a rate by itself
    _asking: bool = False  # single calls, until one is let through
    _history: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_GRAINS))
    _opening: float = float("-inf")
    _opened: float = float("-inf")
    _ended: float = float("-inf")
    _paused: float = 0.0
    _pause: float = _FIRST_PAUSE
    _tried: float = float("-inf")
    _quiet: float = _QUIET

    @classmethod
    def per_minute(cls, requests: int, tokens: int) -> Pace:
        """From the recipe's limits, 0 where one is not known."""
        return cls(requests / 60 or float("inf"), tokens / 60 or float("inf"))

    def wait(self, now: float) -> float:
        """Seconds until the next call may be sent; 0 or less is now."""
        return max(self.paused_until, self._next, self._next_tokens) - now

    def sent(self, now: float, tokens: int) -> int:
        """A call of about so many tokens, read and written, is on its way; returns its place among all calls."""
        place, self._sent = self._sent, self._sent + 1
        if place == self._known:
            self._opening = now
            if self._refused:
                self._learn(now)
                self._next = now
        if not self._history or now - self._history[-1][0] >= _GRAIN:
            self._history.append((now, place - self._refused))
        if self.learnt < float("inf") and now - self._tried > self._quiet:
            self.learnt *= _FASTER
            self._tried = now
        rate = min(self.requests, self.learnt)
        if rate < float("inf"):
            burst = _LATE if self.learnt < self.requests else _BURST
            self._next = max(self._next, now - burst) + 1 / rate
        if self._asking:
            self._next = now + self._pause
        if self.tokens < float("inf"):
            self._next_tokens = max(self._next_tokens, now - _BURST) + tokens / self.tokens
        return place

    def correct(self, tokens: int) -> None:
        """A call took so many tokens more (or, negative, fewer) than thought when it was sent."""
        if self.tokens < float("inf"):
            self._next_tokens += tokens / self.tokens

    def accepted(self, place: int) -> None:
        """The call of this place met no 429."""
        if place < self._known:
            return
        self._passed += 1
        if self._passed == 1:
            self._pause = _FIRST_PAUSE
        if self._asking:
            self._asking, self._next = False, float("-inf")

    def limited(self, now: float, place: int, retry_after: float | None) -> None:
        """A 429 came at `now` for the call of this place; `retry_after` in seconds, None where it was not said."""
        self._refused += 1
        if place < self._known:
            if retry_after is not None:
                self.paused_until = max(self.paused_until, now + retry_after)
            return
        lasting = max(_LASTING, 2 * self._paused)
        self._same = self._refused > 1 and (self._passed < _TELLING or now - self._opening < lasting)
        if not self._same:
            self._opened = self._opening
        too_early = not self._passed and self._refused > 1
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
        self._asking = guess > 0
        self._known, self._passed, self._next = self._sent, 0, float("-inf")

    def _learn(self, now: float) -> None:
        """The rate until the pause ended, from the stretch of the history in which it was highest."""
        taken = self._known - self._refused
        marks = [one for one in self._history if self._opened <= one[0] < self._ended]
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


UNPROVEN = 10  # failures in a row of an endpoint that has never answered
DEAD = 20  # failures in a row, of calls sent since the first of them, of one that has
_CAREFUL = 5  # failures in a row after which calls are sent one at a time, with pauses
_DIFFERENT = 4  # requests that must have failed: fewer may be to blame themselves
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
    def careful(self) -> bool:
        """Whether only one call at a time may try."""
        return self.failures >= _CAREFUL

    def wait(self, now: float) -> float:
        """Seconds until the next trial."""
        return self._until - now if self.careful else 0.0

    def answered(self, sent: float) -> None:
        """The endpoint works, if the call was sent after the row of failures began."""
        if self.failures and self.proven and sent < self._since:
            return
        self.failures, self.proven, self._unreachable, self._since = 0, True, False, float("inf")
        self._failed.clear()

    def failed(self, now: float, sent: float, request: int, *, unreachable: bool = False) -> None:
        """A call sent at `sent` met a dead, broken or silent endpoint.

        Args:
            now: when it was known.
            sent: when it was sent.
            request: tells requests apart.
            unreachable: no request can be to blame.
        """
        if self.failures and self.proven and sent < self._since:
            return
        self.failures += 1
        self._failed.add(request)
        self._unreachable = self._unreachable or unreachable
        if self.failures == 1 or self.careful:
            self._since = now
        if self.careful:
            trial = _FIRST_TRIAL * 2 ** (self.failures - _CAREFUL)
            self._until = now + self.patience * min(trial, _LONGEST_TRIAL)
