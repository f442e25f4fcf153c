"""Calls through a provider's batch API: submit, stop, collect later, at a lower price.

A batch is recorded in the ledger before it is created, by a mark made from its content, which it carries: a process
that is killed before it learns the batch's id finds it by that mark later, and no batch is submitted twice.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from http import HTTPStatus
from itertools import islice
from typing import Any, Generic, TypeVar

from tapir.data.files import disk_errors
from tapir.domain.completion import Completion, Failure
from tapir.domain.errors import Interrupted, RoleError, Waiting
from tapir.models.api.batch_api import Batch, BatchApi, escape_line_breaks, line_length
from tapir.models.api.client import ApiClient, Reply
from tapir.models.api.connection import BAD_REQUESTS, OK
from tapir.models.api.ledger import Entry
from tapir.models.api.protocol import Request, read_reply
from tapir.models.api.refusals import error_message
from tapir.models.api.retry import error_kind, is_retryable
from tapir.models.api.scheduler import QueuedRequest
from tapir.models.api.usage import possible_usage

KeyT = TypeVar("KeyT")

PAUSES = (0.5, 1.0, 2.0, 3.0, 3.5)
"""Seconds between polls of the batches, before the run ends for now."""
MOST_LINES = 50_000  # requests in one batch, as the protocol allows
MOST_BYTES = 100_000_000  # in one file, likewise

_GROUP = 256  # requests or replies in one query to the ledger, or one transaction
_ATTEMPTS = 3  # batches that a request may be in
_SHOWN = 5  # batches that a message names


def stream_batches(
    client: ApiClient, endpoint: str, requests: Iterable[tuple[KeyT, Request]], pauses: Sequence[float] = PAUSES
) -> Iterator[tuple[KeyT, Reply]]:
    """Yield replies from the ledger and from batches, in the order they come; submit what is in no batch yet.

    All requests are taken before the first batch is created; their bodies are saved on disk. Batches not complete after
    the last of the `pauses` (seconds) raise `Waiting`: the same requests find them later. Without `batch` none is made.
    """
    stream: _BatchStream[KeyT] = _BatchStream(client, endpoint)
    unfinished = stream.pending if client.endpoints[endpoint].config.batch else stream.open
    try:
        yield from stream.take(requests)
        stream.find_submitted()
        for pause in (*pauses, None):
            yield from stream.collect()
            if not unfinished:
                return
            stream.submit()
            if pause is None:
                raise stream.waiting()
            stream.api.pause(pause)
    finally:
        stream.close()


@dataclass(slots=True)
class _PendingRequest(Generic[KeyT]):
    """A request without a reply; its body is `length` bytes of the stream's file."""

    keys: list[KeyT]
    offset: int
    length: int
    worst_case: float
    task: str
    thinks: bool = False  # a second call with more room, which the first reply speaks for
    attempt: int = 1  # batches it has been in, the present or next one counted
    batch: str = ""  # where it is now; empty where it is not submitted


@dataclass(slots=True)
class _Output:
    """What one batch brought."""

    batch: Batch
    missing: set[bytes]
    unanswered: set[bytes]  # by this batch so far; requests of others too
    failures: dict[bytes, Failure] = field(default_factory=dict)
    replies: int = 0  # those to requests of others too


