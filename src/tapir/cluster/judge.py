"""A judge whose calls to servers of one's own are made by many workers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypeVar

from tapir.cluster.blocks import Blocks, in_blocks
from tapir.cluster.connection import RayCluster
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.judgement import Verdict
from tapir.errors import RecipeError
from tapir.llm.endpoint import Endpoint
from tapir.llm.switchboard import Caller, Switchboard
from tapir.llm.wire import Request
from tapir.roles import Comparison, Judge, Watch
from tapir.tagging.alone import Alone

KeyT = TypeVar("KeyT")
Judged: TypeAlias = tuple[list[tuple[str, Verdict]], int, Usage]
"""Verdicts of a block, and the calls and tokens they took."""


@dataclass(frozen=True, slots=True)
class OwnServers:
    """Endpoints that cost nothing, and how often and how patiently they are asked.

    Attributes:
        patience: multiplies the engine's pauses.
    """

    endpoints: Mapping[str, Endpoint]
    attempts: int = 6
    patience: float = 1.0

    def __post_init__(self) -> None:
        for one in self.endpoints.values():
            if one.price.input or one.price.cached or one.price.output or one.batch:
                raise RecipeError(
                    f"endpoints.{one.name} costs money or takes batches, and workers of a cluster keep no ledger",
                    remedy='Judge with servers of your own there (no prices, batch = false), or set engine = "local".',
                )


@dataclass(frozen=True, slots=True)
class Judging:
    """A worker's part: an engine of its own, and a judge that calls through it."""

    servers: OwnServers
    make: Callable[[Caller], Judge]

    def begin(self, note: Callable[[str], None]) -> Callable[[Sequence[Comparison]], Judged]:
        """The engine opens once; its ledger is a file that goes with the worker."""
        del note
        bench = _Bench(self.servers)
        judge = self.make(bench)

        def judged(block: Sequence[Comparison]) -> Judged:
            bench.calls, bench.usage = 0, Usage()
            return list(judge.judge(block)), bench.calls, bench.usage

        return judged


@dataclass(slots=True)
class _Bench:
    """A way to call that counts."""

    servers: OwnServers
    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    _board: Switchboard = field(init=False)
    _files: tempfile.TemporaryDirectory[str] = field(init=False)

    def __post_init__(self) -> None:
        self._files = tempfile.TemporaryDirectory(prefix="tapir-judge-", ignore_cleanup_errors=True)
        self._board = Switchboard(self.servers.endpoints, None, 0.0, self.servers.attempts, self.servers.patience)
        self._board.open(Path(self._files.name), "", Alone())

    def json_schema(self, endpoints: tuple[str, ...]) -> bool:
        """Whether all these endpoints take a JSON schema."""
        return self._board.json_schema(endpoints)

    def stream(
        self, endpoints: tuple[str, ...], requests: Iterable[tuple[KeyT, Request]]
    ) -> Iterator[tuple[KeyT, Completion | Failure]]:
        """Replies to requests, in the order they come."""
        for key, reply in self._board.stream(endpoints, requests):
            if isinstance(reply, Completion):
                self.calls += 1
                self.usage = _sum(self.usage, reply.usage)
            yield key, reply


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.cached_tokens + other.cached_tokens,
    )


class RayJudge:
    """Comparisons go to the workers in blocks. A worker only waits for its servers, so it takes no core of the cluster.

    Keys of servers are read from the environment of the workers, and never sent.
    """

    def __init__(
        self, cluster: RayCluster, servers: OwnServers, make: Callable[[Caller], Judge], name: str, block: int
    ) -> None:
        """Take what makes the judge in a worker, e.g. `partial(LlmJudge, book=..., settings=..., name=...)`.

        Args:
            cluster: where the workers are.
            servers: what they call.
            make: takes the way to call; it travels, so it can be pickled.
            name: recorded with every judgement; that of the judge which `make` makes.
            block: comparisons that a worker takes at a time.
        """
        self.name = name
        self.calls = 0
        self.usage = Usage()
        self._cluster = cluster
        self._work = Judging(servers, make)
        self._block = block

    def open(self, folder: Path, watch: Watch) -> None:
        """A session begins."""
        self._cluster.open(folder, watch)

    def rest(self) -> None:
        """Its workers ended with their work."""
        self._cluster.rest()

    def close(self) -> None:
        """The session ends."""
        self._cluster.close()

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        """Instruction id and verdict for each comparison, as they come.

        Raises:
            RoleError: the cluster cannot be used, or a server refuses all calls.
            Interrupted: the user stopped.
        """
        flow = Blocks.of(self._work, light=True)
        for _, (verdicts, calls, usage) in self._cluster.map(flow, in_blocks(comparisons, self._block)):
            self.calls += calls
            self.usage = _sum(self.usage, usage)
            yield from verdicts
