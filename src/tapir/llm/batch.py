"""A provider's batch interface as a transport: submit, stop, collect later, at a lower price.

What was handed in is written in the ledger at once, so that it is never handed in again. Between the two a process
may be killed; therefore every batch carries a mark made from its content, and is looked for before it is begun.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from http import HTTPStatus
from itertools import islice
from typing import Any, Generic, TypeVar

from tapir.domain.completion import Completion, Failure
from tapir.errors import CostLimit, Interrupted, RoleError, Waiting
from tapir.llm.batch_api import Batch, BatchApi
from tapir.llm.engine import Engine
from tapir.llm.ledger import Entry
from tapir.llm.spool import Place, Spool, portions
from tapir.llm.wire import Request, body, digest, read_reply

KeyT = TypeVar("KeyT")
Reply = Completion | Failure

PAUSES = (0.5, 1.0, 2.0, 3.0, 3.5)
"""Seconds between looks at the batches, before the run ends for now."""

_GROUP = 256  # requests or replies in one question to the ledger, or one transaction
_ATTEMPTS = 3  # batches that a request may be in
_REFUSED_AT_ONCE = 10  # requests of a batch refused as bad, none accepted: it is the recipe, not the request
_LATER = frozenset({408, 409, 425, 429})  # with 500 and more: not the fault of the request
_NAMED = 5  # batches that a message names


def batched(
    engine: Engine, endpoint: str, requests: Iterable[tuple[KeyT, Request]], pauses: Sequence[float] = PAUSES
) -> Iterator[tuple[KeyT, Reply]]:
    """Replies from the ledger and from batches, in the order they come; what is in no batch yet is handed in.

    All requests are taken before the first batch is begun; they wait on disk.

    Args:
        engine: the calls of the run.
        endpoint: name of the one endpoint that does the work.
        requests: (key, request); the key comes back with the reply.
        pauses: seconds before each further look at batches that are not complete.

    Raises:
        Waiting: batches are not complete; the same requests later find them. Every reply that came was given before.
        CostLimit: the batch might pass the money the run may spend; it was not handed in.
        Interrupted: the user stopped.
        RoleError: a batch brought nothing, or the server takes none.
        StoreError: the disk is full or the ledger cannot be used.
    """
    errand: _Errand[KeyT] = _Errand(engine, endpoint)
    try:
        yield from errand.take(requests)
        errand.recall()
        for pause in (*pauses, None):
            yield from errand.collect()
            if not errand.owed:
                return
            errand.submit()
            if pause is None:
                raise errand.waiting()
            errand.api.pause(pause)
    finally:
        errand.close()


@dataclass(slots=True)
class _Owed(Generic[KeyT]):
    """A request without a reply.

    Attributes:
        worst: the most it can cost.
        attempt: how many batches it has been in, the present or next one counted.
        batch: where it is now; empty where it is not handed in.
    """

    keys: list[KeyT]
    place: Place
    worst: float
    task: str
    attempt: int = 1
    batch: str = ""


@dataclass(slots=True)
class _Haul:
    """What one batch brought.

    Attributes:
        owed: what is still missing from it.
        came: replies, those to requests of others among them.
        refused: requests that were bad.
    """

    batch: Batch
    owed: set[bytes]
    failures: dict[bytes, Failure] = field(default_factory=dict)
    again: set[bytes] = field(default_factory=set)
    came: int = 0
    refused: int = 0


class _Errand(Generic[KeyT]):
    """Everything one stream of requests needs until it is answered or waits."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._lane = engine.lane(name)
        self._endpoint = replace(self._lane.endpoint, batch=True)
        self._spool = Spool(engine.ledger.path.parent)
        self.api = BatchApi(engine, self._lane, self._spool)
        self.owed: dict[bytes, _Owed[KeyT]] = {}
        self._open: dict[str, set[bytes]] = {}
        self._seen: dict[str, Batch] = {}
        self._reserved = 0.0

    def take(self, requests: Iterable[tuple[KeyT, Request]]) -> Iterator[tuple[KeyT, Reply]]:
        """Give what the ledger holds, keep the rest on disk."""
        ledger, account = self._engine.ledger, self._engine.account
        source = iter(requests)
        while group := list(islice(source, _GROUP)):
            if self._engine.stopping:
                raise Interrupted("stopped; everything finished is on disk")
            sent = [body(self._endpoint, request) for _, request in group]
            known = [digest(one, request.sample) for one, (_, request) in zip(sent, group, strict=True)]
            found = ledger.find(list(dict.fromkeys(known)))
            for (key, request), one, name in zip(group, sent, known, strict=True):
                if name in found:
                    account.reused += 1
                    yield key, found[name]
                elif name in self.owed:
                    self.owed[name].keys.append(key)
                else:
                    worst = account.worst(self._endpoint, one, request.sampling.max_tokens)
                    self.owed[name] = _Owed([key], self._spool.add(one), worst, request.task)

    def recall(self) -> None:
        """Find what was handed in before; of several batches with a request the latest one counts."""
        for batch, inside in self._engine.ledger.batches(self._endpoint.base_url).items():
            for name in inside & self.owed.keys():
                self.owed[name].batch = batch
        for name, one in self.owed.items():
            if one.batch:
                self._open.setdefault(one.batch, set()).add(name)
                self._reserve(one.worst)

    def collect(self) -> Iterator[tuple[KeyT, Reply]]:
        """Look at every open batch once and give what the complete ones brought.

        Raises:
            RoleError: one brought nothing; the others were collected before.
        """
        trouble: RoleError | None = None
        for name in list(self._open):
            self._seen[name] = batch = self.api.look(name)
            if batch.ended:
                found = yield from self._settled(batch)
                trouble = trouble or found
        if trouble:
            raise trouble

    def submit(self) -> None:
        """Hand in what is in no batch.

        Raises:
            CostLimit: it might cost more than is left, and nothing is under way that might cost less than feared.
        """
        fresh = sorted((one.attempt, name) for name, one in self.owed.items() if not one.batch)
        if not fresh:
            return
        worst = sum(self.owed[name].worst for _, name in fresh)
        account = self._engine.account
        if not account.allows(worst):
            if self._open:
                return
            raise CostLimit(
                f"calls.max_cost = {account.most:g} would be passed: {account.spent:.4f} is spent and the next batch of"
                f" {len(fresh):,} requests may cost {worst:.4f}; everything finished is on disk",
                remedy="Raise it: the same command with --set calls.max_cost=... goes on.",
            )
        for attempt in range(1, _ATTEMPTS + 1):
            names = [name for turn, name in fresh if turn == attempt]
            for portion in portions((name, self.owed[name].place) for name in names):
                self._submit(portion, attempt)

    def _submit(self, portion: Sequence[tuple[bytes, Place]], attempt: int) -> None:
        ledger, url = self._engine.ledger, self._endpoint.base_url
        names = [name for name, _ in portion]
        # The run is part of the mark: another run with a ledger of its own wants replies of its own.
        mark = blake2b(f"{self._engine.purpose('').run} {attempt} ".encode(), digest_size=16)
        for name in names:
            mark.update(name)
        batch = self.api.begin(portion, mark.hexdigest(), attempt, ledger.settled(url))
        ledger.open_batch(batch.id, url, names)
        self._seen[batch.id] = batch
        self._open[batch.id] = set(names)
        for name in names:
            self.owed[name].batch = batch.id
            self._reserve(self.owed[name].worst)

    def waiting(self) -> Waiting:
        """Why the run ends for now."""
        counts = Counter(one.batch for one in self.owed.values())
        idle = counts.pop("", 0)
        told = [f"{name} ({_progress(self._seen[name])})" for name in islice(counts, _NAMED)]
        more = f" and {len(counts) - _NAMED:,} more" if len(counts) > _NAMED else ""
        rest = f"; not handed in yet, as they might pass calls.max_cost: {idle:,}" if idle else ""
        return Waiting(
            f"batches at {self._endpoint.base_url} are not complete: {', '.join(told)}{more};"
            f" requests in them: {counts.total():,}{rest}",
            remedy="Come back later: the same command collects them.",
        )

    def close(self) -> None:
        """Let go of the disk and of the money set aside."""
        self._reserve(-self._reserved)
        self._spool.close()

    def _reserve(self, money: float) -> None:
        account = self._engine.account
        self._reserved += money
        account.reserved = max(0.0, account.reserved + money)

    def _settled(self, batch: Batch) -> Generator[tuple[KeyT, Reply], None, RoleError | None]:
        """Give what a batch brought, close it, and owe the rest again; returns why it brought nothing."""
        haul = _Haul(batch, self._open.pop(batch.id))
        for file in batch.files:
            with self.api.lines(file) as lines:
                while group := list(islice(lines, _GROUP)):
                    yield from self._kept(haul, group)
        ledger = self._engine.ledger
        missing = haul.owed | haul.failures.keys()
        # Where requests of another run are in it too, that run still has to collect them.
        if not haul.came or ledger.unanswered(batch.id) <= len(missing):
            ledger.close_batch(batch.id, "collected" if batch.status == "completed" else "failed")
        for name in missing:
            self._reserve(-self.owed[name].worst)
        trouble = self._fruitless(haul)
        if trouble is None:
            for name in sorted(missing):
                yield from self._returned(haul, name)
        return trouble

    def _kept(self, haul: _Haul, lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[KeyT, Reply]]:
        """Write the replies of some lines down, then give them."""
        entries = []
        for line in lines:
            name, status = _name(line), _status(line)
            haul.came += status == HTTPStatus.OK
            if name not in haul.owed:
                continue
            haul.owed.discard(name)
            one = self.owed[name]
            sent = self._spool.body(one.place)
            reply = _reply(line, sent)
            if isinstance(reply, Completion):
                purpose, cost = self._engine.purpose(one.task), self._endpoint.cost(reply.usage)
                entries.append(Entry(name, self._endpoint.model, sent, reply, cost, purpose))
                continue
            haul.failures[name] = replace(reply, message=self._lane.scrubbed(reply.message))
            bad = reply.kind in {"bad-request", "refused"}
            haul.refused += reply.kind == "bad-request"
            if not bad:
                haul.again.add(name)
        self._engine.ledger.add(entries)
        for entry in entries:
            self._engine.account.paid(entry.cost, entry.completion.usage)
            one = self.owed.pop(entry.digest)
            self._reserve(-one.worst)
            for key in one.keys:
                yield key, entry.completion

    def _returned(self, haul: _Haul, name: bytes) -> Iterator[tuple[KeyT, Reply]]:
        """Owe a request again, or give it up."""
        one = self.owed[name]
        attempt = max(one.attempt, haul.batch.attempt)
        failure = haul.failures.get(name, Failure("missing", f"batch {haul.batch.id} has no line for it"))
        if attempt < _ATTEMPTS and (name in haul.again or name in haul.owed):
            one.attempt, one.batch = attempt + 1, ""
            return
        del self.owed[name]
        for key in one.keys:
            yield key, replace(failure, attempts=attempt)

    def _fruitless(self, haul: _Haul) -> RoleError | None:
        """Why all of a batch failed, where that is not the fault of single requests."""
        batch = haul.batch
        if haul.came:
            return None
        if batch.status != "completed" or not haul.failures:
            said = batch.said or next((one.message for one in haul.failures.values()), "its files are empty or gone")
        elif haul.refused >= _REFUSED_AT_ONCE:
            said = next(one.message for one in haul.failures.values() if one.kind == "bad-request")
        else:
            return None
        return RoleError(
            f"endpoints.{self._endpoint.name}: batch {batch.id} at {self._endpoint.base_url} ({batch.status}) brought"
            f" nothing: {self._lane.scrubbed(said)}",
            remedy="Once that is mended, the same command hands its requests in again.",
        )


