"""What a judge gave, as columns of numbers: the texts of its judgements stay on disk."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tapir.store.rows import AnswerRow, CorpusRow, ExpansionRow, JudgementRow, ResponseRow
from tapir.store.run import RunStore

Numbers: TypeAlias = NDArray[np.float64]
Item: TypeAlias = tuple[int, str]
"""Round of the judgement and instruction id: an item is judged again in a later round with another answer."""

ORDERS = ("student-first", "reference-first")
NOTHING_TO_JUDGE = "no student answer"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """One entry for each time two answers were scored: n entries about k items.

    Attributes:
        items: the k items, each with its place.
        item: shape (n,), place of the item.
        order: shape (n,), index in ORDERS, or -1 where the answers were read alone.
        student: shape (n,), score of the student's answer.
        reference: shape (n,), score of the teacher's answer.
        unscored: items without a score, by reason.
    """

    items: Mapping[Item, int]
    item: NDArray[np.int64]
    order: NDArray[np.int8]
    student: Numbers
    reference: Numbers
    unscored: Mapping[str, int]

    @property
    def judged(self) -> int:
        """Items that were put to the judge: an answer that never came is not."""
        return len(self.items) + sum(self.unscored.values()) - self.unscored.get(NOTHING_TO_JUDGE, 0)

    def means(self, values: Numbers, order: int | None = None) -> Numbers:
        """Mean of `values` (shape (n,)) for each item, shape (k,); NaN for an item never shown in that order."""
        chosen = np.ones(self.item.size, np.bool_) if order is None else self.order == order
        place = self.item[chosen]
        totals = np.bincount(place, weights=values[chosen], minlength=len(self.items))
        with np.errstate(invalid="ignore"):
            return totals / np.bincount(place, minlength=len(self.items))

    def lead(self, order: int | None = None) -> Numbers:
        """The student's score minus the teacher's for each item, shape (k,); NaN as in `means`."""
        return self.means(self.student - self.reference, order)


def read_verdicts(store: RunStore, table: str) -> Verdicts:
    """The judgements of all rounds that have a table of this name ("judgements", "canary")."""
    items: dict[Item, int] = {}
    item, order = array("q"), array("b")
    student, reference = array("d"), array("d")
    unscored: Counter[str] = Counter()
    for number in judged_rounds(store, table):
        for row in store.each(f"round-{number}/{table}", JudgementRow):
            if row.student is None or row.reference is None:
                unscored[row.unscored or "no reason"] += 1
                continue
            item.append(items.setdefault((number, row.id), len(items)))
            order.append(ORDERS.index(row.order) if row.order in ORDERS else -1)
            student.append(row.student)
            reference.append(row.reference)
    return Verdicts(
        items,
        np.array(item, np.int64),
        np.array(order, np.int8),
        np.array(student, np.float64),
        np.array(reference, np.float64),
        unscored,
    )


def judged_rounds(store: RunStore, table: str = "judgements") -> list[int]:
    """Rounds with a finished table of that name."""
    last = 0
    while store.round(last + 1).exists():
        last += 1
    return [number for number in range(last + 1) if store.has(f"round-{number}/{table}")]


def longer(store: RunStore, items: Mapping[Item, int]) -> Numbers:
    """For each item the characters of the student's answer minus those of the teacher's, shape (k,); NaN unknown."""
    found = np.full(len(items), np.nan)
    reference = dict(_reference_lengths(store))
    for number in sorted({number for number, _ in items}):
        if not store.has(f"round-{number}/answers"):
            continue
        for row in store.each(f"round-{number}/answers", AnswerRow):
            place = items.get((number, row.id))
            if place is not None and row.text is not None and row.id in reference:
                found[place] = len(row.text) - reference[row.id]
    return found


def _reference_lengths(store: RunStore) -> Iterator[tuple[str, int]]:
    """Characters of y by id; what the teacher wrote in place of the corpus's answer comes last and counts."""
    if store.has("corpus"):
        yield from ((row.id, len(row.response)) for row in store.each("corpus", CorpusRow))
    if store.has("round-0/responses"):
        rows = store.each("round-0/responses", ResponseRow)
        yield from ((row.id, len(row.text)) for row in rows if row.text is not None)
    for number in judged_rounds(store, "expansions"):
        written = store.each(f"round-{number}/expansions", ExpansionRow)
        yield from ((row.id, len(row.response)) for row in written if row.reason is None)


def rank_correlation(first: Sequence[float] | Numbers, second: Sequence[float] | Numbers) -> float | None:
    """Spearman's correlation of two columns, equal values sharing their mean rank; None where one does not vary."""
    left, right = (_ranks(np.asarray(column, np.float64)) for column in (first, second))
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.sqrt((left @ left) * (right @ right)))
    return float(left @ right) / scale if scale else None


def _ranks(values: Numbers) -> Numbers:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]
