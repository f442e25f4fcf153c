"""Every example the run trained on, and where it comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tapir.errors import DataError
from tapir.export.paths import without_paths
from tapir.store.rows import CorpusRow, DifficultyRow, ExpansionRow, MixtureRow, RefinementRow, ResponseRow
from tapir.store.run import RunStore
from tapir.store.tables import RowT

_Key: TypeAlias = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Example:
    """One example with its lineage.

    Attributes:
        id: digest of the instruction; `tapir show` tells its whole life.
        pool: hard or easy, in the last of its rounds.
        origin: corpus or expansion.
        parents: ids of the hard seeds an expansion was written from.
        source: where it stands in the corpus, or how it was written.
        author: who wrote the answer before any refinement.
        refined: whether the response is y', the answer rewritten in the manner of its task.
        refiner: who rewrote it; empty where nobody did.
        gap: its difficulty (teacher minus student with MFD), as last measured by the last of its rounds; None for
            what was written since then.
        rounds: those that trained on it with this response.
    """

    id: str
    instruction: str
    response: str
    task: str
    pool: str
    origin: str
    parents: tuple[str, ...]
    source: str
    author: str
    refined: bool
    refiner: str
    gap: float | None
    rounds: tuple[int, ...]


@dataclass(slots=True)
class _Written:
    """Where an instruction and its first answer come from."""

    source: str = ""
    author: str = ""
    parents: tuple[str, ...] = ()
    refiner: str = ""


@dataclass(slots=True)
class _Trained:
    """What is known of one pair over the rounds."""

    pool: str
    gap: float | None
    rounds: list[int] = field(default_factory=list)


def composed_rounds(store: RunStore) -> list[int]:
    """Rounds whose mixture is complete, in order."""
    number, found = 1, []
    while store.has(f"round-{number}/mixture"):
        found.append(number)
        number += 1
    return found


def chosen_rounds(store: RunStore, wanted: int | None) -> list[int]:
    """The round that is wanted, or all of them.

    Raises:
        DataError: no round, or not this one, has a mixture.
    """
    found = composed_rounds(store)
    if not found:
        raise DataError(
            f"{store.folder} has no training data yet: no round has a mixture",
            remedy=f"Go on with `tapir resume {store.folder}`, then export.",
        )
    if wanted is not None and wanted not in found:
        raise DataError(
            f"round {wanted} of {store.folder} has no mixture; there are those of {_listed(found)}",
            remedy="Choose one of these, or leave --round out for all.",
        )
    return found if wanted is None else [wanted]


def _listed(rounds: Sequence[int]) -> str:
    return f"round {rounds[0]}" if len(rounds) == 1 else f"rounds {rounds[0]} to {rounds[-1]}"


def examples(store: RunStore, rounds: Sequence[int]) -> Iterator[Example]:
    """Each distinct pair of instruction and response once, in the order of the rounds.

    An instruction stands there twice if a later round trained on another response, for example because its
    refinement had failed before. The first two rows may come out of order: one with a gap and one with parents,
    so that a reader who infers the types from the beginning of a file meets every type there.

    Texts are streamed; what stays in memory is the lineage.
    """
    trained = _trained(store, rounds)
    written = _written(store, {name for name, _ in trained})
    first = {
        next((key for key, one in trained.items() if one.gap is not None), None),
        next((key for key in trained if written[key[0]].parents), None),
    }
    for leading in (True, False):
        done: set[_Key] = set()
        for number in rounds:
            for row in store.each(f"round-{number}/mixture", MixtureRow):
                key = _key(row)
                if (key in first) is leading and key not in done and trained[key].rounds[0] == number:
                    done.add(key)
                    yield _example(row, trained[key], written[row.id])


def _key(row: MixtureRow) -> _Key:
    return row.id, hashlib.blake2b(row.response.encode(), digest_size=8).digest()


def _example(row: MixtureRow, trained: _Trained, written: _Written) -> Example:
    return Example(
        id=row.id,
        instruction=row.instruction,
        response=row.response,
        task=row.task,
        pool=trained.pool,
        origin=row.origin,
        parents=written.parents,
        source=without_paths(written.source),
        author=without_paths(written.author),
        refined=row.refined,
        refiner=without_paths(written.refiner) if row.refined else "",
        gap=trained.gap,
        rounds=tuple(trained.rounds),
    )


def _trained(store: RunStore, rounds: Sequence[int]) -> dict[_Key, _Trained]:
    found: dict[_Key, _Trained] = {}
    wanted = {row.id for number in rounds for row in store.each(f"round-{number}/mixture", MixtureRow)}
    gaps: dict[str, float | None] = {}
    for number in range(1, max(rounds) + 1):
        if store.has(f"round-{number}/difficulty"):
            scored = store.each(f"round-{number}/difficulty", DifficultyRow)
            gaps.update((row.id, row.gap) for row in scored if row.id in wanted)
        if number in rounds:
            for row in store.each(f"round-{number}/mixture", MixtureRow):
                one = found.setdefault(_key(row), _Trained(row.pool, None))
                one.pool, one.gap = row.pool, gaps.get(row.id)
                one.rounds.append(number)
    return found


def _written(store: RunStore, wanted: set[str]) -> dict[str, _Written]:
    found = {name: _Written() for name in wanted}
    for row in store.each("corpus", CorpusRow):
        if row.id in found:
            found[row.id].source, found[row.id].author = row.source, row.author
    for answered in _rows(store, "round-0/responses", ResponseRow):
        if answered.text is not None and answered.id in found:
            found[answered.id].author = answered.author
    for number in composed_rounds(store):
        for new in _rows(store, f"round-{number}/expansions", ExpansionRow):
            if new.reason is None and new.id in found:
                found[new.id] = _Written(new.source, new.author, new.parents)
    for name, refiner in _refiners(store):
        if name in found:
            found[name].refiner = refiner
    return found


def _refiners(store: RunStore) -> Iterator[tuple[str, str]]:
    """Who rewrote the answer to which instruction, the last rewrite last."""
    for number in composed_rounds(store):
        for row in _rows(store, f"round-{number}/refinements", RefinementRow):
            if row.text is not None:
                yield row.id, row.author


def _rows(store: RunStore, name: str, row: type[RowT]) -> Iterator[RowT]:
    """Rows of a table that not every run has."""
    if store.has(name):
        yield from store.each(name, row)
