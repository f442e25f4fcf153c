"""The batch interface of an OpenAI-compatible server: files up, batches begun and looked at, files down."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from tapir.errors import Interrupted, RoleError
from tapir.llm.engine import Engine
from tapir.llm.lane import Lane, Trouble
from tapir.llm.spool import CHAT, Place, Spool, line_length

ResultT = TypeVar("ResultT")

_ATTEMPTS = 6
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 30.0  # seconds before a request is sent again
_LOOK = 0.1  # seconds between two looks at whether the user wants to stop
_PAGES = 20  # of a hundred batches each, newest first, that are looked through for one of ours
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_MARK, _ATTEMPT = "tapir", "attempt"
_ODD = (ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the server tells of it.

    Attributes:
        done: requests worked on so far, of `total`.
        files: ids of the output file and the error file, as far as there are any.
        said: what went wrong with the batch itself, in the server's words.
        mark: what it was marked with when it was begun.
        attempt: 1 where its requests were handed in for the first time.
    """

    id: str
    status: str
    done: int = 0
    total: int = 0
    files: tuple[str, ...] = ()
    said: str = ""
    mark: str = ""
    attempt: int = 1

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status in _ENDED

    @property
    def fruitless(self) -> bool:
        """Whether it ended without anything to collect."""
        return self.ended and not self.files

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Batch:
        """From the server's JSON.

        Raises:
            ValueError, LookupError, TypeError, AttributeError: it is no batch.
        """
        counts, marks = told.get("request_counts") or {}, told.get("metadata") or {}
        errors = (told.get("errors") or {}).get("data") or []
        files = [told.get(name) for name in ("output_file_id", "error_file_id")]
        attempt = str(marks.get(_ATTEMPT, ""))
        return cls(
            str(told["id"]),
            str(told["status"]).lower(),
            int(counts.get("completed") or 0) + int(counts.get("failed") or 0),
            int(counts.get("total") or 0),
            tuple(str(one) for one in files if one),
            "; ".join(dict.fromkeys(str(one.get("message") or one.get("code")) for one in errors)),
            str(marks.get(_MARK, "")),
            int(attempt) if attempt.isdecimal() else 1,
        )


