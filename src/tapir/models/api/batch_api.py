"""Batch API of an OpenAI-compatible server: upload files, create and poll batches, download files."""

from __future__ import annotations

import asyncio
import json
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from tapir.data.files import disk_errors
from tapir.domain.errors import Interrupted, RoleError
from tapir.models.api.client import ApiClient
from tapir.models.api.connection import CallError, EndpointClient
from tapir.models.api.protocol import json_or_none

ResultT = TypeVar("ResultT")

CHAT = "/v1/chat/completions"  # the protocol wants this path, wherever the server itself is
_ATTEMPTS = 6
_POLL = 0.1  # seconds between two looks at whether the user wants to stop
_PAGES = 20  # of a hundred batches each, newest first, that are searched for one of ours
_ENDED = frozenset({"completed", "failed", "expired", "cancelled", "unknown"})
_WORDS = {**dict.fromkeys(("succeeded", "success", "done", "ended"), "completed"), "canceled": "cancelled"}
_QUEUE_FULL = "token_limit_exceeded"  # code of an error
_MARK, _ATTEMPT = "tapir", "attempt"
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
_quote = partial(quote, safe="")
_LINE = b'{"custom_id":"%s","method":"POST","url":"' + CHAT.encode() + b'","body":%s}\n'
# Some readers of lines take these for line breaks; in JSON they only stand inside of strings.
_BREAKS = tuple((sign.encode(), b"\\u%04x" % ord(sign)) for sign in "\x85\u2028\u2029")


def escape_line_breaks(body: bytes) -> bytes:
    """Return a JSON body that no reader of lines splits."""
    for plain, escaped in _BREAKS:
        body = body.replace(plain, escaped)
    return body


def line_length(digest: bytes, length: int) -> int:
    """Return the bytes of the line of a request whose body has so many."""
    return len(_LINE % (b"", b"")) + 2 * len(digest) + length


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the server describes it; `done` of `total` requests are processed."""

    id: str
    status: str
    done: int = 0
    total: int = 0
    files: tuple[str, ...] = ()  # ids of the output file and the error file, as far as there are any
    error: str = ""  # what went wrong with the batch itself, in the server's words
    mark: str = ""  # what it was marked with when it was created
    queue_full: bool = False  # it failed because the provider queues no more tokens
    has_output: bool = False
    attempt: int = 1  # 1 where its requests were submitted for the first time

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status in _ENDED

    @property
    def progress(self) -> str:
        """Status and counts, e.g. "in_progress, 3 of 10 done"."""
        return f"{self.status}, {self.done:,} of {self.total:,} done" if self.total else self.status

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Batch:
        """Read the server's JSON; it is no batch where this raises an error of `_UNREADABLE`."""
        counts, marks = content.get("request_counts") or {}, content.get("metadata") or {}
        errors = (content.get("errors") or {}).get("data") or []
        files = [content.get(name) for name in ("output_file_id", "error_file_id")]
        attempt = str(marks.get(_ATTEMPT, ""))
        return cls(
            str(content["id"]),
            _WORDS.get(status := str(content["status"]).lower(), status),
            int(counts.get("completed") or 0) + int(counts.get("failed") or 0),
            int(counts.get("total") or 0),
            tuple(str(file) for file in files if file),
            "; ".join(dict.fromkeys(str(error.get("message") or error.get("code")) for error in errors)),
            str(marks.get(_MARK, "")),
            any(error.get("code") == _QUEUE_FULL for error in errors),
            bool(files[0]),
            int(attempt) if attempt.isdecimal() else 1,
        )


