"""Checkpointed execution of per-item stages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

from tapir.data.run.store import RunStore, cells
from tapir.data.run.tables import RowT
from tapir.domain.errors import RoleError
from tapir.domain.instruction import Turn
from tapir.domain.progress import Progress

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class StageContext:
    """Execution context of a stage."""

    store: RunStore
    progress: Progress
    number: int  # round; 0 is the warm-up and the first look at the corpus
    seed: int  # of the run

    def path(self, table: str) -> str:
        """Return where a table of this round is, relative to the run's folder."""
        return f"round-{self.number}/{table}"


@dataclass(frozen=True, slots=True)
class Work:
    """A table to be computed from items, and the verb for the progress display.

    `chunk` items are computed and saved together. It is part of the recipe because a student answers a chunk as one set
    of batches, and batches decide the last bits of a float.
    """

    stage: str
    table: str  # its file name without suffix
    chunk: int
    counted: bool = False  # the computation itself reports each finished item, where all items are one chunk


def run_chunks(
    context: StageContext,
    work: Work,
    row: type[RowT],
    items: Sequence[tuple[str, ItemT]],
    do: Callable[[Iterator[Sequence[tuple[str, ItemT]]]], Iterable[tuple[int, Sequence[RowT]]]],
) -> list[RowT]:
    """Compute a table chunk by chunk, saving each finished chunk; a finished table is read.

    Args:
        context: the run and round.
        work: the table.
        row: class of the table's rows.
        items: (id, item) in the order of work; ids are distinct.
        do: takes the pending chunks and yields the index of each among them and its rows, in any order.
    """
    name = context.path(work.table)
    if context.store.has(name):
        context.store.parts(name).drop()
        return context.store.read(name, row)
    chunks = [items[start : start + work.chunk] for start in range(0, len(items), work.chunk)]
    parts = context.store.parts(name)
    finished = parts.read()
    names = ("/".join(name for name, _ in chunk) for chunk in chunks)
    keys = [hashlib.blake2b(each.encode(), digest_size=8).hexdigest() for each in names]
    rows = {key: [restore_row(row, saved) for saved in finished[key]] for key in keys if key in finished}
    pending = [(key, chunk) for key, chunk in zip(keys, chunks, strict=True) if key not in finished]
    context.progress.start(context.number, work.stage, len(items), len(items) - sum(len(chunk) for _, chunk in pending))
    for number, result in do(takewhile(lambda _: not context.progress.stopping, (chunk for _, chunk in pending))):
        key, chunk = pending[number]
        parts.append([(key, [cells(made) for made in result])])
        rows[key] = list(result)
        if not work.counted:
            context.progress.advance(len(chunk))
    context.progress.check()
    if missing := [chunk[0][0] for key, chunk in pending if key not in rows]:
        raise _missing_error(work, f"{len(missing)} of {len(chunks)} chunks", missing[0])
    table = context.store.once(name, row, lambda: [made for key in keys for made in rows[key]])
    parts.drop()
    context.progress.finish()
    return table


def _missing_error(work: Work, what: str, first: str) -> RoleError:
    return RoleError(
        f"{work.stage}: {what} came back without a reply, the first is {first}",
        remedy="An implementation must yield exactly one reply per item; return a Failure for items it cannot process.",
    )


def restore_row(row: type[RowT], cells: Sequence[object]) -> RowT:
    """Return the row that `cells` were taken from."""
    return row(*(tuple(map(_item, cell)) if isinstance(cell, list) else cell for cell in cells))


def _item(item: object) -> object:
    return Turn(*item) if isinstance(item, list) else item


def run_items(
    context: StageContext,
    work: Work,
    row: type[RowT],
    items: Sequence[tuple[str, ItemT]],
    do: Callable[[Iterator[tuple[str, ItemT]]], Iterable[tuple[str, Sequence[RowT]]]],
) -> Iterator[RowT]:
    """Compute a table of independent items, in whatever order they are finished; return its rows.

    Finished items are saved every `work.chunk` items and when the work ends early. The table has the order of the
    items, so it does not depend on the order of the replies; few rows are in memory at once.

    Args:
        context: the run and round.
        work: the table.
        row: class of the table's rows.
        items: (id, item); ids are distinct.
        do: takes the pending items and yields the rows of each, in any order.
    """
    name = context.path(work.table)
    parts = context.store.parts(name)
    if context.store.has(name):
        parts.drop()
        return context.store.each(name, row)
    where = {key: at for at, keys, _ in parts.lines() for key in ([keys] if isinstance(keys, str) else keys)}
    context.progress.start(context.number, work.stage, len(items), len(where))
    fresh: list[tuple[str, Sequence[RowT]]] = []

    def save() -> None:
        if fresh:
            places = parts.append((key, [cells(made) for made in rows]) for key, rows in fresh)
            where.update(zip((key for key, _ in fresh), places, strict=True))
            fresh.clear()

    try:
        for key, rows in do((key, item) for key, item in items if key not in where):
            fresh.append((key, rows))
            context.progress.advance()
            if len(fresh) >= work.chunk:
                save()
    finally:
        save()
    context.progress.check()
    if missing := [key for key, _ in items if key not in where]:
        raise _missing_error(work, f"{len(missing)} of {len(items)} items", missing[0])
    saved = (each for key, _ in items for each in parts.at(where[key], key))
    context.store.write(name, row, (restore_row(row, each) for each in saved))
    parts.drop()
    context.progress.finish()
    return context.store.each(name, row)