class BatchApi:
    """One endpoint's batches, for the thread that uses the engine. Every wait ends at once when the user stops."""

    def __init__(self, engine: Engine, lane: Lane, spool: Spool) -> None:
        """Speak over this lane; files come and go by way of the spool."""
        self._engine = engine
        self._lane = lane
        self._spool = spool

    def pause(self, seconds: float) -> None:
        """Wait.

        Raises:
            Interrupted: the user stopped.
        """
        self._wait(asyncio.sleep(seconds * self._lane.patience))

    def begin(self, requests: Sequence[tuple[bytes, Place]], mark: str, attempt: int, known: Collection[str]) -> Batch:
        """Hand requests in as a batch, or find the one that was begun with this mark and is not a known one.

        Raises:
            RoleError: the server has no batch interface, or does not take this batch.
        """
        return self._wait(self._begun(requests, {_MARK: mark, _ATTEMPT: str(attempt)}, known))

    def look(self, batch: str) -> Batch:
        """A batch as it stands; one that the server does not know has failed.

        Raises:
            RoleError: the server does not answer.
        """
        answer = self._wait(self._persistent(lambda: self._lane.ask("GET", f"/batches/{quote(batch, safe='')}")))
        if isinstance(answer, Trouble) and answer.failure.kind == "missing":
            return Batch(batch, "failed", said=f"the server does not know it: {answer.failure.message}")
        return self._batch(answer)

    @contextmanager
    def lines(self, file: str) -> Iterator[Iterator[Mapping[str, Any]]]:
        """The lines of a file on the server, read one by one from a copy on disk; none where it is gone.

        Raises:
            RoleError: the server does not give it.
            StoreError: the disk is full.
        """
        with self._spool.scratch() as copy:

            async def fetched() -> bytes | Trouble:
                copy.clear()
                return await self._lane.ask("GET", f"/files/{quote(file, safe='')}/content", into=copy.write)

            answer = self._wait(self._persistent(fetched))
            if isinstance(answer, Trouble) and answer.failure.kind != "missing":
                raise self._unusable(answer)
            yield _objects(self._lane.cleaned(line) for line in copy.read())

    async def _begun(
        self, requests: Sequence[tuple[bytes, Place]], marks: Mapping[str, str], known: Collection[str]
    ) -> Batch:
        asked: dict[str, Any] = {"endpoint": CHAT, "completion_window": "24h", "metadata": marks}
        for attempt in range(1, _ATTEMPTS + 1):
            listed = await self._listed()
            for one in listed or ():
                if one.mark == marks[_MARK] and one.id not in known and not one.fruitless:
                    return one
            if attempt == 1:
                asked["input_file_id"] = await self._uploaded(requests, f"tapir-{marks[_MARK]}.jsonl")
            answer = await self._lane.ask("POST", "/batches", json.dumps(asked).encode())
            if not isinstance(answer, Trouble) or not answer.again:
                break
            if listed is None and not answer.limited:
                break  # it may have been created all the same, and could not be found again
            await self._rest(attempt, answer)
        return self._batch(answer)

    async def _listed(self) -> list[Batch] | None:
        """The latest batches of this key; None where the server does not tell."""
        found: list[Batch] = []
        after = ""
        for _ in range(_PAGES):
            path = f"/batches?limit=100{after}"
            answer = await self._persistent(partial(self._lane.ask, "GET", path))
            if isinstance(answer, Trouble):
                if answer.again:
                    raise self._unusable(answer)
                return None
            try:
                page = json.loads(answer)
                found += [Batch.of(one) for one in page["data"]]
                if not page.get("has_more") or not page["data"]:
                    break
            except _ODD:
                return None
            after = f"&after={quote(found[-1].id, safe='')}"
        return found

    async def _uploaded(self, requests: Sequence[tuple[bytes, Place]], name: str) -> str:
        """The id of a new file; its form is written from the spool, with its length, which some servers insist on."""
        edge = f"tapir-{uuid.uuid4().hex}"
        part = f"--{edge}\r\nContent-Disposition: form-data; name="
        head = f'{part}"purpose"\r\n\r\nbatch\r\n{part}"file"; filename="{name}"\r\n'.encode()
        head += b"Content-Type: application/jsonl\r\n\r\n"
        tail = f"\r\n--{edge}--\r\n".encode()
        length = len(head) + sum(line_length(*one) for one in requests) + len(tail)
        headers = {"Content-Type": f"multipart/form-data; boundary={edge}", "Content-Length": str(length)}

        async def form() -> AsyncIterator[bytes]:
            yield head
            for digest, place in requests:
                yield self._spool.line(digest, place)
            yield tail

        answer = await self._persistent(lambda: self._lane.ask("POST", "/files", form(), headers))
        if isinstance(answer, Trouble):
            raise self._unusable(answer)
        try:
            return str(json.loads(answer)["id"])
        except _ODD:
            raise self._unusable(answer) from None

    async def _persistent(self, ask: Callable[[], Awaitable[bytes | Trouble]]) -> bytes | Trouble:
        """Ask until there is an answer, or trouble that stays."""
        for attempt in range(1, _ATTEMPTS):
            answer = await ask()
            if not isinstance(answer, Trouble) or not answer.again:
                return answer
            await self._rest(attempt, answer)
        return await ask()

    async def _rest(self, attempt: int, trouble: Trouble) -> None:
        delay = min(_FIRST_DELAY * 2 ** (attempt - 1), _LONGEST_DELAY) * random.uniform(0.5, 1.0)
        await asyncio.sleep(max(delay * self._lane.patience, trouble.wait or 0.0))

    def _batch(self, answer: bytes | Trouble) -> Batch:
        if isinstance(answer, Trouble):
            raise self._unusable(answer)
        try:
            return Batch.of(json.loads(answer))
        except _ODD:
            raise self._unusable(answer) from None

    def _unusable(self, answer: bytes | Trouble) -> RoleError:
        """The error for trouble, or for an answer that is none."""
        endpoint = self._lane.endpoint
        if isinstance(answer, bytes):
            message = f"it answered {self._lane.scrubbed(answer.decode(errors='replace'))!r}"
        else:
            message = answer.failure.message
        missing = isinstance(answer, Trouble) and answer.failure.kind == "missing"
        return RoleError(
            f"endpoints.{endpoint.name}: the batch interface of {endpoint.base_url} cannot be used: {message}",
            remedy=f"Does this server take batches? If not, set endpoints.{endpoint.name}.batch = false."
            if missing
            else "Once that is mended the same command goes on; batches handed in before are kept.",
        )

    def _wait(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        return self._engine.wait_for(self._watched(work))

    async def _watched(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Do some work unless the user stops."""
        task = asyncio.get_running_loop().create_task(work)
        try:
            while not task.done():
                if self._engine.stopping:
                    raise Interrupted("stopped; batches handed in are collected by the same command")
                await asyncio.wait({task}, timeout=_LOOK)
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _objects(lines: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    """The lines that are JSON objects."""
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found
