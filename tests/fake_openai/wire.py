"""HTTP/1.1 as far as a test needs it: keep-alive, Content-Length bodies, and replies that break off on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, Protocol, cast

JSON = "application/json"
HTML = "text/html"

_PHRASES = {one.value: one.phrase for one in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Request:
    """One request; the names of the headers are in small letters."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Metered:
    """What a complete answer is counted with."""

    digest: bytes
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes out, when, and how: whole, cut off before its end, never, or as a dropped connection."""

    status: int
    body: bytes
    delay: float = 0.0
    content_type: str = JSON
    headers: str = ""
    manner: Literal["whole", "cut", "hang", "drop"] = "whole"
    metered: Metered | None = None
    chat: bool = False


class Handler(Protocol):
    """What a connection needs from the server behind it."""

    def opened(self) -> None:
        """A connection was made."""

    def handle(self, request: Request) -> Reply:
        """The reply to a request."""

    def finished(self, reply: Reply, *, sent: bool) -> None:
        """The reply went out, or its client left before."""


class Connection(asyncio.Protocol):
    """One client: one request at a time, later ones wait in the buffer."""

    def __init__(self, handler: Handler, open_ones: set[Connection]) -> None:
        """A connection that keeps itself in `open_ones` while it lives."""
        self._handler = handler
        self._open_ones = open_ones
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._head: tuple[str, str, dict[str, str]] | None = None
        self._reply: Reply | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._keep = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._open_ones.add(self)
        self._handler.opened()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._open_ones.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._reply is not None:
            self._handler.finished(self._reply, sent=False)
            self._reply = None

    def abort(self) -> None:
        """Drops the connection."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._reply is None:
            self._next()

    def _next(self) -> None:
        request = self._take()
        if request is None:
            return
        reply = self._reply = self._handler.handle(request)
        if reply.manner == "drop":
            self._transport.abort()
        elif reply.delay > 0 and reply.manner != "hang":
            self._timer = self._loop.call_later(reply.delay, self._send)
        elif reply.manner != "hang":
            self._send()

    def _take(self) -> Request | None:
        """The next request, once all of it is here."""
        if self._head is None and not self._take_head():
            return None
        assert self._head is not None
        method, path, headers = self._head
        length = int(headers.get("content-length", 0))
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        self._head = None
        self._keep = headers.get("connection", "").lower() != "close"
        return Request(method, path, headers, body)

    def _take_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        words = first.split(" ")
        if len(words) != 3 or "transfer-encoding" in headers:
            self._transport.write(b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self._transport.close()
            return False
        if headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._head = (words[0], words[1], headers)
        return True

    def _send(self) -> None:
        reply = self._reply
        assert reply is not None
        self._timer = None
        self._reply = None
        keep = self._keep and reply.manner == "whole"
        close = "" if keep else "Connection: close\r\n"
        head = (
            f"HTTP/1.1 {reply.status} {_PHRASES.get(reply.status, 'Unknown')}\r\nContent-Type: {reply.content_type}\r\n"
            f"Content-Length: {len(reply.body)}\r\n{reply.headers}{close}\r\n"
        )
        body = reply.body if reply.manner == "whole" else reply.body[: len(reply.body) // 2]
        self._transport.write(head.encode("latin-1") + body)
        self._handler.finished(reply, sent=True)
        if not keep:
            self._transport.close()
        elif self._buffer:
            self._next()