class _BatchStream(Generic[KeyT]):
    """One stream of requests until each has its reply or waits in a batch."""

    def __init__(self, client: ApiClient, name: str) -> None:
        self._client, self._endpoint = client, client.endpoints[name]
        self._config = self._endpoint.config
        self.api = BatchApi(client, self._endpoint, self._body)
        self.pending: dict[bytes, _PendingRequest[KeyT]] = {}
        self.open: dict[str, set[bytes]] = {}
        self._seen: dict[str, Batch] = {}
        self._reserved = 0.0
        self._most = 0  # requests of a batch, which is submitted alone; 0 where the provider queues what it is given
        self._folder = client.ledger.path.parent
        with disk_errors(self._folder):
            self._bodies = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed with the stream)

    def take(self, requests: Iterable[tuple[KeyT, Request]]) -> Iterator[tuple[KeyT, Reply]]:
        """Yield what the ledger holds; keep the rest pending."""
        budget, source = self._client.budget, iter(requests)
        while group := list(islice(source, _GROUP)):
            if self._client.stopping():
                raise Interrupted("stopped; everything finished is on disk")
            for key, request in self._client.prepare([self._endpoint], group):
                if not isinstance(request, QueuedRequest):
                    yield key, request
                elif (name := request.digests[0]) in self.pending:
                    self.pending[name].keys.append(key)
                else:
                    worst_case = budget.worst_case(self._config, request.bodies[0], request.max_tokens, batched=True)
                    place = self._save_body(escape_line_breaks(request.bodies[0]))
                    task, thinks = request.purpose.task, request.thinks
                    self.pending[name] = _PendingRequest([key], *place, worst_case, task, thinks)

    def find_submitted(self) -> None:
        """Find the batches that pending requests are in already; of several with a request the latest one counts."""
        ledger, url, run = self._client.ledger, self._config.base_url, self._client.run
        for mark, digests in ledger.open_batches(url, run, "begun").items():
            if digests & self.pending.keys() and (found := self.api.find(mark, ledger.known_batches(url))):
                ledger.name_batch(mark, found[0].id)
        for batch, digests in ledger.open_batches(url, run).items():
            for name in digests & self.pending.keys():
                self.pending[name].batch = batch
        for name, request in self.pending.items():
            if request.batch:
                self.open.setdefault(request.batch, set()).add(name)
                self._reserve(request.worst_case)

    def collect(self) -> Iterator[tuple[KeyT, Reply]]:
        """Poll every open batch once and yield what the complete ones brought; then raise for one with nothing."""
        error: RoleError | None = None
        for name in list(self.open):
            self._seen[name] = batch = self.api.get(name)
            if batch.ended:
                error = (yield from self._collect(batch)) or error
        if error:
            raise error

    def submit(self) -> None:
        """Submit what is in no batch, unless it might cost more than is left once the open batches are paid."""
        fresh = sorted((request.attempt, name) for name, request in self.pending.items() if not request.batch)
        if not fresh or not self._config.batch or (self._most and self.open):
            return
        worst_case = sum(self.pending[name].worst_case for _, name in fresh)
        budget = self._client.budget
        if not budget.allows(worst_case):
            if self.open:
                return
            raise budget.exceeded(worst_case, f"batch of {len(fresh):,} requests")
        for attempt in range(1, _ATTEMPTS + 1):
            names = [name for turn, name in fresh if turn == attempt]
            for portion in portions(((name, self.pending[name].length) for name in names), self._most):
                self._submit(portion, attempt)
                if self._most:
                    return

    def _submit(self, portion: Sequence[tuple[bytes, int]], attempt: int) -> None:
        ledger, url, run = self._client.ledger, self._config.base_url, self._client.run
        names = [name for name, _ in portion]
        # The run is part of the mark: another run with a ledger of its own wants replies of its own.
        mark = blake2b(b"".join([run.encode(), *names]), digest_size=16).hexdigest()
        ledger.open_batch(mark, url, names, run, "begun")
        batch = self.api.create(portion, mark, attempt, ledger.known_batches(url) | self._seen.keys())
        ledger.name_batch(mark, batch.id)
        self._seen[batch.id], self.open[batch.id] = batch, set(names)
        for name in names:
            self.pending[name].batch = batch.id
            self._reserve(self.pending[name].worst_case)

    def waiting(self) -> Waiting:
        """Return the error that ends the run for now."""
        counts = Counter(request.batch for request in self.pending.values())
        idle = counts.pop("", 0)
        shown = ", ".join(f"{name} ({self._seen[name].progress})" for name in islice(counts, _SHOWN))
        more = f" and {len(counts) - _SHOWN:,} more" if len(counts) > _SHOWN else ""
        why = "as the provider queues no more tokens" if self._most else "as they might pass calls.max_cost"
        rest = f"; not submitted yet, {why}: {idle:,}" if idle else ""
        message = f"are not complete: {shown}{more}; requests in them: {counts.total():,}{rest}"
        remedy = "Come back later: the same command collects them."
        remedy += " Or cancel them there: the rest is then asked for one by one." * (not self._config.batch)
        return Waiting(f"batches at {self._config.base_url} {message}", remedy=remedy)

    def close(self) -> None:
        """Release the reserved money and the saved bodies."""
        self._reserve(-self._reserved)
        with disk_errors(self._folder):
            self._bodies.close()

    def _save_body(self, content: bytes) -> tuple[int, int]:
        """Append a body to the file; return where it is and its length."""
        with disk_errors(self._folder):
            offset = self._bodies.seek(0, os.SEEK_END)
            length = self._bodies.write(content)
            self._bodies.flush()  # a full disk is found here, not while the file is sent
            return offset, length

    def _body(self, name: bytes) -> bytes:
        request = self.pending[name]
        with disk_errors(self._folder):
            self._bodies.seek(request.offset)
            return self._bodies.read(request.length)

    def _reserve(self, money: float) -> None:
        self._reserved += money
        self._client.budget.reserve(money)

    def _collect(self, batch: Batch) -> Generator[tuple[KeyT, Reply], None, RoleError | None]:
        """Yield what a batch brought, close it, and free the rest for another; return why it brought nothing."""
        ledger = self._client.ledger
        output = _Output(batch, self.open.pop(batch.id), ledger.unanswered(batch.id))
        for file in batch.files:
            with self.api.lines(file) as lines:
                while group := list(islice(lines, _GROUP)):
                    yield from self._store(output, group)
        missing = output.missing | output.failures.keys()
        if batch.queue_full:  # others may have filled it; where there are none, it was this batch alone
            self._most = len(missing) if self.open else len(missing) // 2
        # Where requests of another run are in it too, that run still has to collect them.
        if not output.replies or ledger.unanswered(batch.id) <= missing:
            ledger.close_batch(batch.id, "collected" if batch.status == "completed" else "failed")
        for name in missing:
            self._reserve(-self.pending[name].worst_case)
        error = self._empty_error(output)
        if batch.status in {"completed", "unknown"} or (batch.has_output and not output.replies):  # they may be billed
            gone = {"body": f"batch {batch.id} has no line for it"}
            yield from self._store(output, [{"custom_id": name.hex(), "response": gone} for name in output.missing])
        if error is None:
            for name in sorted(missing):
                yield from self._retry_or_fail(output, name)
        return error

    def _store(self, output: _Output, lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[KeyT, Reply]]:
        """Write the replies of some lines to the ledger, then yield them."""
        entries = []
        for line in lines:
            name, status = _read_line(line)
            output.replies += status == HTTPStatus.OK
            if name not in output.missing:
                continue
            output.missing.discard(name)
            sent = self._body(name)
            reply = _read_result(line, status, sent)
            output.replies += status != HTTPStatus.OK and isinstance(reply, Completion)
            if isinstance(reply, Failure):
                reply = output.failures[name] = replace(reply, message=self._endpoint.redact(reply.message))
            if usage := reply.usage or (possible_usage(sent) if status == HTTPStatus.OK else None):
                money, purpose = self._config.cost(usage, batched=True), self._client.purpose(self.pending[name].task)
                entries.append(Entry(name, self._config.model, sent, reply, money, purpose, usage, output.batch.id))
        self._client.ledger.add(entries)
        for entry in entries:
            if entry.digest in output.unanswered:  # it is paid for once, however often the batch is collected
                self._client.budget.pay(entry.cost, entry.reply)
            if isinstance(entry.reply, Failure):
                continue  # retried or given up with the whole batch
            request = self.pending.pop(entry.digest)
            self._reserve(-request.worst_case)
            for key in request.keys:
                yield key, entry.reply

    def _retry_or_fail(self, output: _Output, name: bytes) -> Iterator[tuple[KeyT, Reply]]:
        """Free a request for another batch, or give it up."""
        request = self.pending[name]
        attempt = max(request.attempt, output.batch.attempt)
        failure = output.failures.get(name, Failure("missing", f"batch {output.batch.id} has no line for it"))
        if output.batch.queue_full or (attempt < _ATTEMPTS and is_retryable(failure.kind)):
            request.attempt, request.batch = attempt + (not output.batch.queue_full), ""
            return
        del self.pending[name]
        for key in request.keys:
            yield key, replace(failure, attempts=attempt)

    def _empty_error(self, output: _Output) -> RoleError | None:
        """Return why all of a batch failed, where that is not the fault of single requests."""
        batch, failures = output.batch, list(output.failures.values())
        counted = [failure for name, failure in output.failures.items() if not self.pending[name].thinks]
        refused = [failure.message for failure in counted if failure.kind == "bad-request"]
        complete = batch.status == "completed" and failures
        wait = batch.queue_full and self._most
        if wait or output.replies or (complete and len(refused) < BAD_REQUESTS):
            return None
        reason = refused[0] if complete else batch.error
        reason = reason or (failures[0].message if failures else "its files are empty or gone")
        return RoleError(
            f"endpoints.{self._endpoint.name}: batch {batch.id} at {self._config.base_url} ({batch.status}) brought"
            f" nothing: {self._endpoint.redact(reason)}",
            remedy="Once that is fixed, the same command submits its requests again."
            + f" If endpoints.{self._endpoint.name}.base_url has changed, set it back first."
            * (batch.status == "unknown"),
        )


