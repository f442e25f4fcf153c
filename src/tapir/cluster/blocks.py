"""Blocks of work on Ray Data: one task for each block, an actor for each worker."""

from __future__ import annotations

import pickle
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tapir.cluster.wire import Note, Result, Room
from tapir.errors import RoleError, TapirError

if TYPE_CHECKING:
    import pyarrow as pa

ItemT = TypeVar("ItemT")
BlockT_contra = TypeVar("BlockT_contra", contravariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)

_MOST = 4  # times that a block is begun: a machine may be lost, but not one after the other for the same block
_AHEAD = 2  # blocks handed to a worker: the one it works on and the next


class Work(Protocol[BlockT_contra, ResultT_co]):
    """What a worker does. It travels to the workers, so it can be pickled."""

    def begin(self, note: Callable[[str], None]) -> Callable[[BlockT_contra], ResultT_co]:
        """Called once in each worker, before its first block; facts worth a line go to `note`."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Work that is the same for every block.

    Attributes:
        work: pickled `Work`; shipped once to each machine.
        light: a worker only waits for others, so that it takes no core and no GPU.
    """

    work: bytes
    light: bool = False

    @classmethod
    def of(cls, work: Work[Any, Any], *, light: bool = False) -> Blocks:
        """The flow of some work."""
        return cls(pickle.dumps(work), light)

    def results(self, blocks: Iterator[bytes], room: Room) -> Iterator[Result | Note]:
        """Each block's result as it comes; of a lost worker the blocks are done again."""
        import ray.data

        work, stored = ray.put(self.work), [ray.put(block) for block in blocks]
        begun = ray.remote(Begun).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        rows = [{"place": place} for place in range(len(stored))]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Worker,
            fn_constructor_args=([work], stored, begun),
            batch_size=1,
            batch_format="pyarrow",
            compute=pool(room),
            num_cpus=0 if self.light else room.order.cpus,
            num_gpus=0 if self.light else room.order.gpus,
        )
        for table in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in table.to_pylist():
                yield from map(Note, row["notes"])
                if row["trace"]:
                    sys.stderr.write(row["trace"])
                    raise pickle.loads(row["content"])  # noqa: S301 (written by a worker of ours)
                yield Result(row["place"], row["content"])


def pool(room: Room) -> Any:
    """As many workers as fit, and more where the cluster grows."""
    from ray.data import ActorPoolStrategy

    fit = min(room.workers, room.order.workers)
    return ActorPoolStrategy(
        min_size=fit, initial_size=fit, max_size=room.order.workers, max_tasks_in_flight_per_actor=_AHEAD
    )


class Begun:
    """An actor that counts how often each block was begun: Ray gives a block to one worker after the other for ever."""

    def __init__(self) -> None:
        """Nothing was begun yet."""
        self._times: Counter[int] = Counter()

    def again(self, place: int) -> int:
        """How often it was begun, this time included."""
        self._times[place] += 1
        return self._times[place]


class Worker:
    """An actor: begins its work with the first block, so that a place in the cluster is taken at once."""

    def __init__(self, work: Sequence[Any], blocks: Sequence[Any], begun: Any) -> None:
        """Take the references to the work (one) and to all blocks, and whoever counts."""
        self._work = work
        self._blocks = blocks
        self._begun = begun
        self._notes: list[str] = []
        self._do: Callable[[Any], Any] | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        """Do the block at the place that the only row names; an error is handed on as one, with its trace."""
        import pyarrow as pa

        self._notes.clear()
        place, trace = table["place"][0].as_py(), ""
        try:
            content = pickle.dumps(self._done(place))
        except Exception as error:  # noqa: BLE001 - whatever it is, the run has to hear of it
            content, trace = pickle.dumps(_told(error)), traceback.format_exc()
        row = {"place": place, "content": content, "trace": trace, "notes": list(self._notes)}
        return pa.Table.from_pylist([row], schema=_schema())

    def _done(self, place: int) -> Any:
        import ray

        if ray.get(self._begun.again.remote(place)) > _MOST:
            raise RoleError(
                f"{_MOST} workers were killed, one after the other, while they did block {place}",
                remedy="Most likely memory did not suffice: lower student.batch_size or chunk, or have fewer workers on"
                " a machine (engine.cpus); the system's log has what killed them.",
            )
        if self._do is None:
            self._do = pickle.loads(ray.get(self._work[0])).begin(self._notes.append)  # noqa: S301 (of this program)
        return self._do(pickle.loads(ray.get(self._blocks[place])))  # noqa: S301


def _schema() -> pa.Schema:
    import pyarrow as pa

    columns = {"place": pa.int64(), "content": pa.large_binary(), "trace": pa.string(), "notes": pa.list_(pa.string())}
    return pa.schema(columns)


def _told(error: Exception) -> TapirError:
    """An error as the run raises it, with the machine that met it."""
    where = f"a worker on {socket.gethostname()}"
    if isinstance(error, TapirError):
        error.args = (f"{where}: {error}",)
        return error
    return RoleError(
        f"{where} failed: {type(error).__name__}: {error}",
        remedy="The run's ray.log says where; mend it, `tapir resume` then goes on.",
    )


def in_blocks(items: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    """Items in lists of `size`; the last may be shorter."""
    source = iter(items)
    while block := list(islice(source, size)):
        yield block
