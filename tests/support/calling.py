"""Helpers for tests of the API client: endpoints, requests, a client for the time of a `with` block, its results."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tapir.config.endpoints import EndpointConfig
from tapir.domain.completion import Completion, Failure
from tapir.models.api.client import ApiClient
from tapir.models.api.protocol import Request, Sampling
from tapir.models.api.retry import RetryPolicy

Reply = Completion | Failure
PRICES: dict[str, Any] = {"price_input": 10.0, "price_cached": 1.0, "price_output": 30.0}


def endpoint(url: str = "http://localhost/v1", model: str = "m", **more: Any) -> EndpointConfig:
    return EndpointConfig(base_url=url, model=model, **more)


@dataclass
class Outcome:
    """Replies by key; `ends` counts "done" and the kinds of failures."""

    replies: dict[int, Reply] = field(default_factory=dict)

    def take(self, stream: Iterable[tuple[int, Reply]]) -> Outcome:
        for key, reply in stream:
            assert key not in self.replies
            self.replies[key] = reply
        return self

    @property
    def ends(self) -> Counter[str]:
        return Counter("done" if isinstance(one, Completion) else one.kind for one in self.replies.values())

    @property
    def failures(self) -> dict[int, Failure]:
        return {key: one for key, one in self.replies.items() if isinstance(one, Failure)}


def asking(content: str, max_tokens: int = 64, sample: int = 0) -> Request:
    return Request([{"role": "user", "content": content}], Sampling(0.0, max_tokens), sample=sample)


def rows(count: int, start: int = 0) -> Iterator[tuple[int, Request]]:
    """Different requests; the content of each begins with its key."""
    for row in range(start, start + count):
        yield row, asking(f"{row} is the number of this row. <score>")


@contextlib.contextmanager
def client(
    endpoints: EndpointConfig | Mapping[str, EndpointConfig],
    folder: Path,
    *,
    stopping: Callable[[], bool] = lambda: False,
    max_cost: float = 0.0,
    run: str = "run",
    pause_factor: float = 0.02,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[ApiClient]:
    """A client whose pauses between attempts are short; one endpoint alone is called "e"."""
    named = {"e": endpoints} if isinstance(endpoints, EndpointConfig) else endpoints
    retry = RetryPolicy(pause_factor=pause_factor)
    made = ApiClient(named, folder / "ledger.sqlite", stopping, run=run, max_cost=max_cost, retry=retry, note=note)
    try:
        yield made
    finally:
        made.close()


def collect(made: ApiClient, requests: Iterable[tuple[int, Request]], names: Sequence[str] = ("e",)) -> Outcome:
    """All replies of a stream, each key once."""
    return Outcome().take(made.stream(names, requests))


@contextlib.contextmanager
def answering(content: bytes | Callable[[], bytes]) -> Iterator[str]:
    """A server that says these bytes, whatever it is asked; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(content if isinstance(content, bytes) else content())

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            stop.set()
            thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
