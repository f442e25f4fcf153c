"""A student on the workers of a Ray cluster, through Ray Data."""

from __future__ import annotations

import pickle
import socket
import sys
import tempfile
import traceback
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar

from tapir.config.student import LocalStudentConfig, StudentSection
from tapir.domain.errors import RoleError, TapirError
from tapir.domain.instruction import Instruction
from tapir.domain.progress import Progress, SilentProgress
from tapir.domain.roles import Reply
from tapir.domain.round import Checkpoint
from tapir.models.local.generate import LocalStudent
from tapir.models.local.loading import MODEL_DEFAULTS, ModelSettings
from tapir.models.local.ray_cluster import DataFlow, RayCluster, Result, Room

if TYPE_CHECKING:
    import pyarrow as pa

    from tapir.models.context import BuildContext

SectionT = TypeVar("SectionT", bound=StudentSection)
WorkerTask: TypeAlias = Callable[[Callable[[str], None]], Callable[[Any], Any]]
"""Called once in each worker, with what notes a fact worth a line; returns what does a block. It can be pickled."""

_MAX_ATTEMPTS = 4  # at a block: a machine may be lost, but not one after the other for the same block
_TASKS_PER_WORKER = 2  # blocks: the one it works on and the next


def do_blocks(task: WorkerTask, blocks: Iterator[bytes], room: Room) -> Iterator[Result]:
    """Yield each block's result as it comes; the blocks of a lost worker are done again."""
    import ray.data

    stored_task, stored = ray.put(pickle.dumps(task)), [ray.put(block) for block in blocks]
    attempts = ray.remote(Attempts).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    rows = [{"place": place} for place in range(len(stored))]
    workers = min(room.workers, room.engine.workers)
    pool = ray.data.ActorPoolStrategy(
        min_size=workers,
        initial_size=workers,
        max_size=room.engine.workers,
        max_tasks_in_flight_per_actor=_TASKS_PER_WORKER,
    )
    output = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Worker,
        fn_constructor_args=([stored_task], stored, attempts),
        batch_size=1,
        batch_format="pyarrow",
        compute=pool,
        num_cpus=room.engine.cpus,
        num_gpus=room.engine.gpus,
    )
    for table in output.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in table.to_pylist():
            yield from row["notes"]
            if row["trace"]:
                sys.stderr.write(row["trace"])
                raise pickle.loads(row["content"])  # noqa: S301 (written by a worker of ours)
            yield row["place"], row["content"]


class Attempts:
    """An actor that counts the attempts at each block: Ray gives a block to one worker after the other for ever."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, place: int) -> int:
        """Count an attempt; return how many there were."""
        self._counts[place] += 1
        return self._counts[place]


class Worker:
    """An actor: begins its task with the first block, so that a place in the cluster is taken at once."""

    def __init__(self, task: Sequence[Any], blocks: Sequence[Any], attempts: Any) -> None:
        self._task, self._blocks, self._attempts = task, blocks, attempts
        self._notes: list[str] = []
        self._do: Callable[[Any], Any] | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        """Do the block at the place that the only row names; an error is returned with its trace."""
        import pyarrow as pa

        self._notes.clear()
        place, trace = table["place"][0].as_py(), ""
        try:
            content = pickle.dumps(self._do_block(place))
        except Exception as error:  # noqa: BLE001 - whatever it is, the run has to report it
            content, trace = pickle.dumps(_with_machine(error)), traceback.format_exc()
        row = {"place": place, "content": content, "trace": trace, "notes": list(self._notes)}
        types = (pa.int64(), pa.large_binary(), pa.string(), pa.list_(pa.string()))
        return pa.Table.from_pylist([row], pa.schema(dict(zip(row, types, strict=True))))

    def _do_block(self, place: int) -> Any:
        import ray

        if ray.get(self._attempts.add.remote(place)) > _MAX_ATTEMPTS:
            raise RoleError(
                f"{_MAX_ATTEMPTS} workers were killed, one after the other, while they did block {place}",
                remedy="Most likely memory did not suffice: lower student.batch_size or chunk, or have fewer workers on"
                " a machine (engine.cpus); the system's log has what killed them.",
            )
        if self._do is None:
            self._do = pickle.loads(ray.get(self._task[0]))(self._notes.append)  # noqa: S301 (of this program)
        return self._do(pickle.loads(ray.get(self._blocks[place])))  # noqa: S301


def _with_machine(error: Exception) -> TapirError:
    where = f"a worker on {socket.gethostname()}"
    if isinstance(error, TapirError):
        error.args = (f"{where}: {error}",)
        return error
    return RoleError(
        f"{where} failed: {type(error).__name__}: {error}",
        remedy="The run's ray.log says where; fix it, `tapir resume` then goes on.",
    )


class ClusterStudent(Generic[SectionT]):
    """A student whose chunks are answered by workers.

    Checkpoints are read by the workers, so the run's folder must be one that all machines of the cluster see.
    """

    def __init__(
        self, cluster: RayCluster, section: SectionT, seed: int, model: ModelSettings = MODEL_DEFAULTS
    ) -> None:
        self._cluster, self._section, self._seed, self._model = cluster, section, seed, model

    @classmethod
    def build(cls, section: SectionT, context: BuildContext) -> Self:
        """Build the student of a run."""
        assert context.workers is not None  # noqa: S101 (the engine is a cluster)
        return cls(context.workers, section, context.recipe.seed, ModelSettings.of(section))

    def open(self, folder: Path, progress: Progress) -> None:
        """Begin a session."""
        self._cluster.open(folder, progress)

    def rest(self) -> None:
        """Do nothing: workers end with their work."""

    def close(self) -> None:
        """End the session."""
        self._cluster.close()

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        """Answer each instruction, all of them as one chunk; `answer_all` uses all workers."""
        for _, replies in self.answer_all(checkpoint, [instructions] if instructions else []):
            yield from replies

    def answer_all(
        self, checkpoint: Checkpoint, chunks: Iterable[Sequence[Instruction]]
    ) -> Iterator[tuple[int, Sequence[Reply]]]:
        """Yield place and replies of each chunk, in any order; raises what `answer` raises."""
        path = Path(checkpoint.path)  # a whole one, as workers start elsewhere; a hub id stays what it is
        checkpoint = replace(checkpoint, path=str(path.absolute())) if path.exists() else checkpoint
        yield from self._cluster.map(self.flow(checkpoint), (list(chunk) for chunk in chunks))

    @abstractmethod
    def flow(self, checkpoint: Checkpoint) -> DataFlow:
        """Return how chunks of instructions become their replies."""


class RayStudent(ClusterStudent[LocalStudentConfig]):
    """One chunk is one block: it is answered in the same batches, and so with the same text, as on one machine."""

    def flow(self, checkpoint: Checkpoint) -> DataFlow:
        """Return the work of workers that load a student of their own."""
        return partial(do_blocks, partial(_answer_chunks, self._section, self._seed, self._model, checkpoint))


def _answer_chunks(
    section: LocalStudentConfig, seed: int, model: ModelSettings, checkpoint: Checkpoint, note: Callable[[str], None]
) -> Callable[[Sequence[Instruction]], list[Reply]]:
    """Return what answers chunks in a worker, with a student of its own."""

    class WorkerProgress(SilentProgress):
        def note(self, text: str) -> None:
            note(text)

    student = LocalStudent(section, seed, model)
    student.open(Path(tempfile.gettempdir()), WorkerProgress())
    return lambda chunk: list(student.answer(checkpoint, chunk))
