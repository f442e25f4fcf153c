"""How the corpus came in: what was set aside, what nearly repeats, what the teacher had to answer first."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tapir.store.rows import CorpusRow, DropRow, NeighbourRow, ResponseRow
from tapir.store.run import RunStore

_EXAMPLES = 5  # pairs of near-duplicates shown
_ROWS = 3  # rows shown for each reason
_SHOWN = 240  # characters


@dataclass(frozen=True, slots=True)
class SetAside:
    """A row of the corpus that was not used: why, where it stands, how it begins."""

    reason: str
    place: str
    text: str


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two instructions of the corpus that nearly repeat each other; similarity is 0 to 1."""

    text: str
    other: str
    similarity: float
    measure: str


@dataclass(frozen=True, slots=True)
class Intake:
    """The corpus on its way in.

    Attributes:
        size: instructions that passed.
        dropped: rows set aside, by reason.
        rows: the first few rows of each reason.
        near: instructions kept although they nearly repeat an earlier one.
        pairs: the most alike of them.
        answered: instructions whose y the teacher wrote before the run.
        unanswered: instructions left out because it could not, by reason.
    """

    size: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    rows: Sequence[SetAside] = ()
    near: int = 0
    pairs: Sequence[NearPair] = ()
    answered: int = 0
    unanswered: Mapping[str, int] = field(default_factory=dict)


def read_intake(store: RunStore) -> Intake:
    """Count the tables of the corpus; of their texts only the examples are kept."""
    dropped, rows = _set_aside(store)
    near, alike = _alike(store)
    wanted = {name for row in alike for name in (row.id, row.other)}
    size, texts = 0, dict[str, str]()
    if store.has("corpus"):
        for row in store.each("corpus", CorpusRow):
            size += 1
            if row.id in wanted:
                texts[row.id] = shortened(row.text)
    pairs = [
        NearPair(texts.get(row.id, row.id), texts.get(row.other, row.other), row.similarity, row.measure)
        for row in alike
    ]
    answered, unanswered = _responses(store)
    return Intake(size, dropped, rows, near, pairs, answered, unanswered)


def shortened(text: str) -> str:
    """The beginning of a text."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _set_aside(store: RunStore) -> tuple[Counter[str], list[SetAside]]:
    counts = Counter[str]()
    found: list[SetAside] = []
    if store.has("drops"):
        for row in store.each("drops", DropRow):
            counts[row.reason] += 1
            if counts[row.reason] <= _ROWS:
                found.append(SetAside(row.reason, row.detail, shortened(row.text)))
    return counts, sorted(found, key=lambda one: one.reason)


def _alike(store: RunStore) -> tuple[int, list[NeighbourRow]]:
    """How many near-duplicates were kept, and the most alike."""
    if not store.has("neighbours"):
        return 0, []
    rows = store.read("neighbours", NeighbourRow)
    return len(rows), heapq.nlargest(_EXAMPLES, rows, key=lambda row: (row.similarity, row.id))


def _responses(store: RunStore) -> tuple[int, Counter[str]]:
    answered, failed = 0, Counter[str]()
    if store.has("round-0/responses"):
        for row in store.each("round-0/responses", ResponseRow):
            if row.text is None:
                kind, _, _ = (row.failure or "no reason").partition(":")  # what follows is a message of its own
                failed[kind] += 1
            else:
                answered += 1
    return answered, failed