class BatchApi:
    """Batches of one endpoint, for the thread that uses the client. Every wait ends at once when the user stops."""

    def __init__(self, client: ApiClient, endpoint: EndpointClient, body: Callable[[bytes], bytes]) -> None:
        """Use this connection; `body` returns the body of a request by its digest."""
        self._client, self._endpoint, self._body = client, endpoint, body

    def pause(self, seconds: float) -> None:
        """Wait."""
        self._wait(asyncio.sleep(seconds * self._endpoint.pause_factor))

    def create(self, requests: Sequence[tuple[bytes, int]], mark: str, attempt: int, known: Collection[str]) -> Batch:
        """Submit (digest, length of the body), or find the batch with this mark already that is not yet `known`."""
        return self._wait(self._create(requests, {_MARK: mark, _ATTEMPT: str(attempt)}, known))

    def find(self, mark: str, known: Collection[str]) -> Sequence[Batch]:
        """Return the batches with this mark that are not yet `known` and have brought something, or still may."""
        return self._wait(self._list(mark, known)) or ()

    def get(self, batch: str) -> Batch:
        """Return a batch as it stands; "unknown" where the server does not know it."""
        reply = self._wait(self._with_retries(partial(self._endpoint.request, "GET", f"/batches/{_quote(batch)}")))
        if isinstance(reply, CallError) and reply.failure.kind == "not-found":
            return Batch(batch, "unknown", error=f"the server does not know it: {reply.failure.message}")
        return self._parse(reply, Batch.from_json)

    @contextmanager
    def lines(self, file: str) -> Iterator[Iterator[Mapping[str, Any]]]:
        """Read the JSON lines of a file on the server one by one, from a copy on disk; none where the file is gone."""
        folder = self._client.ledger.path.parent
        with disk_errors(folder), tempfile.TemporaryFile(dir=folder) as copy:

            def write(piece: bytes) -> None:
                with disk_errors(folder):
                    copy.write(piece)

            async def download() -> bytes | CallError:
                copy.seek(0)
                copy.truncate()
                return await self._endpoint.request("GET", f"/files/{_quote(file)}/content", into=write)

            reply = self._wait(self._with_retries(download))
            if isinstance(reply, CallError) and reply.failure.kind != "not-found":
                raise self._unusable(reply)
            copy.seek(0)
            lines = (json_or_none(self._endpoint.redact_bytes(raw)) for raw in copy)
            yield (line for line in lines if isinstance(line, dict))

    async def _create(
        self, requests: Sequence[tuple[bytes, int]], marks: dict[str, str], known: Collection[str]
    ) -> Batch:
        content: dict[str, Any] = {"endpoint": CHAT, "completion_window": "24h", "metadata": marks}
        for attempt in range(1, _ATTEMPTS + 1):
            if batches := await self._list(marks[_MARK], known):
                return batches[0]
            if attempt == 1:
                content["input_file_id"] = await self._upload(requests, f"tapir-{marks[_MARK]}.jsonl")
            reply = await self._endpoint.request("POST", "/batches", json.dumps(content).encode())
            if not isinstance(reply, CallError) or not reply.retryable:
                break
            if batches is None and reply.failure.kind != "rate-limit":
                break  # it may have been created all the same, and could not be found again
            await self._back_off(attempt, reply)
        return self._parse(reply, Batch.from_json)

    async def _list(self, mark: str, known: Collection[str]) -> list[Batch] | None:
        """Return those that `find` does, among the latest of this key; None where the server does not list them."""
        batches: list[Batch] = []
        after = ""
        for _ in range(_PAGES):
            path = f"/batches?limit=100{after}"
            reply = await self._with_retries(partial(self._endpoint.request, "GET", path))
            if isinstance(reply, CallError):
                if reply.retryable:
                    raise self._unusable(reply)
                return None
            try:
                page = json.loads(reply)
                found = [Batch.from_json(batch) for batch in page["data"]]
                usable = (batch for batch in found if batch.has_output or not batch.ended)
                batches += [batch for batch in usable if batch.mark == mark and batch.id not in known]
                if not page.get("has_more") or not page["data"]:
                    break
            except _UNREADABLE:
                return None
            after = f"&after={_quote(found[-1].id)}"
        return batches

    async def _upload(self, requests: Sequence[tuple[bytes, int]], name: str) -> str:
        """Upload requests; return the file's id. The form is streamed, with its length, which some servers want."""
        edge = f"tapir-{uuid.uuid4().hex}"
        part = f"--{edge}\r\nContent-Disposition: form-data; name="
        head = f'{part}"purpose"\r\n\r\nbatch\r\n{part}"file"; filename="{name}"\r\n'.encode()
        head += b"Content-Type: application/jsonl\r\n\r\n"
        tail = f"\r\n--{edge}--\r\n".encode()
        length = len(head) + sum(line_length(*request) for request in requests) + len(tail)
        headers = {"Content-Type": f"multipart/form-data; boundary={edge}", "Content-Length": str(length)}

        async def form() -> AsyncIterator[bytes]:
            yield head
            for digest, _ in requests:
                yield _LINE % (digest.hex().encode(), self._body(digest))
            yield tail

        reply = await self._with_retries(lambda: self._endpoint.request("POST", "/files", form(), headers))
        return self._parse(reply, lambda file: str(file["id"]))

    async def _with_retries(self, send: Callable[[], Awaitable[bytes | CallError]]) -> bytes | CallError:
        """Send a request until it brings a reply, or an error that is not to be retried."""
        for attempt in range(1, _ATTEMPTS):
            reply = await send()
            if not isinstance(reply, CallError) or not reply.retryable:
                return reply
            await self._back_off(attempt, reply)
        return await send()

    async def _back_off(self, attempt: int, error: CallError) -> None:
        await asyncio.sleep(max(self._client.retry.backoff_seconds(attempt), error.retry_after or 0.0))

    def _parse(self, reply: bytes | CallError, read: Callable[[Any], ResultT]) -> ResultT:
        if isinstance(reply, CallError):
            raise self._unusable(reply)
        try:
            return read(json.loads(reply))
        except _UNREADABLE:
            raise self._unusable(reply) from None

    def _unusable(self, reply: bytes | CallError) -> RoleError:
        """Return the error that an error, or a reply that cannot be read, ends the run with."""
        name, url = self._endpoint.name, self._endpoint.config.base_url
        remedy = "Once that is fixed the same command goes on; batches submitted before are kept."
        if isinstance(reply, bytes):
            message = f"it replied {self._endpoint.redact(reply.decode(errors='replace'))!r}"
        else:
            message = reply.failure.message
            if reply.failure.kind == "not-found":
                remedy = f"Does this server take batches? If not, set endpoints.{name}.batch = false."
        return RoleError(f"endpoints.{name}: the batch API of {url} cannot be used: {message}", remedy=remedy)

    def _wait(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        return self._client.wait_for(self._unless_stopped(work))

    async def _unless_stopped(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a coroutine; cancel it when the user stops."""
        task = asyncio.get_running_loop().create_task(work)
        try:
            while not task.done():
                if self._client.stopping():
                    raise Interrupted("stopped; batches that were submitted are collected by the same command")
                await asyncio.wait({task}, timeout=_POLL)
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
