"""A provider of batches and the engines that use it, for the tests of the batch transport."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tapir.domain.completion import Completion, Failure
from tapir.errors import TapirError
from tapir.llm.batch import batched
from tapir.llm.endpoint import Endpoint, Price
from tapir.llm.engine import Engine, Settings
from tapir.llm.wire import Request, Sampling
from tests import server as fake
from tests.fake_openai import brain
from tests.fake_openai import wire as http
from tests.fake_openai.batches import Batch
from tests.fake_openai.completions import Answer, error
from tests.fake_openai.service import Service
from tests.server import Behaviour, Server

QUICK = Behaviour(latency=0.0, batch_seconds=0.0)
SLOW = replace(QUICK, batch_seconds=3600.0)
PRICE = Price(input=1_000.0, output=2_000.0)
TWICE = (0.0,) * 2
OFTEN = (0.0,) * 8
Replies = dict[int, Completion | Failure]


class Provider(Service):
    """The fake server, with batches that can be listed and seen from within, and that can lose an answer."""

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(behaviour, brain.reply)
        self.lists = True
        self.loses_answers = 0
        self.page = 100
        self.echo = ""
        self.uploads: list[bytes] = []

    @property
    def batches(self) -> list[Batch]:
        return list(self._batches.batches.values())

    @property
    def lines(self) -> list[int]:
        return [len(one.lines) for one in self.batches]

    def forget(self) -> None:
        self._batches.batches.clear()

    def expire(self, batch: Batch, worked_on: int) -> None:
        self._batches._work(batch, batch.lines[:worked_on])
        batch.status = "expired"

    def _line(self, body: dict[str, Any]) -> Answer:
        answer = super()._line(body)
        if self.echo and answer.status != 200:
            return replace(answer, body=error(answer.status, f"failed for {self.echo}"))
        return answer

    def _other(self, request: http.Request, path: str) -> http.Reply:
        if (request.method, path) == ("GET", "/v1/batches") and self.lists:
            return self._listed(parse_qs(urlsplit(request.path).query))
        if (request.method, path) == ("POST", "/v1/files"):
            self.uploads.append(request.body)
        reply = super()._other(request, path)
        if (request.method, path) == ("POST", "/v1/batches") and self.loses_answers:
            self.loses_answers -= 1
            return http.Reply(502, error(502, "bad gateway"))
        return reply

    def _listed(self, query: dict[str, list[str]]) -> http.Reply:
        newest = self.batches[::-1]
        if "after" in query:
            newest = newest[[one.id for one in newest].index(query["after"][0]) + 1 :]
        page = [one.as_json() for one in newest[: self.page]]
        return http.Reply(200, json.dumps({"data": page, "has_more": len(newest) > self.page}).encode())


@dataclass
class Desk:
    """A provider, and engines that share a ledger and are opened one after the other."""

    provider: Provider
    server: Server
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def engine(self, *, run: str = "run", max_cost: float = 0.0, key: str = "") -> Iterator[Engine]:
        endpoint = Endpoint("teacher", self.server.url, "m", key_name=key, price=PRICE, batch=True)
        settings = Settings(self.folder / "ledger.sqlite", run, max_cost, patience=0.0)
        engine = Engine([endpoint], settings, self.stop.is_set)
        try:
            yield engine
        finally:
            engine.close()

    def ask(
        self, numbers: Iterable[int], pauses: Sequence[float] = (), **options: Any
    ) -> tuple[Replies, TapirError | None]:
        """What a new engine gives for these requests, and how it ended."""
        found: Replies = {}
        with self.engine(**options) as engine:
            try:
                for number, reply in batched(engine, "teacher", asked(numbers), pauses):
                    found[number] = reply
            except TapirError as error:
                return found, error
            finally:
                assert engine.account.reserved == pytest.approx(0.0)
        return found, None

    def ask_one_by_one(self, numbers: Iterable[int]) -> Replies:
        with self.engine() as engine:
            return dict(engine.stream(["teacher"], asked(numbers)))

    def forget_batches(self) -> None:
        """As if the process had been killed between the creation of a batch and its record."""
        with sqlite3.connect(self.folder / "ledger.sqlite") as database:
            database.executescript("DELETE FROM batches; DELETE FROM batched;")
        database.close()

    def states(self) -> list[str]:
        with sqlite3.connect(self.folder / "ledger.sqlite") as database:
            found = [row[0] for row in database.execute("SELECT state FROM batches ORDER BY created")]
        database.close()
        return found


def question(number: int, more: str = "") -> Request:
    return Request([{"role": "user", "content": f"Number {number}{more}"}], Sampling(0.5, 64), task="Math")


def asked(numbers: Iterable[int]) -> Iterator[tuple[int, Request]]:
    return ((number, question(number)) for number in numbers)


def texts(replies: Replies) -> dict[int, str]:
    return {number: one.text for number, one in replies.items() if isinstance(one, Completion)}


@contextmanager
def desk(behaviour: Behaviour, folder: Path) -> Iterator[Desk]:
    """A desk with its provider running."""
    provider = Provider(behaviour)
    with fake._in_a_thread(provider, 0) as server:
        yield Desk(provider, server, folder)
