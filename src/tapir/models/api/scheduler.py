"""Request scheduler: queue, retries and budget of the calls of one stream."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

from tapir.config.endpoints import EndpointConfig
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.errors import CostLimit, Interrupted, RoleError, TapirError
from tapir.models.api.connection import Call, CallError, EndpointClient
from tapir.models.api.ledger import Entry, Ledger, Purpose
from tapir.models.api.retry import RetryPolicy
from tapir.models.api.usage import possible_usage

_STOPPED = "stopped; everything finished is on disk"
_UNTOLD = frozenset({"timeout", "cut", "malformed"})  # kinds that a provider may have billed without telling
_POLL = 0.5  # seconds between two looks at whether the user wants to stop


@dataclass(slots=True)
class Budget:
    """Money and calls of one run; a limit of 0 is none."""

    limit: float = 0.0
    spent: float = 0.0  # earlier sessions included
    possible: float = 0.0  # the most that calls which ended without telling have cost, likewise
    reserved: float = 0.0  # the most that the calls in flight can cost
    calls: int = 0  # billed in this session
    reused: int = 0  # replies read from the ledger
    usage: Usage = field(default_factory=Usage)

    @staticmethod
    def worst_case(endpoint: EndpointConfig, body: bytes, max_tokens: int, *, batched: bool = False) -> float:
        """Return the most a call can cost: some tokenizers make one token of every byte of digits or rare scripts."""
        return endpoint.cost(Usage(len(body) + 1, max_tokens + endpoint.thinking_tokens), batched=batched)

    def allows(self, worst_case: float) -> bool:
        """Whether a call that may cost so much fits into what is left."""
        return not self.limit or self.spent + self.possible + self.reserved + worst_case <= self.limit

    def reserve(self, money: float) -> None:
        """Reserve money for a call that starts; release it where negative."""
        self.reserved = max(0.0, self.reserved + money)

    def pay(self, money: float, reply: Completion | Failure) -> None:
        """Count a call that was billed, or that may have been where its failure holds no usage."""
        if reply.usage is None:
            self.possible += money
            return
        self.spent += money
        self.calls += 1
        self.usage += reply.usage

    @property
    def paid(self) -> tuple[int, float]:
        """Tokens that were billed in this session, and the money, that of earlier ones included."""
        return self.usage.prompt_tokens + self.usage.completion_tokens, self.spent

    def exceeded(self, worst_case: float, what: str) -> CostLimit:
        """Return the error that ends a run before a call, or several, might pass the limit."""
        possible = f", {self.possible:.4f} more may have been billed" if self.possible else ""
        return CostLimit(
            f"calls.max_cost = {self.limit:g} would be passed: {self.spent:.4f} is spent{possible} and the"
            f" next {what} may cost {worst_case:.4f}; everything finished is on disk",
            remedy="Raise it: the same command with --set calls.max_cost=... goes on.",
        )


@dataclass(slots=True)
class QueuedRequest:
    """A request until it has its result; `rate_limited` counts its 429s."""

    bodies: Sequence[bytes]  # one for each endpoint
    digests: Sequence[bytes]  # its key in the ledger for each endpoint; the first one identifies it
    max_tokens: int
    purpose: Purpose
    attempts: int = 0
    rate_limited: int = 0
    in_flight: int = 0  # calls: more than one where a slow one is raced
    sent: float = 0.0  # when the last of them was
    raced: bool = False
    done: bool = False
    thinks: bool = False  # a second call with more room, which the first reply speaks for


@dataclass(slots=True)
class Flight:
    """A call in flight; one that is overdue gives its slot to another."""

    request: QueuedRequest
    place: int
    call: Call
    worst_case: float
    holds_slot: bool = True
    given_up: bool = False


_Unwritten: TypeAlias = tuple[QueuedRequest, Completion | Failure | None, Entry]
"""A request, its result where it has one now, and what the ledger has to hold first."""


@dataclass(slots=True)
class Scheduler:
    """The calls of one stream; `stopping` is asked before every call."""

    endpoints: Sequence[EndpointClient]
    ledger: Ledger
    writer: Executor
    budget: Budget
    retry: RetryPolicy
    stopping: Callable[[], bool]
    error: TapirError | None = None
    beside: bool = False  # whether what was paid is written beside the ledger, which cannot be written
    _results: list[tuple[bytes, Completion | Failure]] = field(default_factory=list)
    _outstanding: int = 0
    _queue: deque[QueuedRequest] = field(default_factory=deque)
    _retries: list[tuple[float, bytes, QueuedRequest]] = field(default_factory=list)
    _in_flight: dict[asyncio.Task[None], Flight] = field(default_factory=dict)
    _unwritten: list[_Unwritten] = field(default_factory=list)
    _writing: bool = False
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _timer: asyncio.TimerHandle | None = None
    _looked: float = 0.0  # for calls to be raced

    async def advance(self, requests: Sequence[QueuedRequest]) -> list[tuple[bytes, Completion | Failure]]:
        """Queue more requests, wait until some have their result, and return it by their first digest."""
        self._queue.extend(requests)
        self._outstanding += len(requests)
        self._start_calls()
        while not self._results:
            busy = self._unwritten or self._writing or not all(each.request.done for each in self._in_flight.values())
            if self.error and not busy:
                raise self.error
            if not self._outstanding:
                return []
            self._wake.clear()
            await self._wake.wait()
        results, self._results = self._results, []
        self._outstanding -= len(results)
        return results

    async def close(self) -> None:
        """Cancel what is not finished; replies that have come are still written."""
        self.error = self.error or Interrupted("the stream was closed")
        if self._timer:
            self._timer.cancel()
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)
        while self._unwritten or self._writing:
            self._wake.clear()
            await self._wake.wait()

    def _start_calls(self) -> None:
        """Start every call that may start now; set a timer for the next one."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._queue_retries(now)
        if all(endpoint.fatal for endpoint in self.endpoints):
            self._stop(self.endpoints[0].fatal or RoleError("no endpoint is usable"))
        if (self._queue or self._retries) and self.stopping():
            self._stop(Interrupted(_STOPPED))
        while self._queue and self.error is None:
            place, wait = self._choose_endpoint(now)
            if place is None:
                if wait < float("inf") or not self._in_flight:
                    self._timer = loop.call_later(min(wait, _POLL), self._start_calls)
                break
            if self.stopping():
                self._stop(Interrupted(_STOPPED))
            elif self._start_call(self._queue[0], place, now):
                self._queue.popleft()
            else:
                break
        if self.error is None:
            self._look_later(now)

    def _look_later(self, now: float) -> None:
        """Race slow calls from time to time; set a timer for that and for the next retry."""
        if self._in_flight and now >= self._looked + _POLL:
            self._looked = now
            self._race(now)
        if self._timer is None and (self._in_flight or self._retries):
            wait = min(self._retries[0][0] - now, _POLL) if self._retries else _POLL
            self._timer = asyncio.get_running_loop().call_later(wait, self._start_calls)

    def _race(self, now: float) -> None:
        """Free the slots of slow calls where a call costs nothing, and send those a second time that may hang.

        These are calls that wait longer than any reply took; where nothing else is left to be sent, all slow ones, if
        as many may be raced. Where none may, a call that has waited far longer is given up.
        """
        slow = [
            (task, flight, self.endpoints[flight.place].races)
            for task, flight in self._in_flight.items()
            if not (task.done() or flight.request.done or self.endpoints[flight.place].config.costs)
            and now - flight.call.began > self.endpoints[flight.place].races.slow
        ]
        last = not self._queue and not self._retries
        stopping = bool(slow) and self.stopping()
        for task, flight, races in slow:  # the oldest first
            request, endpoint, waited = flight.request, self.endpoints[flight.place], now - flight.request.sent
            if flight.holds_slot:
                flight.holds_slot = False
                endpoint.concurrency.release()
            if stopping or not endpoint.takes_calls(now):
                continue
            if waited <= (races.slow if last and len(slow) <= races.left else races.longest):
                continue
            if races.left > 0 and self._start_call(request, flight.place, now):
                races.copies += 1
                request.raced = True
            elif last and not flight.given_up and races.gives_up(waited, request.attempts):
                flight.given_up = task.cancel()

    def _queue_retries(self, now: float) -> None:
        """Queue the retries whose backoff is over: first, so that no stage waits for them at its end.

        Last where an endpoint fails: each of its trials is then made with another request.
        """
        last = any(endpoint.breaker.half_open for endpoint in self.endpoints)
        while self._retries and self._retries[0][0] <= now:
            request = heapq.heappop(self._retries)[2]
            (self._queue.append if last else self._queue.appendleft)(request)

    def _choose_endpoint(self, now: float) -> tuple[int | None, float]:
        """Return the place of the endpoint with the most room, if one may be called; else the seconds until then."""
        waits = {place: each.wait(now) for place, each in enumerate(self.endpoints) if each.fatal is None}
        free = [place for place, wait in waits.items() if wait <= 0]
        if not free:
            return None, min(waits.values(), default=float("inf"))
        limits = [endpoint.concurrency for endpoint in self.endpoints]
        return min(free, key=lambda place: limits[place].in_flight / limits[place].limit), 0.0

    def _start_call(self, request: QueuedRequest, place: int, now: float) -> bool:
        """Start a call if the budget allows it; stop where it never will."""
        budget, endpoint = self.budget, self.endpoints[place]
        worst_case = budget.worst_case(endpoint.config, request.bodies[place], request.max_tokens)
        if not budget.allows(worst_case):
            if not self._in_flight:
                self._stop(budget.exceeded(worst_case, "call"))
            return False
        budget.reserve(worst_case)
        flight = Flight(request, place, endpoint.acquire(now, len(request.bodies[place])), worst_case)
        request.in_flight += 1
        request.sent = now
        task = asyncio.get_running_loop().create_task(self._call(flight))
        self._in_flight[task] = flight
        task.add_done_callback(self._end_call)
        return True

    def _stop(self, error: TapirError) -> None:
        self.error = self.error or error
        self._wake.set()

    async def _call(self, flight: Flight) -> None:
        request, place = flight.request, flight.place
        endpoint, loop = self.endpoints[place], asyncio.get_running_loop()
        try:
            result = await endpoint.call(flight.call, request.bodies[place], thinks=request.thinks)
        except asyncio.CancelledError:
            if not flight.given_up:
                self._settle(request, place, Failure("timeout", "the call was given up"), None)
                raise
            waited = loop.time() - flight.call.began
            result = CallError(Failure("timeout", f"no reply within {waited:.1f} s, far longer than any other took"))
        finally:
            request.in_flight -= 1  # not in `_end_call`: the other call may end before that
        if request.done or (request.in_flight and isinstance(result, CallError)):
            return  # the other call brought the reply, or still may
        if isinstance(result, Completion):
            request.done = True
            if not request.raced:
                endpoint.races.record_success(loop.time() - flight.call.began)
        reply = self._retry_or_fail(request, result, endpoint) if isinstance(result, CallError) else result
        paid = result.failure if isinstance(result, CallError) else result
        self._settle(request, place, paid, reply)

    def _settle(
        self, request: QueuedRequest, place: int, paid: Completion | Failure, result: Completion | Failure | None
    ) -> None:
        """Pay for a call that was billed or may have been; its result counts once the ledger holds what was paid."""
        endpoint, body = self.endpoints[place], request.bodies[place]
        config, usage = endpoint.config, paid.usage
        if usage is None and config.costs and isinstance(paid, Failure) and paid.kind in _UNTOLD:
            usage = possible_usage(body)
        if isinstance(paid, Failure) and endpoint.fatal:
            paid = replace(paid, kind="unusable")  # it says nothing about the request, which is sent again later
        if usage:
            money = config.cost(usage)
            self.budget.pay(money, paid)
            entry = Entry(request.digests[place], config.model, body, paid, money, request.purpose, usage)
            self._unwritten.append((request, result, entry))
            self._write()
        elif result:
            self._results.append((request.digests[0], result))
            self._wake.set()

    def _end_call(self, task: asyncio.Task[None]) -> None:
        """Release a call, also one that was cancelled before it began; another may take its place."""
        flight = self._in_flight.pop(task)
        endpoint = self.endpoints[flight.place]
        if flight.holds_slot:
            endpoint.concurrency.release()
        self.budget.reserve(-flight.worst_case)
        if not task.cancelled() and (error := task.exception()):
            self._stop(RoleError(f"a call failed in an unknown way: {endpoint.redact(repr(error))}"))
        self._start_calls()
        if self.error:
            self._wake.set()

    def _retry_or_fail(self, request: QueuedRequest, error: CallError, endpoint: EndpointClient) -> Failure | None:
        """Try again after a backoff, in which the request holds no slot; or give it up, with the failure returned."""
        if endpoint.fatal:
            self._queue.appendleft(request)  # it is the endpoint, not the request
            return None
        retry, kind = self.retry, error.failure.kind
        limited, down = kind == "rate-limit", kind == "connection" and endpoint.breaker.half_open
        request.attempts += not (limited or down)
        request.rate_limited += limited
        if not (error.retryable and retry.allows(request.attempts, request.rate_limited)):
            return replace(error.failure, attempts=request.attempts + request.rate_limited)
        if limited:  # the rate limit of the endpoint waits; others go first where it may be this request's
            (self._queue.append if request.rate_limited > 1 else self._queue.appendleft)(request)
        else:
            backoff = retry.backoff_seconds(request.attempts, endpoint.concurrency.latency)
            due = asyncio.get_running_loop().time() + max(backoff, error.retry_after or 0.0)
            heapq.heappush(self._retries, (due, request.digests[0], request))
        return None

    def _write(self) -> None:
        """Hand replies to the writer; those that come meanwhile are written together after it."""
        if self._writing or not self._unwritten:
            return
        batch, self._unwritten, self._writing = self._unwritten, [], True
        add = self.ledger.add_beside if self.beside else self.ledger.add
        writing = asyncio.get_running_loop().run_in_executor(self.writer, add, [entry for *_, entry in batch])
        writing.add_done_callback(partial(self._end_write, batch))

    def _end_write(self, batch: Sequence[_Unwritten], writing: asyncio.Future[None]) -> None:
        self._writing = False
        if error := writing.exception():
            self._stop(error if isinstance(error, TapirError) else RoleError(f"the ledger was not written: {error!r}"))
            if not self.beside:
                self.beside, self._unwritten = True, [*batch, *self._unwritten]
        else:
            self._results += [(request.digests[0], reply) for request, reply, _ in batch if reply]
        self._write()
        self._wake.set()