def _progress(batch: Batch) -> str:
    return f"{batch.status}, {batch.done:,} of {batch.total:,} done" if batch.total else batch.status


def _name(line: Mapping[str, Any]) -> bytes:
    """The digest a line is about; empty where it is about none."""
    try:
        return bytes.fromhex(line["custom_id"])
    except (LookupError, TypeError, ValueError):
        return b""


def _status(line: Mapping[str, Any]) -> int:
    """What a request got; 0 where it got nothing."""
    try:
        return int(line["response"]["status_code"])
    except (LookupError, TypeError, ValueError):
        return 0


def _reply(line: Mapping[str, Any], sent: bytes) -> Reply:
    """What a line of an output or error file says about a request."""
    status = _status(line)
    content = line["response"].get("body") if status else line.get("error")
    if status == HTTPStatus.OK:
        return read_reply(json.dumps(content).encode(), sent)
    inner = content.get("error", content) if isinstance(content, Mapping) else content
    message = str(inner.get("message", inner) if isinstance(inner, Mapping) else inner)
    if not status:
        return Failure("server", message)
    bad = status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _LATER
    kind = "bad-request" if bad else "rate-limit" if status == HTTPStatus.TOO_MANY_REQUESTS else "server"
    return Failure(kind, f"HTTP {status}: {message}")