def portions(requests: Iterable[tuple[bytes, int]], most: int = 0) -> Iterator[list[tuple[bytes, int]]]:
    """Yield (digest, length of the body) in their order, as many as one batch may hold, and no more than `most`."""
    portion: list[tuple[bytes, int]] = []
    size = 0
    for name, body_length in requests:
        length = line_length(name, body_length)
        if portion and (len(portion) == (most or MOST_LINES) or size + length > MOST_BYTES):
            yield portion
            portion, size = [], 0
        portion.append((name, body_length))
        size += length
    if portion:
        yield portion


def _read_line(line: Mapping[str, Any]) -> tuple[bytes, int]:
    """Return digest and HTTP status of the request that a line is about, b"" and 0 for none."""
    name, status = b"", 0
    with suppress(LookupError, TypeError, ValueError):
        name = bytes.fromhex(line["custom_id"])
    with suppress(LookupError, TypeError, ValueError, AttributeError):
        response = line["response"]
        status = int(response.get("status_code") or HTTPStatus.OK * bool(response.get("body")))
        status = HTTPStatus.OK if status in OK else status
    return name, status


def _read_result(line: Mapping[str, Any], status: int, sent: bytes) -> Reply:
    """Return what a line of an output or error file means for a request."""
    content = json.dumps(line["response"].get("body") if status else line.get("error")).encode()
    reply = read_reply(content, sent)
    if status == HTTPStatus.OK or (status == HTTPStatus.BAD_REQUEST and isinstance(reply, Completion)):
        return reply
    said = error_message(content)
    return Failure(error_kind(status, content), f"HTTP {status}: {said}") if status else Failure("server", said)
