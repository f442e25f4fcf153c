"""What a run took: examples, tokens, and how often each role was asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import pyarrow.parquet as pq

from tapir.report.summary import working_time
from tapir.store.files import read_json
from tapir.store.rows import ExpansionRow
from tapir.store.run import RunStore

_TEACHER = ("responses", "labels", "refinements")
_JUDGE = ("judgements", "preferences", "canary")
_STUDENT = ("answers",)
_ESTIMATES = ("estimates",)


@dataclass(frozen=True, slots=True)
class Effort:
    """Of one run, or the mean of several.

    Attributes:
        examples: trained on over all rounds, repetitions counted, epochs not.
        distinct: different ones among them.
        tokens: read in training, over all epochs.
        teacher: texts asked of the teacher: answers, labels, new instructions, refinements.
        judge: judgements; of a difficulty by pass rate one for each sample.
        answers: of the student to the corpus, so that its difficulty could be measured.
        seconds: of work. A study works out what its runs have in common once: this is not in here for those that took
            it over.
    """

    examples: float = 0
    distinct: float = 0
    tokens: float = 0
    teacher: float = 0
    judge: float = 0
    answers: float = 0
    seconds: float = 0

    @classmethod
    def mean(cls, several: Sequence[Effort]) -> Effort:
        """The mean of each figure; zeros for none."""
        count = max(1, len(several))
        return cls(*(sum(getattr(one, name.name) for one in several) / count for name in fields(cls)))


def effort(store: RunStore, rounds: int) -> Effort:
    """Count what is in a finished run's folder."""
    trainings = [
        read_json(path) for number in range(rounds + 1) if (path := store.round(number) / "training.json").exists()
    ]
    mixed: set[str] = set()
    total = 0
    for number in range(1, rounds + 1):
        ids = pq.read_table(store.round(number) / "mixture.parquet", columns=["id"])["id"].to_pylist()
        total += len(ids)
        mixed.update(ids)
    sampled = _samples(store) * sum(_rows(store, _ESTIMATES, rounds))
    return Effort(
        examples=total,
        distinct=len(mixed),
        tokens=sum(int(one["tokens"]) for one in trainings),
        teacher=sum(_rows(store, _TEACHER, rounds)) + _written(store, rounds),
        judge=sum(_rows(store, _JUDGE, rounds)) + sampled,
        answers=sum(_rows(store, _STUDENT, rounds)) + sampled,
        seconds=working_time(store.folder),
    )


def _samples(store: RunStore) -> int:
    """Answers drawn and judged for each estimate: 0 where difficulty is not measured so."""
    difficulty = read_json(store.folder / "recipe.json")["curriculum"].get("difficulty", {})
    return int(difficulty["samples"]) if difficulty.get("kind") == "pass-rate" else 0


def _rows(store: RunStore, tables: Sequence[str], rounds: int) -> Iterator[int]:
    for number in range(rounds + 1):
        for name in tables:
            path = store.round(number) / f"{name}.parquet"
            if path.exists():
                yield int(pq.read_metadata(path).num_rows)


def _written(store: RunStore, rounds: int) -> int:
    """New instructions the teacher wrote, and answers to those that were kept."""
    count = 0
    for number in range(1, rounds + 1):
        if store.has(f"round-{number}/expansions"):
            for row in store.each(f"round-{number}/expansions", ExpansionRow):
                count += 1 + (row.reason is None)
    return count
