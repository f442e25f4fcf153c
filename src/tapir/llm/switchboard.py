"""Where the roles of a run make their calls: the engine, opened for a session and closed after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from tapir.domain.completion import Completion, Failure
from tapir.domain.spending import Spending
from tapir.errors import RoleError
from tapir.llm.batch import batched
from tapir.llm.endpoint import Endpoint
from tapir.llm.engine import Engine, Settings
from tapir.llm.wire import Request
from tapir.roles import Watch

KeyT = TypeVar("KeyT")
LEDGER = "ledger.sqlite"


class Caller(Protocol):
    """What a role needs to make its calls."""

    def stream(
        self, endpoints: tuple[str, ...], requests: Iterable[tuple[KeyT, Request]]
    ) -> Iterator[tuple[KeyT, Completion | Failure]]:
        """Replies to requests, in the order they come."""

    def json_schema(self, endpoints: tuple[str, ...]) -> bool:
        """Whether all these endpoints take a JSON schema."""


@dataclass(slots=True)
class Switchboard:
    """All endpoints of a recipe.

    Attributes:
        ledger: file that several runs may share; None keeps it in the run's folder.
        patience: multiplies the engine's pauses.
    """

    endpoints: Mapping[str, Endpoint]
    ledger: Path | None = None
    max_cost: float = 0.0
    attempts: int = 6
    patience: float = 1.0
    _engine: Engine | None = field(default=None)

    def ready(self) -> None:
        """See that every key is in the environment.

        Raises:
            RoleError: one is not.
        """
        for one in self.endpoints.values():
            one.key()

    def open(self, folder: Path, run: str, watch: Watch) -> None:
        """Be ready to call for a run; see that every endpoint answers and takes its key.

        Raises:
            RoleError: one does not.
            StoreError: the ledger cannot be used.
        """
        settings = Settings(self.ledger or folder / LEDGER, run, self.max_cost, self.attempts, self.patience)
        self._engine = Engine(self.endpoints.values(), settings, lambda: watch.stopping)
        try:
            self._engine.reachable(list(self.endpoints))
        except BaseException:
            self.close()
            raise

    def enter(self, number: int, stage: str) -> None:
        """From now on calls are made for this round and stage."""
        self._connected().enter(number, stage)

    def meter(self) -> str:
        """Money and calls so far, e.g. "1.2345 spent, 4,567 calls, 12 from the ledger"."""
        if self._engine is None:
            return ""
        account = self._engine.account
        priced = any(one.price.input or one.price.output for one in self.endpoints.values())
        limit = f" of {account.most:g}" if account.most else ""
        money = f"{account.spent:.4f}{limit} spent, " if priced else ""
        reused = f", {account.reused:,} from the ledger" if account.reused else ""
        return f"{money}{account.calls:,} calls{reused}"

    def spent(self) -> list[Spending]:
        """What the run has paid so far, from the ledger: earlier sessions are included, a crash loses nothing."""
        engine = self._connected()
        return [
            Spending(
                one.purpose.round,
                one.purpose.stage,
                one.purpose.task,
                one.calls,
                one.usage.prompt_tokens,
                one.usage.cached_tokens,
                one.usage.completion_tokens,
                one.cost,
            )
            for one in engine.ledger.spent(engine.run)
        ]

    def json_schema(self, endpoints: tuple[str, ...]) -> bool:
        """Whether all these endpoints take a JSON schema."""
        return all(self.endpoints[name].json_schema for name in endpoints)

    def stream(
        self, endpoints: tuple[str, ...], requests: Iterable[tuple[KeyT, Request]]
    ) -> Iterator[tuple[KeyT, Completion | Failure]]:
        """Replies to requests, in the order they come; see `Engine.stream`."""
        engine = self._connected()
        if all(self.endpoints[name].batch for name in endpoints):
            return batched(engine, endpoints[0], requests)
        return engine.stream(endpoints, requests)

    def close(self) -> None:
        """The session ends."""
        if self._engine:
            self._engine.close()
        self._engine = None

    def _connected(self) -> Engine:
        if self._engine is None:
            raise RoleError("a model was called outside of a run", remedy="Call open() first.")
        return self._engine
