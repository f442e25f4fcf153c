"""What the tests of the call engine share: requests, an engine for the time of a `with` block, and what came of it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tapir.domain.completion import Completion, Failure
from tapir.llm.endpoint import Endpoint, Price
from tapir.llm.engine import Engine, Settings
from tapir.llm.wire import Request, Sampling

Reply = Completion | Failure
PRICE = Price(input=10.0, cached=1.0, output=30.0)


@dataclass
class Switch:
    """A wish to stop."""

    on: bool = False

    def __call__(self) -> bool:
        return self.on


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
def engine(
    endpoints: Endpoint | Sequence[Endpoint],
    folder: Path,
    *,
    stopping: Callable[[], bool] = lambda: False,
    max_cost: float = 0.0,
    run: str = "run",
    patience: float = 0.02,
) -> Iterator[Engine]:
    """An engine whose pauses between attempts are short; its ledger is `ledger.sqlite` in the folder."""
    all_of_them = [endpoints] if isinstance(endpoints, Endpoint) else endpoints
    settings = Settings(folder / "ledger.sqlite", run, max_cost, patience=patience)
    made = Engine(all_of_them, settings, stopping)
    try:
        yield made
    finally:
        made.close()


def collect(made: Engine, requests: Iterable[tuple[int, Request]], names: Sequence[str] = ("e",)) -> Outcome:
    """All replies of a stream, each key once."""
    return Outcome().take(made.stream(names, requests))


@contextlib.contextmanager
def answering(content: bytes) -> Iterator[str]:
    """A server that says the same bytes to everybody; its address."""
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
                    connection.sendall(content)

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
