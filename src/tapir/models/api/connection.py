"""HTTP connection to one endpoint, with its limits: sends a request and classifies the response."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.client import responses

import aiohttp

from tapir.config.endpoints import EndpointConfig
from tapir.domain.completion import Completion, Failure
from tapir.domain.errors import RoleError
from tapir.models.api.limits import CircuitBreaker, ConcurrencyLimit, RaceLimit, RateLimit
from tapir.models.api.pauses import PauseReport
from tapir.models.api.protocol import encodable, json_or_none, read_reply
from tapir.models.api.refusals import SHOWN, TOO_LONG, error_message, remedy
from tapir.models.api.retry import FILTER, error_kind, is_fatal, is_retryable, out_of_quota, retry_after, stated_status
from tapir.models.api.stream import StreamedReply, streamed
from tapir.models.api.usage import read_usage

BAD_REQUESTS = 10  # requests refused as bad, none accepted: it is the recipe, not the request
SAME_REQUESTS = 30  # refused in the same words with no reply between them: it is no longer the request
OK = range(200, 300)
_PAGE = re.compile(rb"\s*(?:<|\Z)")  # not the server's own words but a proxy's, or none
_LISTING = re.compile(rb"scope|route|/models", re.IGNORECASE)  # a key may be refused for the list of models alone
_KEY = b"[key]"
_SECRET = 16  # characters from which on a key is no word that a model may write
_CONNECT = 30.0  # seconds
_LARGE = 1 << 20  # bytes from which on aiohttp wants a body in pieces
OUTAGES = frozenset({"timeout", "connection", "cut", "server", "malformed"})  # kinds that speak against the server
_FILE_TIMEOUT = 3600.0  # seconds that a file may take, up or down
_PIECE = 1 << 16
_LONGEST_PAUSE = 1e8  # seconds that a server may ask for: years, and still a date that can be said


@dataclass(frozen=True, slots=True)
class CallError:
    """A call that brought no reply; `retry_after` is the number of seconds the server asked to wait."""

    failure: Failure
    retry_after: float | None = None

    @property
    def retryable(self) -> bool:
        """Whether it may be sent again."""
        return is_retryable(self.failure.kind)


@dataclass(frozen=True, slots=True)
class Call:
    """A call in flight; `tokens` is an estimate of what it reads and writes."""

    began: float
    number: int
    tokens: int


@dataclass(frozen=True, slots=True)
class _Response:
    """A whole HTTP response, without the key should the server have repeated it."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class EndpointClient:
    """An endpoint with its limits; `fatal` says why it cannot be used at all, once that is known."""

    session: aiohttp.ClientSession  # set by the client once it is open

    def __init__(self, name: str, config: EndpointConfig, pause_factor: float = 1.0) -> None:
        """Read the key; `pause_factor` multiplies the pauses of the circuit breaker."""
        self.name, self.config, self.pause_factor = name, config, pause_factor
        self.concurrency = ConcurrencyLimit(config.concurrency)
        self.rate = RateLimit.per_minute(config.requests_per_minute, config.tokens_per_minute)
        self.breaker = CircuitBreaker(pause_factor)
        self.races = RaceLimit()
        self.pauses = PauseReport(name)
        self.unknown_finishes: Counter[str] = Counter()  # by the server's word
        self.fatal: RoleError | None = None
        self.reply_tokens = 200.0  # mean of the replies so far, for the limits
        self._refused: Counter[str] = Counter()  # requests refused as bad since the last reply, by the server's words
        self._replies = 0
        self.contexts: dict[str, int] = {}  # of the server's models, where it tells them
        self.context = 0  # tokens of a prompt and its reply together, at most; 0 where they are not known
        self._told: set[str] = set()
        self._idle_timeout = config.idle_timeout if config.stream else None
        key = read_key(name, config)
        spellings = (key, json.dumps(key)[1:-1], key.replace("/", r"\/"), urllib.parse.quote(key, safe=""))
        self._spellings = [*dict.fromkeys(map(str.encode, spellings))] if key else []  # as JSON or an address has it
        self._secret = len(key) >= _SECRET
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def wait(self, now: float) -> float:
        """Return the seconds until a call may start: 0 or less is now, infinite is when another one ends."""
        if self.breaker.half_open and self.concurrency.in_flight:
            return float("inf")
        return max(self.concurrency.wait(now), self.rate.wait(now), self.breaker.wait(now))

    def takes_calls(self, now: float) -> bool:
        """Whether the server works and does not ask to wait."""
        return self.fatal is None and not self.breaker.half_open and self.rate.wait(now) <= 0

    def acquire(self, now: float, size: int) -> Call:
        """Start a call with a body of so many bytes; it must be released, whatever its result."""
        tokens = int(size / 4 + self.reply_tokens)
        self.pauses.record_call(now, self.concurrency.in_flight)
        self.concurrency.acquire(now)
        self.races.calls += 1
        return Call(now, self.rate.acquire(now, tokens), tokens)

    def news(self, now: float) -> Iterator[str]:
        """Yield lines for the user that have not been said: pauses with their causes and ends, odd replies."""
        yield from self.pauses.lines(now, self.concurrency.in_flight)
        for word in self.unknown_finishes.keys() - self._told:
            self._told.add(word)
            yield f"endpoints.{self.name}: replies end with {word!r}, which is unknown; it is taken for a normal end"

    def redact(self, text: str) -> str:
        """Return a server's message, cut to a readable length, without the key should the server repeat it."""
        return self._without_key(text.encode(errors="replace")).decode()[:SHOWN]

    def redact_bytes(self, content: bytes, status: int = HTTPStatus.OK) -> bytes:
        """Return what a server sent without the key; a short one ("test") may be a word of what is no error."""
        return content if status in OK and not self._secret else self._without_key(content)

    def _without_key(self, content: bytes) -> bytes:
        for spelling in self._spellings:
            content = content.replace(spelling, _KEY)
        return content

    async def call(self, call: Call, body: bytes, *, thinks: bool = False) -> Completion | CallError:
        """Send a chat completion request, read its reply, and teach the limits from it.

        That one which `thinks` is refused says only that it is too long: one like it was accepted before.
        """
        response = await self._post(body)
        if isinstance(response, CallError):
            result: Completion | CallError = response
        else:
            result = self._read_completion(response, body, counted=not thinks)
        now = asyncio.get_running_loop().time()
        if isinstance(result, Completion):
            self._record_success(result, call, now)
        else:
            self._record_error(result, call, hash(body), now)
        return result

    async def _post(self, body: bytes) -> _Response | CallError:
        """Return the response to a chat completion request; some servers stream whether it is asked for or not."""
        reply, limit, sent = StreamedReply(), self.config.timeout, streamed(body) if self.config.stream else body
        response = await self._send("POST", "/chat/completions", sent, limit, into=reply.feed)
        error = response.failure if isinstance(response, CallError) else None
        if failure := reply.failure(body, error):
            return CallError(replace(failure, message=self.redact(failure.message)))
        if not isinstance(response, _Response):  # cut behind a whole reply
            return _Response(HTTPStatus.OK, {}, self.redact_bytes(reply.content()))
        content = self.redact_bytes(reply.content()) if response.status in OK else response.content
        return replace(response, content=content)

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | AsyncIterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        into: Callable[[bytes], object] | None = None,
    ) -> bytes | CallError:
        """Send any request but a chat completion, and return the content of its response.

        `headers` are added to those of every request, and hold the length of a body in pieces. `into` is passed the
        content piece by piece where the status is 200; nothing is returned then.
        """
        timeout = self.config.timeout if into is None and isinstance(body, bytes | None) else _FILE_TIMEOUT
        response = await self._send(method, path, body, timeout, headers, into)
        if isinstance(response, CallError):
            return response
        if response.status in OK:
            return response.content
        error = self._http_error(response)
        if response.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
            return CallError(Failure("not-found", error.failure.message))
        if error.failure.kind == "refused":
            raise self._unusable(error.failure.message)
        return error

    async def list_models(self) -> list[str] | None:
        """Return the names of the server's models; None where it does not list them. Costs nothing."""
        response = await self._send("GET", "/models", None, _CONNECT)
        if isinstance(response, CallError):
            raise RoleError(
                f"endpoints.{self.name}: {self.config.base_url} cannot be reached: {response.failure.message}",
                remedy="Is the server running, and is base_url its address? Then the same command goes on.",
            )
        if response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN} and not _LISTING.search(response.content):
            raise self._unusable(self._http_error(response).failure.message)
        try:
            content = json.loads(response.content)
            models = content if isinstance(content, list) else content["data"]
            self.contexts = {str(model["id"]): _context(model) for model in models}
            return [str(model["id"]) for model in models]
        except (ValueError, LookupError, TypeError):
            return None

    async def _send(
        self,
        method: str,
        path: str,
        body: bytes | AsyncIterable[bytes] | None,
        timeout: float,  # noqa: ASYNC109 (aiohttp's own: one for the request and its response)
        headers: Mapping[str, str] | None = None,
        into: Callable[[bytes], object] | None = None,
    ) -> _Response | CallError:
        try:
            async with self.session.request(
                method,
                self.config.base_url + path,
                data=io.BytesIO(body) if isinstance(body, bytes) and len(body) >= _LARGE else body,
                headers={**self._headers, **headers} if headers else self._headers,
                timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=_CONNECT, sock_read=self._idle_timeout),
                allow_redirects=method == "GET",
            ) as response:
                if into and response.status in OK:
                    async for piece in response.content.iter_chunked(_PIECE):
                        into(piece)
                content = self.redact_bytes(await response.read(), response.status)
                return _Response(response.status, response.headers, content)
        except aiohttp.InvalidURL as error:
            self.fatal = self.fatal or self._unusable(f"not an address: {self.redact(str(error))}")
            return CallError(Failure("refused", "not an address"))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return CallError(self._connection_failure(error, timeout))

    def _connection_failure(self, error: Exception, timeout: float) -> Failure:
        match error:
            case aiohttp.ClientConnectorError() | aiohttp.ClientHttpProxyError():
                pass
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | aiohttp.ClientOSError():
                return Failure("cut", f"the connection was cut: {self.redact(str(error))}")
            case aiohttp.ClientResponseError():
                return Failure("cut", f"the response cannot be read: {self.redact(error.message)}")
            case aiohttp.ConnectionTimeoutError():
                return Failure("connection", f"no connection within {_CONNECT:g} s")
            case aiohttp.SocketTimeoutError():
                return Failure("timeout", f"nothing arrived for {self._idle_timeout:g} s")
            case TimeoutError():
                return Failure("timeout", f"no reply within {timeout:g} s")
        return Failure("connection", self.redact(str(error)) or type(error).__name__)

    def _http_error(self, response: _Response) -> CallError:
        """Return the error that a status other than 200 means; of kind "refused" if all other calls would meet it."""
        status, content = response.status, response.content
        said = error_message(content) or responses.get(status, "no reason is given")
        if status in range(300, 400) and (place := response.headers.get("Location")):
            said = f"moved to {encodable(place).partition('?')[0]}, which base_url has to name"
        message = f"HTTP {status}: {self.redact(said)}"
        kind = "refused" if is_fatal(status, content) else error_kind(status, content)
        if status == HTTPStatus.NOT_FOUND and self._replies and _PAGE.match(content):
            kind = "server"  # it was found before
        again = retry_after(response.headers, content) if is_retryable(kind) else None
        again = None if again is None else min(again, _LONGEST_PAUSE)
        return CallError(Failure(kind, message, usage=read_usage(json_or_none(content))), again)

    def _read_completion(self, response: _Response, body: bytes, *, counted: bool = True) -> Completion | CallError:
        reply = read_reply(response.content, body)
        if isinstance(reply, Completion) and (response.status in OK or response.status == HTTPStatus.BAD_REQUEST):
            self._refused.clear()
            return reply
        if isinstance(reply, Failure) and response.status in OK:
            if (status := stated_status(response.content)) is None:
                return CallError(replace(reply, message=self.redact(reply.message)))
            response = replace(response, status=status)
        error = self._http_error(response)
        message = error.failure.message
        if error.failure.kind == "refused":
            self.fatal = self.fatal or self._unusable(message)
        elif counted and error.failure.kind == "bad-request" and not FILTER.search(response.content):
            self._refused[message] += 1
            number = self._refused.total()
            same = self._refused[message] >= SAME_REQUESTS and not TOO_LONG.search(message)
            if same or (number >= BAD_REQUESTS and not self._replies):
                which = "last" if self._replies else "first"
                self.fatal = self.fatal or self._unusable(f"refused the {which} {number} requests, last: {message}")
        return error

    def _record_success(self, completion: Completion, call: Call, now: float) -> None:
        usage = completion.usage
        self._replies += 1
        self.pauses.record_reply(now, now - call.began)
        if completion.unknown_finish:
            self.unknown_finishes[completion.unknown_finish] += 1
        self.breaker.record_success(call.began)
        self.concurrency.record_success(now - call.began)
        self.rate.record_success(call.number)
        self.rate.correct(usage.prompt_tokens + usage.completion_tokens - call.tokens)
        self.reply_tokens += (usage.completion_tokens - self.reply_tokens) / min(self._replies, 100)

    def _record_error(self, error: CallError, call: Call, request: int, now: float) -> None:
        kind = error.failure.kind
        if kind == "rate-limit":
            self.rate.record_429(now, call.number, error.retry_after)
            self.concurrency.shrink(now)
            self.pauses.record_error(error.failure.message, self.rate.paused_until)
            return
        self.rate.record_success(call.number)
        if kind == "timeout":
            self.concurrency.record_timeout(now)
        if error.retry_after is not None:
            self.rate.paused_until = max(self.rate.paused_until, now + error.retry_after)
        if is_retryable(kind):
            self.pauses.record_error(error.failure.message, self.rate.paused_until)
        else:
            self.pauses.record_reply(now, now - call.began)
        if kind in OUTAGES:
            self.breaker.record_failure(now, call.began, request, unreachable=kind == "connection")
        else:
            self.breaker.record_success(call.began)
        if self.breaker.dead and self.fatal is None:
            self.fatal = RoleError(
                f"endpoints.{self.name}: {self.config.base_url} failed {self.breaker.failures} times in a row,"
                f" last: {error.failure.message}",
                remedy="See that the server runs and its address is right; then the same command goes on.",
            )

    def _unusable(self, message: str) -> RoleError:
        key = f"the key in {self.config.key}, " if self.config.key else ""
        known = remedy(self.name, self.config, message)
        if out_of_quota(message.encode()):
            known = "Add credit, or wait until the quota is renewed; then the same command goes on."
        return RoleError(
            f"endpoints.{self.name}: {self.config.base_url} cannot be used for model {self.config.model!r}: {message}",
            remedy=known or f"Check {key}the model's name, base_url and extra fields; then the same command goes on.",
        )


def _context(model: Mapping[str, object]) -> int:
    """Return the tokens that a model takes, as servers name them in their lists of models; 0 where they do not."""
    told = map(model.get, ("max_model_len", "context_length", "context_window", "max_context_length"))
    return next((tokens for tokens in told if isinstance(tokens, int)), 0)


def read_key(name: str, endpoint: EndpointConfig) -> str:
    """Read the API key of the endpoint called `name` from the environment; "" for a server without keys."""
    if not endpoint.key:
        return ""
    value = os.environ.get(endpoint.key, "").strip()
    if not value:
        raise RoleError(
            f"endpoints.{name}: the environment variable {endpoint.key} is not set",
            remedy=f"export {endpoint.key}=... (the key of {endpoint.base_url}), then run the same command again.",
        )
    if not (value.isascii() and value.isprintable()):
        raise RoleError(
            f"endpoints.{name}: the key in {endpoint.key} holds a line break or a character that no key has",
            remedy="Copy the key again; its value is not shown here.",
        )
    return value
