"""What earlier runs tell about the next one: reply lengths, how much is hard, which tasks there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path

import numpy as np

from tapir.domain.difficulty import Threshold, split
from tapir.llm.ledger import Ledger
from tapir.llm.switchboard import LEDGER
from tapir.recipe import Recipe
from tapir.session import stored_recipe
from tapir.store.rows import DifficultyRow, ExpansionRow, TagRow
from tapir.store.run import RunStore


@dataclass(frozen=True, slots=True)
class Replies:
    """Replies of one stage: how many, and their mean length in tokens."""

    calls: int
    mean: float


@dataclass(frozen=True, slots=True)
class Earlier:
    """Measured figures; None or empty where there are none.

    Attributes:
        replies: by stage.
        cached: share of the prompt tokens that servers had in their caches.
        hard: share of the scored instructions that were beyond the new recipe's threshold; None where the earlier run
            measured difficulty otherwise, or where the threshold is a number of items.
        tasks: share of each task.
        kept: share of the new instructions that passed every check.
    """

    replies: Mapping[str, Replies] = field(default_factory=dict)
    cached: float | None = None
    hard: float | None = None
    tasks: Mapping[str, float] = field(default_factory=dict)
    kept: float | None = None


def earlier(recipe: Recipe, folder: Path | None) -> Earlier:
    """Read the recipe's shared ledger and the folder of an earlier run, as far as they are there.

    Raises:
        StoreError: one of them is damaged, or the folder holds no run.
    """
    shared = Path(recipe.calls.ledger).expanduser() if recipe.calls.ledger else None
    places = [shared, folder / LEDGER if folder else None]
    replies, cached = _replies([place for place in places if place and place.is_file()])
    if folder is None:
        return Earlier(replies, cached)
    before, store = stored_recipe(folder), RunStore(folder)
    alike = before.curriculum.difficulty == recipe.curriculum.difficulty
    comparable = alike and recipe.curriculum.threshold.rule != "budget"
    hard = _hard(store, recipe.curriculum.delta()) if comparable else None
    return Earlier(replies, cached, hard, _tasks(store), _kept(store))


def _replies(ledgers: list[Path]) -> tuple[dict[str, Replies], float | None]:
    calls: Counter[str] = Counter()
    written: Counter[str] = Counter()
    read = cached = 0
    for path in ledgers:
        with closing(Ledger(path)) as ledger:
            for one in ledger.spent():
                calls[one.purpose.stage] += one.calls
                written[one.purpose.stage] += one.usage.completion_tokens
                read += one.usage.prompt_tokens
                cached += one.usage.cached_tokens
    found = {stage: Replies(number, written[stage] / number) for stage, number in calls.items()}
    return found, cached / read if read else None


def _finished(store: RunStore, table: str) -> Iterator[str]:
    """The table's name in every round that has it, from the first round on."""
    return takewhile(store.has, (f"round-{number}/{table}" for number in count(1)))


def _hard(store: RunStore, threshold: Threshold) -> float | None:
    """Of the first round: a new run begins with the same student."""
    first = [*_finished(store, "difficulty")][:1]
    gaps = [(row.id, row.gap) for name in first for row in store.each(name, DifficultyRow) if row.gap is not None]
    if not gaps:
        return None
    return split([name for name, _ in gaps], np.array([gap for _, gap in gaps]), threshold).hard_share


def _tasks(store: RunStore) -> dict[str, float]:
    if not store.has("round-0/tags"):
        return {}
    counts = Counter(row.task for row in store.each("round-0/tags", TagRow) if row.task is not None)
    return {task: number / counts.total() for task, number in counts.items()}


def _kept(store: RunStore) -> float | None:
    kept = [row.reason is None for name in _finished(store, "expansions") for row in store.each(name, ExpansionRow)]
    return sum(kept) / len(kept) if kept else None
