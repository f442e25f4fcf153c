"""One endpoint at work: a call over HTTP, what became of it, and what that means for the next ones."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import Callable, Mapping
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
_HUNG = 10.0  # times the slow calls' latency: a call that takes longer is sent again
_HUNG_AT_LEAST = 1.0  # seconds
_SHOWN = 300  # characters of a server's message
_CONNECT = 30.0  # seconds
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
    _headers: Mapping[str, str] = field(init=False)
    _key: str = field(init=False, repr=False)
    _session: aiohttp.ClientSession | None = None

    def __post_init__(self) -> None:
        endpoint = self.endpoint
        self.gate = Gate(endpoint.concurrency)
        self.pace = Pace.per_minute(endpoint.requests_per_minute, endpoint.tokens_per_minute)
        self.breaker = Breaker(self.patience)
        self._key = endpoint.key()
        authorization = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._headers = {"Content-Type": "application/json", **authorization}

    def start(self, session: aiohttp.ClientSession) -> None:
        """Use these connections."""
        self._session = session

    def wait(self, now: float) -> float:
        """Seconds until a call may start: 0 or less is now, infinite is not before another one ends."""
        if not self.gate.open or (self.breaker.careful and self.gate.in_flight):
            return float("inf")
        return max(self.pace.wait(now), self.breaker.wait(now))

    def patience_for(self, attempt: int) -> float:
        """Seconds a call may take: far longer than the slow ones took, and longer with every attempt."""
        learnt = max(_HUNG_AT_LEAST, _HUNG * self.gate.slow) * 4.0**attempt
        return min(self.endpoint.timeout, learnt)

    def scrubbed(self, text: str) -> str:
        """A server's words without the key, should it repeat it."""
        return (text.replace(self._key, "[key]") if self._key else text)[:_SHOWN]

    async def call(self, sent: bytes, attempt: int) -> Completion | Trouble:
        """Send one request and wait for what becomes of it."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.gate.in_flight += 1
        tokens = int(len(sent) / 4 + self.written)
        self.pace.sent(began, tokens)
        try:
            outcome = await self._post("/chat/completions", sent, self.patience_for(attempt))
        finally:
            self.gate.in_flight -= 1
        now = loop.time()
        if isinstance(outcome, Completion):
            self._worked(outcome, tokens, now - began)
        else:
            self._failed(outcome, now, began)
        return outcome

    def _worked(self, completion: Completion, tokens: int, latency: float) -> None:
        usage = completion.usage
        self._accepted += 1
        self.breaker.answered()
        self.gate.answered(latency)
        self.pace.correct(usage.prompt_tokens + usage.completion_tokens - tokens)
        self.written += (usage.completion_tokens - self.written) / min(self._accepted, 100)

    def _failed(self, trouble: Trouble, now: float, sent: float) -> None:
        kind = trouble.failure.kind
        if trouble.limited:
            self.pace.limited(now, sent, trouble.wait)
            self.gate.shrink(now)
        elif kind == "timeout":
            self.gate.timed_out(now)
            self.breaker.failed(now, sent)
        elif kind in {"connection", "cut", "server"}:
            self.breaker.failed(now, sent)
            if trouble.wait is not None:
                self.pace.paused_until = max(self.pace.paused_until, now + trouble.wait)
        else:
            self.breaker.answered()
        if self.breaker.dead and self.fatal is None:
            self.fatal = RoleError(
                f"endpoints.{self.endpoint.name}: {self.endpoint.base_url} failed {self.breaker.failures} times in a"
                f" row, last: {trouble.failure.message}",
                remedy="See that the server runs and its address is right; then the same command goes on.",
            )

    async def _post(self, path: str, sent: bytes, patience: float) -> Completion | Trouble:
        assert self._session is not None  # noqa: S101 (started by the engine)
        timeout = aiohttp.ClientTimeout(total=patience, sock_connect=_CONNECT)
        try:
            async with self._session.post(
                self.endpoint.base_url + path, data=sent, headers=self._headers, timeout=timeout, allow_redirects=False
            ) as response:
                content = await response.read()
                return self._read(response, content, sent)
        except TimeoutError:
            return Trouble(Failure("timeout", f"no answer within {patience:.0f} s"), again=True)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError) as error:
            return Trouble(Failure("cut", f"the connection was cut: {self.scrubbed(str(error))}"), again=True)
        except aiohttp.InvalidURL as error:
            self.fatal = self._unusable(f"not an address: {error}")
            return Trouble(Failure("connection", "not an address"), again=False)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            message = self.scrubbed(str(error)) or type(error).__name__
            return Trouble(Failure("connection", message), again=True)

    def _read(self, response: aiohttp.ClientResponse, content: bytes, sent: bytes) -> Completion | Trouble:
        status = response.status
        if status == HTTPStatus.OK:
            reply = read_reply(content, sent)
            if isinstance(reply, Completion):
                self._refused = 0
                return reply
            return Trouble(Failure(reply.kind, self.scrubbed(reply.message)), again=reply.kind == "malformed")
        message = f"HTTP {status}: {self.scrubbed(_message(content))}"
        if status in _FOR_ALL or any(sign.encode() in content for sign in _OUT_OF_MONEY):
            self.fatal = self._unusable(message)
            return Trouble(Failure("refused", message), again=False)
        if status in _AGAIN:
            kind = "rate-limit" if status == HTTPStatus.TOO_MANY_REQUESTS else "server"
            wait = _retry_after(response.headers)
            return Trouble(Failure(kind, message), again=True, wait=wait, limited=kind == "rate-limit")
        self._refused += 1
        if self._refused >= _REFUSED_AT_ONCE and not self._accepted:
            self.fatal = self._unusable(f"refused the first {self._refused} requests, last: {message}")
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
        sent: bytes | aiohttp.FormData | None = None,
        into: Callable[[bytes], object] | None = None,
    ) -> bytes | Trouble:
        """Send any request but a chat completion; the answer goes to `into` piece by piece where that is given.

        Raises:
            RoleError: the endpoint cannot be used at all.
        """
        assert self._session is not None  # noqa: S101 (started by the engine)
        patience = self.endpoint.timeout if into is None and not isinstance(sent, aiohttp.FormData) else _FILE
        headers = dict(self._headers)
        if not isinstance(sent, bytes):
            del headers["Content-Type"]
        try:
            async with self._session.request(
                method,
                self.endpoint.base_url + path,
                data=sent,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=patience, sock_connect=_CONNECT),
                allow_redirects=method == "GET",
            ) as response:
                if response.status == HTTPStatus.OK and into:
                    async for piece in response.content.iter_chunked(_PIECE):
                        into(piece)
                    return b""
                content = await response.read()
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
                content = await response.read()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            said = self.scrubbed(str(error)) or type(error).__name__
            raise self._unusable(f"it cannot be reached: {said}") from None
        if response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise self._unusable(f"HTTP {response.status}: {self.scrubbed(_message(content))}")
        try:
            return [str(one["id"]) for one in json.loads(content)["data"]]
        except (ValueError, LookupError, TypeError):
            return None


def _message(content: bytes) -> str:
    """What a server says went wrong."""
    try:
        error = json.loads(content)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError):
        return content[:_SHOWN].decode(errors="replace")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait: a number, milliseconds, or a date."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers["retry-after"]
    except (KeyError, ValueError):
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
