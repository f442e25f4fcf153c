"""A student that answers on many workers, each with the checkpoint loaded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tapir.cluster.blocks import Blocks
from tapir.cluster.connection import RayCluster
from tapir.domain.instruction import Instruction
from tapir.domain.round import Checkpoint
from tapir.roles import Reply, Resource, Student, Watch
from tapir.tagging.alone import Alone


@dataclass(frozen=True, slots=True)
class Answering:
    """A worker's part: load the checkpoint, answer chunks."""

    make: Callable[[], Student]
    checkpoint: Checkpoint

    def begin(self, note: Callable[[str], None]) -> Callable[[Sequence[Instruction]], list[Reply]]:
        """A student of its own."""
        student = self.make()
        if isinstance(student, Resource):
            student.open(Path(tempfile.gettempdir()), _Telling(note))
        return lambda chunk: list(student.answer(self.checkpoint, chunk))


class _Telling(Alone):
    """A watch that hands notes on."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def note(self, text: str) -> None:
        """A fact worth a line."""
        self._tell(text)


class RayStudent:
    """One chunk is one block: it is answered in the same batches, and so with the same text, as on one machine.

    Checkpoints are read by the workers, so the run's folder must be one that all machines of the cluster see.
    """

    def __init__(self, cluster: RayCluster, make: Callable[[], Student]) -> None:
        """Take the cluster and what makes a student in a worker, for example `partial(LocalStudent, ...)`."""
        self._cluster = cluster
        self._make = make

    def open(self, folder: Path, watch: Watch) -> None:
        """A session begins."""
        self._cluster.open(folder, watch)

    def rest(self) -> None:
        """Its workers ended with their work."""
        self._cluster.rest()

    def close(self) -> None:
        """The session ends."""
        self._cluster.close()

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        """One answer to each instruction, all by one worker; `answer_all` uses all workers.

        Raises:
            RoleError: the cluster cannot be used, or the checkpoint cannot be loaded.
            Interrupted: the user stopped.
        """
        for _, replies in self.answer_all(checkpoint, [instructions] if instructions else []):
            yield from replies

    def answer_all(
        self, checkpoint: Checkpoint, chunks: Iterable[Sequence[Instruction]]
    ) -> Iterator[tuple[int, Sequence[Reply]]]:
        """Place of a chunk and its replies, as they come; raises what `answer` raises."""
        work = Answering(self._make, everywhere(checkpoint))
        return self._cluster.map(Blocks.of(work), (list(chunk) for chunk in chunks))


def everywhere(checkpoint: Checkpoint) -> Checkpoint:
    """A folder by its whole path, as workers start elsewhere; a hub id stays what it is."""
    path = Path(checkpoint.path)
    return replace(checkpoint, path=str(path.absolute())) if path.exists() else checkpoint
