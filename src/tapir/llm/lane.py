"""One endpoint at work: a call over HTTP, what became of it, and what that means for the next ones."""

from __future__ import annotations

import asyncio
import email.utils
import io
import json
import math
import time
import urllib.parse
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import aiohttp

from tapir.domain.completion import Completion, Failure
from tapir.errors import RoleError
from tapir.llm.endpoint import Endpoint
from tapir.llm.limits import Breaker, Gate, Pace
from tapir.llm.wire import read_reply

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 507, 508, 509, 520, 521, 522, 523, 524, 529})
_FOR_ALL = frozenset({401, 402, 403, 404, 405})
_OUT_OF_MONEY = ("insufficient_quota", "billing_hard_limit_reached")
_REFUSED_AT_ONCE = 10  # requests refused as bad, none accepted: it is the recipe, not the request
_HUNG = 3.0  # times the slow calls' latency: a call that takes longer is sent again
_HUNG_AT_LEAST = 0.25  # seconds
_UNSURE = 1.5  # times that
_OVERTAKEN = 8  # later calls that were answered
_SWEEP = 0.05  # seconds between two looks at the calls that wait
_KEY = "[key]"
_SHOWN = 300  # characters of a server's message
_CONNECT = 30.0  # seconds
_LARGE = 1 << 20  # bytes from which on aiohttp wants a body in pieces
_ONLY_CONNECT = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT)
_BROKEN = frozenset({"timeout", "connection", "cut", "server", "malformed"})  # kinds that speak against the server
_FILE = 3600.0  # seconds that a file may take, up or down
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Trouble:
    """A call that brought no reply.

    Attributes:
        again: whether it may be sent again.
        wait: seconds the server asked for.
        limited: whether the server's rate limit was the reason.
    """

    failure: Failure
    again: bool
    wait: float | None = None
    limited: bool = False


@dataclass(slots=True, eq=False)
class Ticket:
    """The right to one call, and how it goes.

    Attributes:
        began: when it was given.
        place: its place among the lane's calls.
        tokens: what the call was thought to take.
        overtaken: replies of the lane in all, from which on later calls must have been answered.
        waited: seconds so far; a moment in which this process stood still is no time that the server took.
        timeouts: how often the request was given up before.
        task: what waits for the reply, once it does.
        hung: whether the call was given up.
    """

    began: float
    place: int
    tokens: int
    overtaken: int
    waited: float = 0.0
    timeouts: int = 0
    task: asyncio.Task[object] | None = None
    hung: bool = False


