"""Many calls at once over several lanes: which goes next, what is tried again, what is finished.

Everything here runs in the engine's event loop; nothing waits but the calls themselves.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

from tapir.domain.completion import Completion, Failure
from tapir.errors import CostLimit, Interrupted, RoleError, TapirError
from tapir.llm.account import Account
from tapir.llm.lane import Lane, Ticket, Trouble
from tapir.llm.ledger import Entry, Ledger, Purpose

_SHORTEST_DELAY, _FIRST_DELAY, _LONGEST_DELAY = 0.05, 0.5, 30.0  # seconds before a call is tried again
_LONGER = 3.0  # times the delay before
_LOOK = 0.5  # seconds between two looks at whether the user wants to stop
_RATE_LIMITED = 50  # times one request may meet a 429


@dataclass(slots=True)
class Job:
    """One request on its way.

    Attributes:
        number: its place in the stream.
        sent: its body for each lane.
        digests: what it is known by on each lane.
    """

    number: int
    sent: Sequence[bytes]
    digests: Sequence[bytes]
    max_tokens: int
    purpose: Purpose
    attempts: int = 0
    timeouts: int = 0
    limited: int = 0


@dataclass(slots=True)
class Desk:
    """What all flows of an engine share."""

    ledger: Ledger
    account: Account
    writer: Executor
    stopping: Callable[[], bool]
    attempts: int = 6
    patience: float = 1.0


@dataclass(slots=True)
class Flow:
    """The calls of one stream."""

    lanes: Sequence[Lane]
    desk: Desk
    finished: list[tuple[int, Completion | Failure]] = field(default_factory=list)
    outstanding: int = 0
    trouble: TapirError | None = None
    _ready: deque[Job] = field(default_factory=deque)
    _later: list[tuple[float, int, Job]] = field(default_factory=list)
    _in_flight: set[asyncio.Task[None]] = field(default_factory=set)
    _unwritten: list[tuple[Job, Entry]] = field(default_factory=list)
    _writing: bool = False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _timer: asyncio.TimerHandle | None = None

    async def turn(self, jobs: Sequence[Job]) -> list[tuple[int, Completion | Failure]]:
        """Take on more jobs, wait until something is finished, and hand it over.

        Raises:
            TapirError: nothing more can be finished: the user stopped, the money is spent, or no endpoint works.
                Everything finished before was handed over.
        """
        self._ready.extend(jobs)
        self.outstanding += len(jobs)
        self._pump()
        while not self.finished:
            if self.trouble and not self._in_flight and not self._unwritten and not self._writing:
                raise self.trouble
            if not self.outstanding:
                return []
            self._wake.clear()
            await self._wake.wait()
        found, self.finished = self.finished, []
        self.outstanding -= len(found)
        return found

    async def close(self) -> None:
        """Give up what is not finished; replies that have come are still written."""
        self.trouble = self.trouble or Interrupted("the stream was closed")
        if self._timer:
            self._timer.cancel()
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)
        while self._unwritten or self._writing:
            self._wake.clear()
            await self._wake.wait()

    def _pump(self) -> None:
        """Start every call that may start now; set a timer for the next one."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._recall(now)
        if all(lane.fatal for lane in self.lanes):
            self._stop(self.lanes[0].fatal or RoleError("no endpoint is usable"))
        if (self._ready or self._later) and self.desk.stopping():
            self._stop(Interrupted("stopped; everything finished is on disk"))
        while self._ready and self.trouble is None:
            place, wait = self._lane(now)
            if place is None:
                if wait < float("inf") or not self._in_flight:
                    self._timer = loop.call_later(min(wait, _LOOK), self._pump)
                break
            if self.desk.stopping():
                self._stop(Interrupted("stopped; everything finished is on disk"))
            elif not self._launch(self._ready[0], place, now):
                break
            else:
                self._ready.popleft()
        if self._timer is None and self._later and self.trouble is None:
            self._timer = loop.call_later(min(self._later[0][0] - now, _LOOK), self._pump)

    def _recall(self, now: float) -> None:
        """What was put off goes first, so that no stage waits for it at its end; last where the endpoint is in trouble.

        Each trial of such an endpoint is then made with another request, and none is tried until it fails.
        """
        last = any(lane.breaker.careful for lane in self.lanes)
        while self._later and self._later[0][0] <= now:
            job = heapq.heappop(self._later)[2]
            (self._ready.append if last else self._ready.appendleft)(job)

    def _lane(self, now: float) -> tuple[int | None, float]:
        """The emptiest lane that may send now; else how long until one may."""
        usable = [place for place, lane in enumerate(self.lanes) if lane.fatal is None]
        waits = {place: self.lanes[place].wait(now) for place in usable}
        free = [place for place in usable if waits[place] <= 0]
        if not free:
            return None, min(waits.values(), default=float("inf"))
        return min(free, key=lambda place: self.lanes[place].gate.in_flight / self.lanes[place].gate.limit), 0.0

    def _launch(self, job: Job, place: int, now: float) -> bool:
        account, lane = self.desk.account, self.lanes[place]
        worst = account.worst(lane.endpoint, job.sent[place], job.max_tokens)
        if not account.allows(worst):
            if not self._in_flight:
                self._stop(
                    CostLimit(
                        f"calls.max_cost = {account.most:g} would be passed: {account.spent:.4f} is spent and the next"
                        f" call may cost {worst:.4f}; everything finished is on disk",
                        remedy="Raise it: the same command with --set calls.max_cost=... goes on.",
                    )
                )
            return False
        account.reserved += worst
        ticket = lane.take(now, len(job.sent[place]))
        task = asyncio.get_running_loop().create_task(self._call(job, place, ticket))
        self._in_flight.add(task)
        task.add_done_callback(partial(self._ended, lane, worst))
        return True

    def _stop(self, why: TapirError) -> None:
        self.trouble = self.trouble or why
        self._wake.set()

    async def _call(self, job: Job, place: int, ticket: Ticket) -> None:
        lane = self.lanes[place]
        outcome = await lane.call(ticket, job.sent[place], job.timeouts)
        if isinstance(outcome, Completion):
            cost = lane.endpoint.cost(outcome.usage)
            self.desk.account.paid(cost, outcome.usage)
            entry = Entry(job.digests[place], lane.endpoint.model, job.sent[place], outcome, cost, job.purpose)
            self._unwritten.append((job, entry))
            self._write()
        else:
            self._failed(job, outcome, lane)

    def _ended(self, lane: Lane, worst: float, task: asyncio.Task[None]) -> None:
        """A call is over, also one that was given up before it began: another may take its place."""
        self._in_flight.discard(task)
        lane.release()
        self.desk.account.reserved = max(0.0, self.desk.account.reserved - worst)
        if not task.cancelled() and (error := task.exception()):
            self._stop(RoleError(f"a call failed in an unknown way: {lane.scrubbed(repr(error))}"))
        self._pump()
        if self.trouble:
            self._wake.set()

    def _failed(self, job: Job, trouble: Trouble, lane: Lane) -> None:
        """Try again, later and outside of any slot; or give the item up with its reason."""
        if lane.fatal:
            self._ready.appendleft(job)  # it is the endpoint, not the item
            return
        unreachable = trouble.failure.kind == "connection" and lane.breaker.careful
        job.attempts += not (trouble.limited or unreachable)
        job.timeouts += trouble.failure.kind == "timeout"
        job.limited += trouble.limited
        if not trouble.again or job.attempts >= self.desk.attempts or job.limited >= _RATE_LIMITED:
            failure = Failure(trouble.failure.kind, trouble.failure.message, job.attempts + job.limited)
            self._finish([(job, failure)])
        elif trouble.limited:
            self._ready.appendleft(job)  # the lane itself waits
        else:
            now = asyncio.get_running_loop().time()
            delay = 0.0
            if trouble.failure.kind != "timeout":  # a timeout was a pause itself
                first = max(_SHORTEST_DELAY, min(lane.gate.latency / 2 or _FIRST_DELAY, _FIRST_DELAY))
                longer = first * _LONGER ** max(0, job.attempts - job.timeouts - 1)
                delay = min(longer, _LONGEST_DELAY) * random.uniform(0.5, 1.0) * self.desk.patience
            delay = max(delay, trouble.wait or 0.0)
            heapq.heappush(self._later, (now + delay, job.number, job))

    def _write(self) -> None:
        """Hand what has come to the writer; what comes meanwhile is written together after it."""
        if self._writing or not self._unwritten:
            return
        batch, self._unwritten = self._unwritten, []
        self._writing = True
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(self.desk.writer, self.desk.ledger.add, [entry for _, entry in batch])
        writing.add_done_callback(partial(self._written, batch))

    def _written(self, batch: Sequence[tuple[Job, Entry]], writing: asyncio.Future[None]) -> None:
        self._writing = False
        error = writing.exception()
        if isinstance(error, TapirError):
            self._stop(error)
        elif error is not None:
            self._stop(RoleError(f"the ledger could not be written: {error!r}"))
        else:
            self._finish([(job, entry.completion) for job, entry in batch])
        self._write()
        self._wake.set()

    def _finish(self, done: Sequence[tuple[Job, Completion | Failure]]) -> None:
        self.finished += [(job.number, result) for job, result in done]
        self._wake.set()
