"""A provider of batches and the clients that use it, for the tests of the batch API."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from support.server import Behaviour, FakeOpenAi, Server, serving
from tapir.config.endpoints import EndpointConfig
from tapir.domain.completion import Completion, Failure
from tapir.domain.errors import TapirError
from tapir.models.api.batch import stream_batches
from tapir.models.api.client import ApiClient
from tapir.models.api.protocol import Request, Sampling
from tapir.models.api.retry import RetryPolicy

QUICK = Behaviour(latency=0.0, batch_seconds=0.0)
SLOW = replace(QUICK, batch_seconds=3600.0)
PRICES: dict[str, Any] = {"price_input": 1_000.0, "price_output": 2_000.0}
TWICE = (0.0,) * 2
OFTEN = (0.0,) * 8
Replies = dict[int, Completion | Failure]


@dataclass
class Provider:
    """A fake server, and clients that share a ledger and are opened one after the other."""

    server: Server
    fake: FakeOpenAi
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def lines(self) -> list[int]:
        """The number of requests in each batch."""
        return [len(batch.lines) for batch in self.fake.batches.values()]

    @contextmanager
    def client(self, *, run: str = "run", max_cost: float = 0.0, key: str = "") -> Iterator[ApiClient]:
        endpoint = EndpointConfig(base_url=self.server.url, model="m", key=key, batch=True, **PRICES)
        ledger, retry = self.folder / "ledger.sqlite", RetryPolicy(pause_factor=0.0)
        client = ApiClient({"teacher": endpoint}, ledger, self.stop.is_set, run=run, max_cost=max_cost, retry=retry)
        try:
            yield client
        finally:
            client.close()

    def ask(
        self, numbers: Iterable[int], pauses: Sequence[float] = (), **options: Any
    ) -> tuple[Replies, TapirError | None]:
        """What a new client gives for these requests, and how it ended."""
        replies: Replies = {}
        with self.client(**options) as client:
            try:
                for number, reply in stream_batches(client, "teacher", questions(numbers), pauses):
                    replies[number] = reply
            except TapirError as error:
                return replies, error
            finally:
                assert client.budget.reserved == pytest.approx(0.0)
        return replies, None

    def ask_one_by_one(self, numbers: Iterable[int]) -> Replies:
        with self.client() as client:
            return dict(client.stream(["teacher"], questions(numbers)))

    def forget_batches(self, only: str = "%") -> None:
        """As if the process had been killed between the creation of a batch and its record."""
        with closing(sqlite3.connect(self.folder / "ledger.sqlite")) as database, database:
            database.execute("DELETE FROM batches WHERE id LIKE ?", (only,))
            database.execute("DELETE FROM batched WHERE batch LIKE ?", (only,))

    def expire(self, *, worked_on: int) -> None:
        """End the first batch after so many of its requests."""
        batch = self.fake.batches["batch_1"]
        self.fake.work(batch, worked_on)
        batch.status = "expired"

    def states(self) -> list[str]:
        with closing(sqlite3.connect(self.folder / "ledger.sqlite")) as database:
            return [row[0] for row in database.execute("SELECT state FROM batches ORDER BY created")]


def question(number: int, more: str = "") -> Request:
    return Request([{"role": "user", "content": f"Number {number}{more}"}], Sampling(0.5, 64), task="Math")


def questions(numbers: Iterable[int]) -> Iterator[tuple[int, Request]]:
    return ((number, question(number)) for number in numbers)


def texts(replies: Replies) -> dict[int, str]:
    return {number: one.text for number, one in replies.items() if isinstance(one, Completion)}


@contextmanager
def provider(behaviour: Behaviour, folder: Path) -> Iterator[Provider]:
    with serving(behaviour) as server:
        assert server.fake is not None
        yield Provider(server, server.fake, folder)
