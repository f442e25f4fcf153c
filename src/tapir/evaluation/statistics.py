"""Success rates with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tapir.domain.round import EvalResult, Evaluation

_Z = 1.959963984540054  # 97.5 % point of the normal distribution


def success_rate(successes: int, n: int) -> EvalResult:
    """A proportion with its 95 % Wilson score interval.

    Raises:
        ValueError: `n` is 0; nothing was measured.
    """
    from scipy.stats import binomtest

    if n <= 0:
        raise ValueError("a success rate needs at least one prompt")
    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return EvalResult(successes / n, n, float(interval.low), float(interval.high))


def summarise(benchmark: str, number: int, outcomes: Sequence[tuple[str, bool]]) -> Evaluation:
    """Success by task, and overall as the mean of the tasks (every task counts the same).

    The overall interval is the normal 95 % interval of a stratified mean. Each task's variance is taken
    after Agresti and Coull (1998), with two successes and two failures added, so that tasks at 0 or 100 %
    do not pretend to be certain.
    """
    by_task: dict[str, list[bool]] = {}
    for task, success in outcomes:
        by_task.setdefault(task, []).append(success)
    tasks = {task: success_rate(sum(found), len(found)) for task, found in sorted(by_task.items())}
    mean = sum(one.value for one in tasks.values()) / len(tasks)
    variance = sum(map(_variance, tasks.values())) / len(tasks) ** 2
    half = _Z * math.sqrt(variance)
    overall = EvalResult(mean, len(outcomes), max(0.0, mean - half), min(1.0, mean + half))
    return Evaluation(benchmark, number, overall, tasks)


def _variance(result: EvalResult) -> float:
    n = result.n + 4
    rate = (result.value * result.n + 2) / n
    return rate * (1 - rate) / n