@dataclass(slots=True)
class Lane:
    """An endpoint with its limits as they are found while working.

    Attributes:
        fatal: why the endpoint cannot be used at all, once that is known.
        written: mean tokens of a reply so far, for the limits.
    """

    endpoint: Endpoint
    patience: float = 1.0
    gate: Gate = field(init=False)
    pace: Pace = field(init=False)
    breaker: Breaker = field(init=False)
    fatal: RoleError | None = None
    written: float = 200.0
    _refused: int = 0
    _accepted: int = 0
    _headers: Mapping[str, str] = field(init=False, repr=False)
    _spellings: tuple[str, ...] = field(init=False, repr=False)
    _session: aiohttp.ClientSession | None = None
    _waiting: set[Ticket] = field(default_factory=set)
    _swept: float = 0.0
    _sweeper: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        endpoint = self.endpoint
        self.gate = Gate(endpoint.concurrency)
        self.pace = Pace.per_minute(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self.breaker = Breaker(self.patience)
        key = endpoint.key()
        self._spellings = _spellings(key) if key else ()
        authorization = {"Authorization": f"Bearer {key}"} if key else {}
        self._headers = {"Content-Type": "application/json", **authorization}

    def start(self, session: aiohttp.ClientSession) -> None:
        """Use these connections."""
        self._session = session

    def wait(self, now: float) -> float:
        """Seconds until a call may start: 0 or less is now, infinite is not before another one ends."""
        if self.breaker.careful and self.gate.in_flight:
            return float("inf")
        return max(self.gate.wait(now), self.pace.wait(now), self.breaker.wait(now))

    def take(self, now: float, size: int) -> Ticket:
        """A call with a body of so many bytes starts; it must be released, whatever becomes of it."""
        tokens = int(size / 4 + self.written)
        overtaken = self._accepted + self.gate.in_flight + _OVERTAKEN
        self.gate.take(now)
        return Ticket(now, self.pace.sent(now, tokens), tokens, overtaken)

    def release(self) -> None:
        """A call ended."""
        self.gate.release()

    def patience_for(self, ticket: Ticket) -> float:
        """Seconds a call may take: far longer than the slow ones took.

        More where no call that was sent later has been answered, for then all of them may be slow, and after
        every timeout of this request but the first.
        """
        unsure = 1.0 if self._accepted >= ticket.overtaken else _UNSURE
        learnt = unsure * max(_HUNG_AT_LEAST, _HUNG * self.gate.slow) * 2.0 ** max(0, ticket.timeouts - 1)
        return min(self.endpoint.timeout, learnt)

    def scrubbed(self, text: str) -> str:
        """A server's words without the key, should it repeat it."""
        for spelling in self._spellings:
            text = text.replace(spelling, _KEY)
        return text[:_SHOWN]

    def cleaned(self, content: bytes) -> bytes:
        """What a server sent without the key, should it repeat it."""
        for spelling in self._spellings:
            content = content.replace(spelling.encode(), _KEY.encode())
        return content

    async def call(self, ticket: Ticket, sent: bytes, timeouts: int) -> Completion | Trouble:
        """Send one request, which met so many timeouts before, and wait for what becomes of it."""
        ticket.task, ticket.timeouts = asyncio.current_task(), timeouts
        self._waiting.add(ticket)
        if self._sweeper is None:
            self._swept = ticket.began
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)
        try:
            outcome = await self._post("/chat/completions", sent)
        except asyncio.CancelledError:
            if not ticket.hung or ticket.task is None:
                raise
            ticket.task.uncancel()
            outcome = Trouble(Failure("timeout", f"no answer within {ticket.waited:.1f} s"), again=True)
        finally:
            self._waiting.discard(ticket)
        now = asyncio.get_running_loop().time()
        if isinstance(outcome, Completion):
            self._worked(outcome, ticket, now)
        else:
            self._failed(outcome, ticket, hash(sent), now)
        return outcome

    def _sweep(self) -> None:
        """Give up the calls that hang."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        passed, self._swept = min(now - self._swept, 2 * _SWEEP), now
        for ticket in self._waiting:
            ticket.waited += passed
            if ticket.waited > self.patience_for(ticket) and ticket.task and not ticket.hung:
                ticket.hung = True
                ticket.task.cancel()
        self._sweeper = loop.call_later(_SWEEP, self._sweep) if self._waiting else None

    def _worked(self, completion: Completion, ticket: Ticket, now: float) -> None:
        usage = completion.usage
        self._accepted += 1
        self.breaker.answered(ticket.began)
        self.gate.answered(now - ticket.began)
        self.pace.accepted(ticket.place)
        self.pace.correct(usage.prompt_tokens + usage.completion_tokens - ticket.tokens)
        self.written += (usage.completion_tokens - self.written) / min(self._accepted, 100)

    def _failed(self, trouble: Trouble, ticket: Ticket, request: int, now: float) -> None:
        kind = trouble.failure.kind
        if trouble.limited:
            self.pace.limited(now, ticket.place, trouble.wait)
            self.gate.shrink(now)
            return
        self.pace.accepted(ticket.place)
        if kind == "timeout":
            self.gate.timed_out(now, ticket.waited, overtaken=self._accepted >= ticket.overtaken)
        if trouble.wait is not None:
            self.pace.paused_until = max(self.pace.paused_until, now + trouble.wait)
        if kind in _BROKEN:
            self.breaker.failed(now, ticket.began, request, unreachable=kind == "connection")
        else:
            self.breaker.answered(ticket.began)
        if self.breaker.dead and self.fatal is None:
            self.fatal = RoleError(
                f"endpoints.{self.endpoint.name}: {self.endpoint.base_url} failed {self.breaker.failures} times in a"
                f" row, last: {trouble.failure.message}",
                remedy="See that the server runs and its address is right; then the same command goes on.",
            )

    async def _post(self, path: str, sent: bytes) -> Completion | Trouble:
        assert self._session is not None  # noqa: S101 (started by the engine)
        try:
            async with self._session.post(
                self.endpoint.base_url + path,
                data=sent if len(sent) < _LARGE else io.BytesIO(sent),
                headers=self._headers,
                timeout=_ONLY_CONNECT,
                allow_redirects=False,
            ) as response:
                content = self.cleaned(await response.read())
                return self._read(response.status, response.headers, content, sent)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError) as error:
            return Trouble(Failure("cut", f"the connection was cut: {self.scrubbed(str(error))}"), again=True)
        except aiohttp.InvalidURL as error:
            self.fatal = self.fatal or self._unusable(f"not an address: {self.scrubbed(str(error))}")
            return Trouble(Failure("connection", "not an address"), again=False)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            message = self.scrubbed(str(error)) or type(error).__name__
            return Trouble(Failure("connection", message), again=True)

    def _read(self, status: int, headers: Mapping[str, str], content: bytes, sent: bytes) -> Completion | Trouble:
        if status == HTTPStatus.OK:
            reply = read_reply(content, sent)
            if isinstance(reply, Completion):
                self._refused = 0
                return reply
            return Trouble(reply, again=reply.kind == "malformed")
        message = f"HTTP {status}: {self.scrubbed(_message(content))}"
        if status in _FOR_ALL or any(sign.encode() in content for sign in _OUT_OF_MONEY):
            self.fatal = self.fatal or self._unusable(message)
            return Trouble(Failure("refused", message), again=False)
        if status in _AGAIN:
            kind = "rate-limit" if status == HTTPStatus.TOO_MANY_REQUESTS else "server"
            wait = _retry_after(headers)
            return Trouble(Failure(kind, message), again=True, wait=wait, limited=kind == "rate-limit")
        self._refused += 1
        if self._refused >= _REFUSED_AT_ONCE and not self._accepted:
            self.fatal = self.fatal or self._unusable(f"refused the first {self._refused} requests, last: {message}")
        return Trouble(Failure("bad-request", message), again=False)

    def _unusable(self, message: str) -> RoleError:
        key = self.endpoint.key_name
        return RoleError(
            f"endpoints.{self.endpoint.name}: {self.endpoint.base_url} cannot be used for model"
            f" {self.endpoint.model!r}: {message}",
            remedy=("Check " + (f"the key in {key}, " if key else "") + "the model's name, base_url and extra fields;")
            + " then the same command goes on.",
        )

    async def ask(
        self,
        method: str,
        path: str,
        sent: bytes | AsyncIterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        into: Callable[[bytes], object] | None = None,
    ) -> bytes | Trouble:
        """Send any request but a chat completion; the answer goes to `into` piece by piece where that is given.

        Args:
            method: "GET" or "POST".
            path: behind the base URL.
            sent: the body, or its pieces; then `headers` tell its length.
            headers: beside those of every request.
            into: takes the body of an answer with status 200.

        Raises:
            RoleError: the endpoint cannot be used at all.
        """
        assert self._session is not None  # noqa: S101 (started by the engine)
        patience = self.endpoint.timeout if into is None and isinstance(sent, bytes | None) else _FILE
        try:
            async with self._session.request(
                method,
                self.endpoint.base_url + path,
                data=sent,
                headers={**self._headers, **(headers or {})},
                timeout=aiohttp.ClientTimeout(total=patience, sock_connect=_CONNECT),
                allow_redirects=method == "GET",
            ) as response:
                if response.status == HTTPStatus.OK and into:
                    async for piece in response.content.iter_chunked(_PIECE):
                        into(piece)
                    return b""
                content = self.cleaned(await response.read())
        except TimeoutError:
            return Trouble(Failure("timeout", f"no answer within {patience:.0f} s"), again=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Trouble(Failure("connection", self.scrubbed(str(error)) or type(error).__name__), again=True)
        status = response.status
        if status in {HTTPStatus.OK, HTTPStatus.CREATED}:
            return content
        message = f"HTTP {status}: {self.scrubbed(_message(content))}"
        missing = status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
        if (status in _FOR_ALL and not missing) or any(sign.encode() in content for sign in _OUT_OF_MONEY):
            raise self._unusable(message)
        limited = status == HTTPStatus.TOO_MANY_REQUESTS
        kind = "missing" if missing else "rate-limit" if limited else "server" if status in _AGAIN else "bad-request"
        return Trouble(Failure(kind, message), status in _AGAIN, _retry_after(response.headers), limited)

    async def models(self) -> list[str] | None:
        """Names of the models the server offers; None where it does not tell. Costs nothing.

        Raises:
            RoleError: it cannot be reached, or refuses the key.
        """
        assert self._session is not None  # noqa: S101 (started by the engine)
        timeout = aiohttp.ClientTimeout(total=_CONNECT)
        try:
            async with self._session.get(
                self.endpoint.base_url + "/models", headers=self._headers, timeout=timeout
            ) as response:
                content = self.cleaned(await response.read())
        except (aiohttp.ClientError, OSError, ValueError) as error:
            said = self.scrubbed(str(error)) or type(error).__name__
            raise RoleError(
                f"endpoints.{self.endpoint.name}: {self.endpoint.base_url} cannot be reached: {said}",
                remedy="Is the server running, and is base_url its address? Then the same command goes on.",
            ) from None
        if response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise self._unusable(f"HTTP {response.status}: {self.scrubbed(_message(content))}")
        try:
            return [str(one["id"]) for one in json.loads(content)["data"]]
        except (ValueError, LookupError, TypeError):
            return None


def _spellings(key: str) -> tuple[str, ...]:
    """A key as it is, and as JSON or an address may write it."""
    return tuple(dict.fromkeys((key, json.dumps(key)[1:-1], key.replace("/", r"\/"), urllib.parse.quote(key, safe=""))))


def _message(content: bytes) -> str:
    """What a server says went wrong."""
    try:
        error = json.loads(content)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError):
        return content[:_SHOWN].decode(errors="replace")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait: a number, milliseconds, or a date, by the server's own clock if it tells it."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        until = email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp()
        now = email.utils.parsedate_to_datetime(headers["date"]).timestamp() if "date" in headers else time.time()
    except (KeyError, ValueError):
        return None
    return max(0.0, until - now)
