"""API client: requests in, completions or failures out, in any order; each reply is paid for once."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from tapir.config.endpoints import EndpointConfig
from tapir.domain.completion import Completion, Failure
from tapir.models.api.connection import EndpointClient
from tapir.models.api.ledger import Ledger, Purpose
from tapir.models.api.protocol import Request, body, digest
from tapir.models.api.retry import RetryPolicy
from tapir.models.api.scheduler import Budget, QueuedRequest, Scheduler

KeyT = TypeVar("KeyT")
ResultT = TypeVar("ResultT")
Reply = Completion | Failure

_AHEAD = 2  # requests prepared for each call that an endpoint may have in flight
_AT_LEAST = 64  # requests prepared, however few calls are in flight
_KEEP_ALIVE = 30.0  # seconds
_LOOK = 0.5  # seconds between two looks at what the user has to be told


class ApiClient:
    """Calls to all endpoints of a run, from a thread of its own, so that it also works where a loop runs already."""

    def __init__(
        self,
        endpoints: Mapping[str, EndpointConfig],
        ledger: Path,
        stopping: Callable[[], bool] = lambda: False,
        *,
        run: str = "",
        max_cost: float = 0.0,
        retry: RetryPolicy | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Open the ledger, in which `run` pays, and the connections; a `max_cost` of 0 is no limit.

        `note` is passed lines for the user, in the thread that takes the replies.
        """
        self.run, self.stopping, self.retry = run, stopping, retry or RetryPolicy()
        self.endpoints = {name: EndpointClient(name, each, self.retry.pause_factor) for name, each in endpoints.items()}
        self.ledger, self.writing_ledger = Ledger(ledger), Ledger(ledger)  # of the caller's thread, and the writer's
        self.writing_ledger.keep_room(run)
        spent, possible = (sum(row.cost for row in self.ledger.spent(run, possibly=each)) for each in (False, True))
        self._writer = ThreadPoolExecutor(1, "tapir-ledger")
        self.budget = Budget(max_cost, spent, possible)
        self.note, self._told = note, 0.0
        self._stage = (0, "")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tapir-calls", daemon=True)
        self._thread.start()
        self._session = self.wait_for(self._open_session())

    def purpose(self, task: str) -> Purpose:
        """Return what a call made now is for."""
        return Purpose(self.run, *self._stage, task)

    def enter(self, number: int, stage: str) -> None:
        """Record this round and stage with every call from now on."""
        self._stage = (number, stage)

    def stream(self, names: Sequence[str], requests: Iterable[tuple[KeyT, Request]]) -> Iterator[tuple[KeyT, Reply]]:
        """Yield the replies to requests, in the order they come.

        Requests are taken from the iterable as there is room, so that any number of them takes little memory.
        What the ledger holds comes from there. Equal requests in flight are sent once. The endpoints share the work.
        """
        endpoints = [self.endpoints[name] for name in names]
        for endpoint in endpoints:
            endpoint.concurrency.reset()
            endpoint.races.reset()
        scheduler = Scheduler(endpoints, self.writing_ledger, self._writer, self.budget, self.retry, self.stopping)
        source = iter(requests)
        keys: dict[bytes, list[KeyT]] = {}  # by the digest of the request they wait for
        exhausted = False
        try:
            while keys or not exhausted:
                room = max(_AT_LEAST, sum(int(_AHEAD * each.concurrency.limit) for each in endpoints)) - len(keys)
                batch = list(islice(source, room)) if room > 0 and not exhausted else []
                exhausted = exhausted or (room > 0 and len(batch) < room)
                queued = []
                for key, request in self.prepare(endpoints, batch):
                    if not isinstance(request, QueuedRequest):
                        yield key, request
                        continue
                    if request.digests[0] not in keys:
                        queued.append(request)
                    keys.setdefault(request.digests[0], []).append(key)
                if keys:
                    for name, reply in self._advance(scheduler, queued):
                        for key in keys.pop(name):
                            yield key, reply
            if scheduler.beside:  # every reply has come, and the ledger cannot be written
                self._advance(scheduler, [])
        finally:
            self.wait_for(scheduler.close())
            self._tell(endpoints)

    def _advance(self, scheduler: Scheduler, queued: Sequence[QueuedRequest]) -> list[tuple[bytes, Reply]]:
        """Wait for the next results of a stream; tell the user what it waits for."""
        waiting = asyncio.run_coroutine_threadsafe(scheduler.advance(queued), self._loop)
        while not waiting.done():
            wait([waiting], _LOOK)
            if self._loop.time() > self._told + _LOOK:
                self._tell(scheduler.endpoints)
        return waiting.result()

    def _tell(self, endpoints: Sequence[EndpointClient]) -> None:
        self._told = self._loop.time()
        for endpoint in endpoints:
            for line in endpoint.news(self._told):
                self.note(line)

    def prepare(
        self, endpoints: Sequence[EndpointClient], batch: Sequence[tuple[KeyT, Request]]
    ) -> Iterator[tuple[KeyT, QueuedRequest | Reply]]:
        """Yield each request ready to be queued, or its reply from the ledger; equal bodies are one object."""
        configs, queued = [endpoint.config for endpoint in endpoints], []
        forms = [repr(each.model_dump(exclude={*each.operational})) for each in configs]  # all that is in a body
        distinct = dict(zip(forms, configs, strict=True))
        for _, request in batch:
            made = {form: (one := body(each, request), digest(one, request.sample)) for form, each in distinct.items()}
            bodies, digests = zip(*(made[form] for form in forms), strict=True)
            purpose = self.purpose(request.task)
            thought = request.sampling.thinking_tokens
            room = request.sampling.max_tokens + thought
            queued.append(QueuedRequest(bodies, digests, room, purpose, thinks=thought > 0))
        known = self.ledger.find([name for row in queued for name in dict.fromkeys(row.digests)])
        for (key, _), row in zip(batch, queued, strict=True):
            reply = next((known[name] for name in row.digests if name in known), None)
            self.budget.reused += reply is not None
            yield key, reply or row

    def close(self) -> None:
        """End the connections, the thread and the ledger; what is in flight is cancelled."""
        if self._loop.is_closed():
            return
        self.wait_for(self._session.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._writer.shutdown()
        self.writing_ledger.close()
        self.ledger.close()

    def wait_for(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a coroutine in the client's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open_session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE)
        proxied = bool(urllib.request.getproxies())
        session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=proxied, max_field_size=1 << 17
        )
        for endpoint in self.endpoints.values():
            endpoint.session = session
        return session
