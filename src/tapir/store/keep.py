"""Keep what is finished, owe the rest: the one way a stage over items is carried out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from tapir.errors import RoleError
from tapir.roles import Watch
from tapir.store.run import Parts, RunStore, cells
from tapir.store.tables import RowT

ItemT = TypeVar("ItemT")

_LINES = 8


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage works: which run, which round, whose eyes.

    Attributes:
        number: round; 0 is the warm-up and the first look at the corpus.
        seed: of the run.
    """

    store: RunStore
    watch: Watch
    number: int
    seed: int

    def named(self, table: str) -> str:
        """A table of this round, relative to the run's folder."""
        return f"round-{self.number}/{table}"


@dataclass(frozen=True, slots=True)
class Work:
    """A table to be made from items.

    Attributes:
        stage: the verb, for the progress display.
        table: its file name without ending.
        chunk: items that are done and saved together. It is part of the recipe because a student
            answers a chunk as one set of batches, and batches decide the last bits of a float.
    """

    stage: str
    table: str
    chunk: int


def keep(
    place: Place,
    work: Work,
    row: type[RowT],
    items: Sequence[tuple[str, ItemT]],
    do: Callable[[Iterator[Sequence[tuple[str, ItemT]]]], Iterable[tuple[int, Sequence[RowT]]]],
) -> list[RowT]:
    """Make a table chunk by chunk, each saved when it is finished, or read it if it is.

    Args:
        place: the run and round.
        work: what is made.
        row: class of the table's rows.
        items: (id, item) in the order of work; ids are distinct.
        do: takes the owed chunks one by one and gives the place of each among them and its rows, in any order.

    Raises:
        RoleError: `do` left out a chunk; what it gave is saved.
    """
    name = place.named(work.table)
    if place.store.has(name):
        place.store.parts(name).drop()
        return place.store.read(name, row)
    chunks = [items[start : start + work.chunk] for start in range(0, len(items), work.chunk)]
    parts = place.store.parts(name)
    finished = parts.read()
    keys = [_key(chunk) for chunk in chunks]
    rows = {key: [restored(row, one) for one in finished[key]] for key in keys if key in finished}
    owed = [(key, chunk) for key, chunk in zip(keys, chunks, strict=True) if key not in finished]
    place.watch.start(place.number, work.stage, len(items), len(items) - sum(len(chunk) for _, chunk in owed))
    for number, made in do(_until_stopped(place.watch, [chunk for _, chunk in owed])):
        key, chunk = owed[number]
        parts.append(key, [cells(one) for one in made])
        rows[key] = list(made)
        place.watch.advance(len(chunk))
    place.watch.check()
    if missing := [chunk[0][0] for key, chunk in owed if key not in rows]:
        raise _left_out(work, f"{len(missing)} of {len(chunks)} chunks", missing[0])
    table = place.store.once(name, row, lambda: [one for key in keys for one in rows[key]])
    parts.drop()
    place.watch.finish()
    return table


def _until_stopped(watch: Watch, chunks: Sequence[ItemT]) -> Iterator[ItemT]:
    for chunk in chunks:
        if watch.stopping:
            return
        yield chunk


def _left_out(work: Work, what: str, first: str) -> RoleError:
    return RoleError(
        f"{work.stage}: {what} came back without a reply, the first is {first}",
        remedy="Whoever fills the role must give one reply for each item; trouble with an item is a Failure.",
    )


def _key(chunk: Sequence[tuple[str, object]]) -> str:
    return hashlib.blake2b("/".join(name for name, _ in chunk).encode(), digest_size=8).hexdigest()


def restored(row: type[RowT], cells: Sequence[object]) -> RowT:
    """The row that `cells` were taken from."""
    return row(*(tuple(cell) if isinstance(cell, list) else cell for cell in cells))


def stream(
    place: Place,
    work: Work,
    row: type[RowT],
    items: Sequence[tuple[str, ItemT]],
    do: Callable[[Iterator[tuple[str, ItemT]]], Iterable[tuple[str, Sequence[RowT]]]],
) -> None:
    """Make a table of items that do not depend on each other, in whatever order they are finished.

    What is finished is saved every `work.chunk` items, and when the work ends early. The table has the order
    of the items, so it does not depend on the order of the work; few rows are in memory at once.

    Args:
        place: the run and round.
        work: what is made.
        row: class of the table's rows.
        items: (id, item); ids are distinct.
        do: takes the owed items one by one and gives the rows of each, in any order.

    Raises:
        RoleError: `do` left out an item; what it gave is saved.
    """
    name = place.named(work.table)
    parts = place.store.parts(name)
    if place.store.has(name):
        parts.drop()
        return
    where = {key: (start, turn) for start, keys, _ in parts.lines() for turn, key in enumerate(keys)}
    place.watch.start(place.number, work.stage, len(items), len(where))
    fresh: list[tuple[str, Sequence[RowT]]] = []

    def save() -> None:
        if fresh:
            start = parts.append([key for key, _ in fresh], [[cells(one) for one in rows] for _, rows in fresh])
            where.update({key: (start, turn) for turn, (key, _) in enumerate(fresh)})
            fresh.clear()

    try:
        for key, rows in do((key, item) for key, item in items if key not in where):
            fresh.append((key, rows))
            place.watch.advance()
            if len(fresh) >= work.chunk:
                save()
    finally:
        save()
    place.watch.check()
    if missing := [key for key, _ in items if key not in where]:
        raise _left_out(work, f"{len(missing)} of {len(items)} items", missing[0])
    place.store.write(name, row, _in_order(parts, row, [where[key] for key, _ in items]))
    parts.drop()
    place.watch.finish()


def _in_order(parts: Parts, row: type[RowT], places: Iterable[tuple[int, int]]) -> Iterator[RowT]:
    """The rows at these places; the lines read last are remembered, as items are finished nearly in order."""
    line = lru_cache(_LINES)(parts.at)
    for start, turn in places:
        for one in line(start)[turn]:
            yield restored(row, one)
