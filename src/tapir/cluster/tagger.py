"""A tagger whose labels are found by many workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from tapir.cluster.blocks import Blocks, in_blocks
from tapir.cluster.connection import RayCluster
from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction
from tapir.domain.task import TaskTag, Taxonomy
from tapir.roles import Resource, Tagger, TaggerReport, Watch

Tag: TypeAlias = tuple[str, TaskTag | Failure]


@runtime_checkable
class Travelling(Protocol):
    """A tagger that holds what cannot travel (connections, the display) or should not (memory of an accelerator)."""

    def travelling(self) -> Tagger:
        """A copy that can be pickled, and only tags."""


@dataclass(frozen=True, slots=True)
class Tagging:
    """A worker's part: the tagger as it was fitted."""

    tagger: Tagger

    def begin(self, note: Callable[[str], None]) -> Callable[[Sequence[Instruction]], list[Tag]]:
        """The tagger came with the work."""
        del note
        return lambda block: list(self.tagger.tag(block))


class RayTagger:
    """Learns here, tags there: what was fitted is shipped once to each machine."""

    def __init__(self, cluster: RayCluster, inner: Tagger, chunk: int) -> None:
        """Take the cluster, the tagger, and how many instructions make a block.

        The tagger must be one that can be pickled once it is fitted, or `Travelling`.
        """
        self._cluster = cluster
        self._inner = inner
        self._chunk = chunk

    @property
    def taxonomy(self) -> Taxonomy:
        """The labels it chooses from."""
        return self._inner.taxonomy

    def open(self, folder: Path, watch: Watch) -> None:
        """A session begins."""
        self._cluster.open(folder, watch)
        if isinstance(self._inner, Resource):
            self._inner.open(folder, watch)

    def rest(self) -> None:
        """Give back what the tagger holds here."""
        if isinstance(self._inner, Resource):
            self._inner.rest()

    def close(self) -> None:
        """The session ends."""
        self._cluster.close()
        if isinstance(self._inner, Resource):
            self._inner.close()

    def sample(self, instructions: Sequence[Instruction], seed: int) -> Sequence[Instruction]:
        """The instructions whose labels it has to learn from."""
        return self._inner.sample(instructions, seed)

    def label(self, instructions: Iterable[Instruction]) -> Iterable[Tag]:
        """Labels to learn from, by this process."""
        return self._inner.label(instructions)

    def fit(self, labelled: Sequence[tuple[Instruction, str]]) -> TaggerReport | None:
        """Learn from labels, in this process."""
        return self._inner.fit(labelled)

    def tag(self, instructions: Iterable[Instruction]) -> Iterator[Tag]:
        """Instruction id and label, in any order.

        Raises:
            RoleError: the cluster cannot be used, or the tagger cannot tag at all.
            Interrupted: the user stopped.
        """
        self.rest()
        inner = self._inner.travelling() if isinstance(self._inner, Travelling) else self._inner
        work = Tagging(inner)
        for _, tags in self._cluster.map(Blocks.of(work), in_blocks(instructions, self._chunk)):
            yield from tags
