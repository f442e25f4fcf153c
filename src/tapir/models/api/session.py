"""API session of a run: opens the client of all endpoints, and closes it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tapir.config.endpoints import CallsConfig, EndpointConfig
from tapir.data.run.reader import RunReader
from tapir.data.run.store import RunStore
from tapir.domain.completion import Completion, Failure, Spending
from tapir.domain.errors import RoleError
from tapir.domain.progress import Progress
from tapir.models.api.batch import stream_batches
from tapir.models.api.client import ApiClient
from tapir.models.api.connection import read_key
from tapir.models.api.facts import check_reachable, takes_schema
from tapir.models.api.protocol import ROOM_FOR_THOUGHT, Request
from tapir.models.api.retry import RetryPolicy

KeyT = TypeVar("KeyT")
LEDGER = "ledger.sqlite"


class Caller(Protocol):
    """What a role needs to make its calls."""

    def stream(
        self, endpoints: tuple[str, ...], requests: Iterable[tuple[KeyT, Request]]
    ) -> Iterator[tuple[KeyT, Completion | Failure]]:
        """Yield the replies to requests, in the order they come."""

    def json_schema(self, endpoints: tuple[str, ...]) -> bool:
        """Whether all these endpoints take a JSON schema."""


@dataclass(slots=True)
class ApiSession:
    """All endpoints of a recipe."""

    endpoints: Mapping[str, EndpointConfig]
    calls: CallsConfig = field(default_factory=CallsConfig)
    pause_factor: float = 1.0  # of the pauses between attempts
    _client: ApiClient | None = field(default=None)
    _elsewhere: dict[Any, Any] = field(default_factory=dict)  # paid, and not in the ledger

    def ready(self) -> None:
        """Check that every key is in the environment."""
        for name, endpoint in self.endpoints.items():
            read_key(name, endpoint)

    def open(self, folder: Path, run: str, progress: Progress) -> None:
        """Open the connections for a run; check that every endpoint responds and takes its key."""
        ledger = Path(self.calls.ledger).expanduser() if self.calls.ledger else folder / LEDGER
        retry = RetryPolicy(self.calls.attempts, pause_factor=self.pause_factor)
        stopping, max_cost = (lambda: progress.stopping), self.calls.max_cost
        self._client = ApiClient(
            self.endpoints, ledger, stopping, run=run, max_cost=max_cost, retry=retry, note=progress.note
        )
        try:
            self._carry(RunReader(RunStore(folder)).spending(), progress)
            check_reachable(self._client)
        except BaseException:
            self.close()
            raise

    def enter(self, number: int, stage: str) -> None:
        """Record this round and stage with every call from now on."""
        self._connected().enter(number, stage)

    def meter(self) -> str:
        """Return money and calls so far, e.g. "1.2345 spent, 4,567 calls, 12 from the ledger"."""
        if self._client is None:
            return ""
        budget = self._client.budget
        limit = f" of {budget.limit:g}" if budget.limit else ""
        money = f"{budget.spent:.4f}{limit} spent, " if any(each.costs for each in self.endpoints.values()) else ""
        reused = f", {budget.reused:,} from the ledger" if budget.reused else ""
        return f"{money}{budget.calls:,} calls{reused}"

    def _carry(self, earlier: Iterable[Spending], progress: Progress) -> None:
        """Count what the run has paid by an `earlier` account and the ledger does not hold: it may have been moved."""
        self._elsewhere.clear()
        paid, budget = self._paid(), self._connected().budget
        rows = {astuple(row)[:3]: Counter[str](dict(islice(asdict(row).items(), 3, None))) for row in earlier}
        self._elsewhere = {place: amounts - paid[place] for place, amounts in rows.items()}
        rest = sum(self._elsewhere.values(), Counter[str]())
        budget.spent, budget.possible = budget.spent + rest["cost"], budget.possible + rest["possible_cost"]
        if rest["calls"]:
            why = "not in its ledger; they count as spent (`tapir ledger merge` brings their replies from another one)"
            progress.note(f"{rest['calls']:,} calls that the run has paid are {why}")

    def spent(self) -> list[Spending]:
        """Return what the run has paid so far, earlier sessions included."""
        return [Spending(*place, **amounts) for place, amounts in self._paid().items() if amounts]

    def _paid(self) -> defaultdict[Any, Any]:
        """Return the fields of `Spending` by round, stage and task: of the ledger, and what it does not hold."""
        client = self._connected()
        paid = defaultdict[Any, Any](Counter, {place: rest.copy() for place, rest in self._elsewhere.items()})
        for row in client.ledger.spent(client.run):
            paid[astuple(row.purpose)[1:]].update(asdict(row.usage) | {"calls": row.calls, "cost": row.cost})
        for row in client.ledger.spent(client.run, possibly=True):
            paid[astuple(row.purpose)[1:]].update(possible_calls=row.calls, possible_cost=row.cost)
        return paid

    def json_schema(self, endpoints: tuple[str, ...]) -> bool:
        """Whether all these endpoints take a JSON schema; where the recipe leaves it open, found out now."""
        return all(takes_schema(self._connected(), name) for name in endpoints)

    def model(self, endpoint: str) -> str:
        """Return the model of an endpoint, as its server has it where the recipe leaves it open."""
        return self._connected().endpoints[endpoint].config.model

    def paid(self) -> tuple[int, float]:
        """Return the tokens that were billed in this session, and the money, that of earlier ones included."""
        return self._connected().budget.paid

    def stream(
        self, endpoints: tuple[str, ...], requests: Iterable[tuple[KeyT, Request]]
    ) -> Iterator[tuple[KeyT, Completion | Failure]]:
        """Yield the replies to requests, in the order they come; see `ApiClient.stream`.

        A model that thinks may spend all its tokens on that: such a call is made once more, with as much room for a
        thought as the model's context has. Where that is refused, the first reply stands.
        """
        thinking: list[tuple[tuple[KeyT, Completion], Request]] = []
        remembered = (((key, request), request) for key, request in requests)
        for (key, request), reply in self._stream(endpoints, remembered):
            if isinstance(reply, Completion) and (room := self._room(endpoints, request, reply)) > 0:
                sampling = replace(request.sampling, thinking_tokens=room)
                thinking.append(((key, reply), replace(request, sampling=sampling)))
            else:
                yield key, reply
        if thinking:
            most = max(request.sampling.thinking_tokens for _, request in thinking)
            again = f"asked again with {most:,} tokens more"
            setting = f"endpoints.{endpoints[0]}.thinking_tokens = {most} saves the first call"
            asked = f"{len(thinking)} replies of {', '.join(endpoints)} were all thought"
            self._connected().note(f"{asked}: {again} ({setting})")
            for (key, first), reply in self._stream(endpoints, thinking):
                yield key, first if isinstance(reply, Failure) and reply.kind == "bad-request" else reply

    def _room(self, endpoints: tuple[str, ...], request: Request, reply: Completion) -> int:
        """Return the tokens for a thought that a second call can have; 0 or less where there is to be none."""
        if not (reply.all_thought and reply.finish_reason == "length"):
            return 0
        known = [self._connected().endpoints[name] for name in endpoints]
        used = reply.usage.prompt_tokens + request.sampling.max_tokens
        left = [each.context - used - each.config.thinking_tokens for each in known if each.context]
        return min([ROOM_FOR_THOUGHT, *left])

    def _stream(
        self, endpoints: tuple[str, ...], requests: Iterable[tuple[KeyT, Request]]
    ) -> Iterator[tuple[KeyT, Completion | Failure]]:
        client, first = self._connected(), self.endpoints[endpoints[0]]
        states = (client.ledger.open_batches(first.base_url, client.run, state) for state in ("open", "begun"))
        if first.batch or any(states):  # `batch` may have been switched off meanwhile
            rest = dict(enumerate(requests))
            numbered = [(number, request) for number, (_, request) in rest.items()]
            for number, reply in stream_batches(client, endpoints[0], numbered):
                yield rest.pop(number)[0], reply
            requests = rest.values()
        yield from client.stream(endpoints, requests)

    def close(self) -> None:
        """End the session."""
        if self._client:
            self._client.close()
        self._client = None

    def _connected(self) -> ApiClient:
        if self._client is None:
            raise RoleError("a model was called outside of a run", remedy="Call open() first.")
        return self._client
