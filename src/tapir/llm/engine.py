"""The call engine: requests in, completions or failures out, in any order, each reply paid for once."""

from __future__ import annotations

import asyncio
import difflib
import threading
import urllib.request
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from tapir.domain.completion import Completion, Failure
from tapir.errors import RoleError
from tapir.llm.account import Account
from tapir.llm.endpoint import Endpoint
from tapir.llm.flow import Desk, Flow, Job
from tapir.llm.lane import Lane
from tapir.llm.ledger import Ledger, Purpose
from tapir.llm.wire import Request, body, digest

KeyT = TypeVar("KeyT")
ResultT = TypeVar("ResultT")
Reply = Completion | Failure

_AHEAD = 2  # requests made ready for each call in flight
_AT_LEAST = 64  # requests made ready, however few calls are in flight
_NAMED = 8  # models of a server that an error names, the nearest first
_KEEP_ALIVE = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class Settings:
    """How an engine works, apart from its endpoints.

    Attributes:
        ledger: the file replies are kept in.
        run: who pays, as it is written in the ledger.
        max_cost: money the run may spend in all; 0 is no limit.
        attempts: how often a call is tried.
        patience: multiplies every pause between attempts; tests are impatient.
    """

    ledger: Path
    run: str = ""
    max_cost: float = 0.0
    attempts: int = 6
    patience: float = 1.0


class Engine:
    """Calls to all endpoints of a run, from a thread of its own, so that it also works where a loop runs already."""

    def __init__(self, endpoints: Iterable[Endpoint], settings: Settings, stopping: Callable[[], bool]) -> None:
        """Open the ledger and be ready to call; `stopping` is asked before every call.

        Raises:
            RoleError: a key is not in the environment.
            StoreError: the ledger cannot be used.
        """
        self._settings = settings
        self._lanes = {one.name: Lane(one, settings.patience) for one in endpoints}
        self._lookup = Ledger(settings.ledger)
        account = Account(settings.max_cost, sum(one.cost for one in self._lookup.spent(settings.run)))
        self._writer = ThreadPoolExecutor(1, "tapir-ledger")
        self._desk = Desk(
            Ledger(settings.ledger), account, self._writer, stopping, settings.attempts, settings.patience
        )
        self._stage = (0, "")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tapir-calls", daemon=True)
        self._thread.start()
        self._session = self.wait_for(self._connected())

    @property
    def account(self) -> Account:
        """What was spent so far."""
        return self._desk.account

    @property
    def ledger(self) -> Ledger:
        """The ledger, for the thread that made the engine."""
        return self._lookup

    @property
    def stopping(self) -> bool:
        """Whether the user wants to stop."""
        return self._desk.stopping()

    @property
    def run(self) -> str:
        """Who pays."""
        return self._settings.run

    def lane(self, name: str) -> Lane:
        """An endpoint at work."""
        return self._lanes[name]

    def purpose(self, task: str) -> Purpose:
        """What a call made now is for."""
        return Purpose(self._settings.run, *self._stage, task)

    def enter(self, number: int, stage: str) -> None:
        """From now on calls are made for this round and stage."""
        self._stage = (number, stage)

    def stream(
        self, endpoints: Sequence[str], requests: Iterable[tuple[KeyT, Request]]
    ) -> Iterator[tuple[KeyT, Reply]]:
        """Replies to requests, in the order they come.

        Requests are taken from the iterable as there is room, so that any number of them takes little memory.
        What the ledger holds comes from there. Equal requests in flight are sent once.

        Args:
            endpoints: names of the endpoints that share the work.
            requests: (key, request); the key comes back with the reply.

        Raises:
            Interrupted: the user stopped, or the money is spent; every reply that came was given before.
            RoleError: no endpoint works.
        """
        lanes = [self._lanes[name] for name in endpoints]
        for lane in lanes:
            lane.gate.forget()
        flow = Flow(lanes, self._desk)
        source = iter(requests)
        waiting: dict[int, list[KeyT]] = {}
        numbers: dict[bytes, int] = {}
        digests: dict[int, bytes] = {}
        count, exhausted = 0, False
        try:
            while waiting or not exhausted:
                room = max(_AT_LEAST, *(int(_AHEAD * lane.gate.limit) for lane in lanes)) - len(waiting)
                fresh = list(islice(source, room)) if room > 0 and not exhausted else []
                exhausted = exhausted or (room > 0 and len(fresh) < room)
                jobs = []
                for key, job in self._prepared(lanes, fresh, count):
                    count += 1
                    if isinstance(job, Completion):
                        yield key, job
                    elif (number := numbers.get(job.digests[0])) is not None:
                        waiting[number].append(key)
                    else:
                        numbers[job.digests[0]] = job.number
                        digests[job.number] = job.digests[0]
                        waiting[job.number] = [key]
                        jobs.append(job)
                if not waiting:
                    continue
                for number, reply in self.wait_for(flow.turn(jobs)):
                    del numbers[digests.pop(number)]
                    for key in waiting.pop(number):
                        yield key, reply
        finally:
            self.wait_for(flow.close())

    def _prepared(
        self, lanes: Sequence[Lane], fresh: Sequence[tuple[KeyT, Request]], first: int
    ) -> Iterator[tuple[KeyT, Job | Completion]]:
        """Each request as a job, or as the reply that the ledger holds."""
        jobs = []
        for number, (_, request) in enumerate(fresh, start=first):
            sent = [body(lane.endpoint, request) for lane in lanes]
            known = [digest(one, request.sample) for one in sent]
            jobs.append(Job(number, sent, known, request.sampling.max_tokens, self.purpose(request.task)))
        found = self._lookup.find([one for job in jobs for one in dict.fromkeys(job.digests)])
        for (key, _), job in zip(fresh, jobs, strict=True):
            reply = next((found[one] for one in job.digests if one in found), None)
            self._desk.account.reused += reply is not None
            yield key, reply or job

    def reachable(self, names: Sequence[str]) -> None:
        """See that endpoints answer, take the key and have the model; nothing is spent.

        Raises:
            RoleError: one does not; the message says which and why.
        """
        for name in names:
            lane = self._lanes[name]
            offered = self.wait_for(lane.models())
            if offered and lane.endpoint.model not in offered:
                near = difflib.get_close_matches(lane.endpoint.model, offered, n=_NAMED, cutoff=0.0)
                some = ", ".join(near) + (", ..." if len(offered) > len(near) else "")
                raise RoleError(
                    f"endpoints.{name}: {lane.endpoint.base_url} has no model {lane.endpoint.model!r}; it has {some}",
                    remedy="Mend endpoints." + name + ".model.",
                )

    def close(self) -> None:
        """End the connections, the thread and the ledger; what is in flight is given up."""
        if self._loop.is_closed():
            return
        self.wait_for(self._session.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._writer.shutdown()
        self._desk.ledger.close()
        self._lookup.close()

    def wait_for(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Have some work done in the engine's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _connected(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE)
        session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=bool(urllib.request.getproxies())
        )
        for lane in self._lanes.values():
            lane.start(session)
        return session
