"""Answers of two checkpoints to the same prompts, side by side."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tapir.errors import DataError
from tapir.evaluation.resampling import Floats
from tapir.store.rows import EvaluationRow

TASK_DIFFERS = "tagged differently"
_NAMED = 3  # prompts that an error quotes


@dataclass(frozen=True, slots=True)
class Pairs:
    """Graded pairs of one benchmark in the order of their ids.

    Attributes:
        success: of A and of B, each shape (n,), 0 or 1.
        score: of A and of B, each shape (n,), 0 to 1.
        only_a: prompts that only A was asked.
        only_b: prompts that only B was asked.
        unscored: pairs left out because A's or B's answer could not be graded.
        retagged: pairs whose task A and B disagree on; they are the task `TASK_DIFFERS`.
        references: pairs graded against different expected answers.
    """

    ids: tuple[str, ...]
    tasks: tuple[str, ...]
    success: tuple[Floats, Floats]
    score: tuple[Floats, Floats]
    only_a: int
    only_b: int
    unscored: int
    retagged: int
    references: int

    def strata(self) -> dict[str, NDArray[np.int64]]:
        """The places of every task's pairs, tasks in the order of the alphabet."""
        members: dict[str, list[int]] = {}
        for place, task in enumerate(self.tasks):
            members.setdefault(task, []).append(place)
        return {task: np.asarray(members[task]) for task in sorted(members)}


def benchmarks_of(rows: Iterable[EvaluationRow]) -> list[str]:
    """The names of the benchmarks in a table, in the order they are met."""
    return list(dict.fromkeys(row.benchmark for row in rows))


def pairs(a: Iterable[EvaluationRow], b: Iterable[EvaluationRow], benchmark: str, *, common: bool) -> Pairs:
    """Match the rows of one benchmark by the id of their instruction.

    Raises:
        DataError: as `paired.paired` says.
    """
    left, right = _by_id(a, benchmark, "A"), _by_id(b, benchmark, "B")
    only_a, only_b = left.keys() - right.keys(), right.keys() - left.keys()
    both = sorted(left.keys() & right.keys())
    if (only_a or only_b) and not (common and both):
        raise _mismatch(benchmark, [left[one] for one in sorted(only_a)], [right[one] for one in sorted(only_b)], both)
    kept = [one for one in both if _graded(left[one]) and _graded(right[one])]
    if not kept:
        why = Counter(row.failure or "no score" for one in both for row in (left[one], right[one]) if not _graded(row))
        raise DataError(
            f"none of the {len(both)} pairs of {benchmark} is graded on both sides"
            + "".join(f"; {name}: {count} rows" for name, count in why.most_common(_NAMED)),
            remedy="There is no difference to compute; have the answers graded again, or choose another benchmark.",
        )
    same_task = [left[one].task == right[one].task for one in kept]
    return Pairs(
        tuple(kept),
        tuple(left[one].task if same else TASK_DIFFERS for one, same in zip(kept, same_task, strict=True)),
        (_column(left, kept, "success"), _column(right, kept, "success")),
        (_column(left, kept, "score"), _column(right, kept, "score")),
        len(only_a),
        len(only_b),
        len(both) - len(kept),
        same_task.count(False),
        sum(left[one].expected != right[one].expected for one in kept),
    )


def _by_id(rows: Iterable[EvaluationRow], benchmark: str, side: str) -> dict[str, EvaluationRow]:
    found: dict[str, EvaluationRow] = {}
    others: dict[str, int] = {}
    for row in rows:
        if row.benchmark != benchmark:
            others[row.benchmark] = others.get(row.benchmark, 0) + 1
        elif row.id in found:
            raise DataError(
                f"{side} answers the prompt {row.id} of {benchmark} twice: {row.instruction[:80]!r}",
                remedy="Keep one row for each prompt.",
            )
        else:
            found[row.id] = row
    if not found:
        there = f"only of {', '.join(others)}" if others else "it is empty"
        raise DataError(
            f"{side} has no row of the benchmark {benchmark!r}: {there}", remedy="Choose one that both have."
        )
    return found


def _graded(row: EvaluationRow) -> bool:
    return row.score is not None and math.isfinite(row.score)


def _column(rows: Mapping[str, EvaluationRow], ids: Sequence[str], name: str) -> Floats:
    return np.array([float(getattr(rows[one], name)) for one in ids])


def _mismatch(
    benchmark: str, only_a: Sequence[EvaluationRow], only_b: Sequence[EvaluationRow], both: Sequence[str]
) -> DataError:
    first = [
        f"\n  only {side}: {row.instruction[:80]!r}"
        for side, rows in (("A", only_a), ("B", only_b))
        for row in rows[:_NAMED]
    ]
    return DataError(
        f"A and B were not asked the same prompts of {benchmark}: {len(both)} are in both, {len(only_a)} only in A,"
        f" {len(only_b)} only in B" + "".join(first),
        remedy="Add --common to compare on those that are in both." if both else "There is nothing to compare.",
    )
