"""A caller whose replies the test writes, what a request shows the model it asks, and a watch that remembers."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from support.server import Server
from tapir.config.endpoints import EndpointConfig
from tapir.domain.completion import Completion, Failure, FinishReason, Token, Usage
from tapir.domain.errors import Interrupted
from tapir.models.api.protocol import Request, body, digest
from tapir.models.api.session import ApiSession
from tapir.models.prompts import PromptSet

KeyT = TypeVar("KeyT")
Said: TypeAlias = str | Completion | Failure

BOOK = PromptSet.of({})
ENDPOINTS = ("one", "two")
FAILED = Failure("timeout", "no answer in 60 s", 6)

_SENT_TO = EndpointConfig(base_url="http://localhost/v1", model="large", json_schema=True)


@dataclass
class Script:
    """Answers every request with what `say` makes of it, in the order asked or in a random one."""

    say: Callable[[Request], Said]
    json: bool = False
    order: int | None = None
    asked: list[Request] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)

    def stream(
        self, endpoints: tuple[str, ...], requests: Iterable[tuple[KeyT, Request]]
    ) -> Iterator[tuple[KeyT, Completion | Failure]]:
        assert endpoints == ENDPOINTS
        replies: list[tuple[KeyT, Completion | Failure]] = []
        for key, request in requests:
            self.asked.append(request)
            said = self.say(request)
            replies.append((key, completion(said) if isinstance(said, str) else said))
        self.streams.append(len(replies))
        if self.order is not None:
            random.Random(self.order).shuffle(replies)
        yield from replies

    def json_schema(self, endpoints: tuple[str, ...]) -> bool:
        assert endpoints == ENDPOINTS
        return self.json

    @property
    def repairs(self) -> list[Request]:
        """The requests to write a reply again."""
        return [one for one in self.asked if is_repair(one)]


@dataclass
class Watcher:
    """Remembers what it is told, and stops after so many finished items if it is to."""

    stop_after: int | None = None
    notes: list[str] = field(default_factory=list)
    started: list[tuple[int, str, int, int]] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)
    advanced: int = 0

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        self.started.append((number, stage, total, done))

    def advance(self, items: int = 1) -> None:
        self.advanced += items

    def finish(self) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    def measure(self, **figures: float) -> None:
        self.figures.append(figures)

    @property
    def stopping(self) -> bool:
        return self.stop_after is not None and self.advanced >= self.stop_after

    def check(self) -> None:
        if self.stopping:
            raise Interrupted("stopped")


@contextmanager
def connected(
    server: Server,
    folder: Path,
    *,
    progress: Watcher | None = None,
    run: str = "run",
    json: object = False,
    **more: Any,
) -> Iterator[ApiSession]:
    """A session whose endpoints are a fake server's."""
    settings: dict[str, Any] = {"base_url": server.url, "model": "fake", "json_schema": json, "concurrency": 4, **more}
    calls = ApiSession(dict.fromkeys(ENDPOINTS, EndpointConfig(**settings)), pause_factor=0.01)
    calls.open(folder, run, progress or Watcher())
    try:
        yield calls
    finally:
        calls.close()


def completion(text: str, finish: FinishReason = "stop", tokens: tuple[Token, ...] = ()) -> Completion:
    return Completion(text, finish, Usage(3, 2), "large", tokens=tokens)


def cut(text: str) -> Completion:
    """A reply that met the limit of its tokens."""
    return completion(text, "length")


def system(request: Request) -> str:
    return request.messages[0]["content"]


def user(request: Request) -> str:
    """The first message of the user: the prompt itself, whatever was said after it."""
    return request.messages[1]["content"]


def shown(request: Request, tag: str) -> str:
    """What the prompt quotes between the tags of this name."""
    found = re.findall(rf"<{tag}>\n(.*?)\n</{tag}>", user(request), re.DOTALL)
    assert len(found) == 1, f"{len(found)} x <{tag}> in the prompt"
    text: str = found[0]
    return text


def is_repair(request: Request) -> bool:
    return len(request.messages) > 2


def known_by(request: Request) -> bytes:
    """What the ledger knows the call by: equal ones are paid for once."""
    return digest(body(_SENT_TO, request), request.sample)
