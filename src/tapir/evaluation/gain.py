"""Change in success between two rounds, over the prompts that are graded in both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tapir.data.run.rows import EvaluationRow
from tapir.domain.errors import DataError
from tapir.evaluation.paired import match_pairs, paired_interval


@dataclass(frozen=True, slots=True)
class Gain:
    """Success in the later of two rounds minus that in the earlier one, in points, on the `n` prompts of both.

    `low` and `high` are the 95 % interval of `tapir eval pair`, NaN where it has none; `tasks` has points and prompts
    of every task, of which `points` is the mean; `left_out` counts prompts without a grade in one of the rounds.
    """

    points: float
    low: float
    high: float
    n: int
    tasks: Mapping[str, tuple[float, int]]
    left_out: int

    @property
    def certain(self) -> bool:
        """Whether the interval lies on one side of 0: the change can be told from chance."""
        return self.low > 0 or self.high < 0

    @property
    def spread(self) -> str:
        """The interval, and n where prompts are left out, as text; `str` has the points before it."""
        interval = f"{self.low:+.1f} to {self.high:+.1f}" if self.low <= self.high else "no interval"
        return interval + (f", n = {self.n}" if self.left_out else "")

    def __str__(self) -> str:
        return f"{self.points:+.1f} ({self.spread})"


def gain(before: Iterable[EvaluationRow], after: Iterable[EvaluationRow], benchmark: str) -> Gain | None:
    """Compare two rounds on one benchmark; None where no prompt is graded in both."""
    try:
        pairs = match_pairs(after, before, benchmark, common=True)
    except DataError:
        return None
    points = 100 * (pairs.success[0] - pairs.success[1])
    mean = paired_interval(points, pairs.strata, pairs.groups, rng=np.random.default_rng(0))
    tasks = {task: (float(points[places].mean()), len(places)) for task, places in pairs.strata.items()}
    left_out = sum(pairs.counts[name] for name in ("only_a", "only_b", "unscored"))
    return Gain(mean.value, mean.low, mean.high, mean.n, tasks, left_out)
