"""Metrics of an audit, each with n and a 95 % interval, or the reason why there is none.

Rows of one prompt are not independent. Where a prompt appears more than once, the bootstrap draws whole prompts;
where every prompt appears once, shares have Wilson's interval. Sums over each prompt are taken first, so that a
resample is a sum over prompts and not over rows.
"""

from __future__ import annotations

import math
import tomllib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from itertools import chain, permutations
from typing import Any, TypeAlias

import numpy as np

from tapir.domain.evaluation import EvalResult
from tapir.evaluation.audit.panel import Panel, leads, verdicts
from tapir.evaluation.audit.records import Choice, prompts_of
from tapir.evaluation.statistics import Floats, RankMethod, bootstrap, rank_correlation, success_rate

TABLES: Mapping[str, Mapping[str, Any]] = tomllib.loads(
    (resources.files("tapir.evaluation.audit") / "tables.toml").read_text("utf-8")
)
"""Rows of the audit's tables, and patterns of model families."""
RANK_RESAMPLES = 1_000  # a rank correlation is worked out anew for every resample
LEAST_PAIRS = 2
LEAST_FOR_RANKS = 3  # two pairs are always in perfect order or in perfect disorder
CHOICES: tuple[Choice, ...] = ("a", "b", "tie")


@dataclass(frozen=True, slots=True)
class Metric:
    """One number with its uncertainty.

    Attributes:
        value: None where it cannot be computed.
        n: number of rows it is computed from.
        low: lower end of the 95 % interval; None where there is no interval.
        why: why there is no value, or why there is no interval.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    why: str = ""


Metrics: TypeAlias = dict[str, Metric]


def undefined(why: str, n: int = 0) -> Metric:
    """Return a metric that cannot be computed."""
    return Metric(None, n, why=why)


def share(hits: Sequence[float], prompts: Sequence[str], missing: str) -> Metric:
    """Return how often something holds, a draw counting half; `missing` is the reason where there is no row.

    With draws it is a mean like any other. A share of 0 or 1 among prompts that repeat has Wilson's interval over the
    prompts: a bootstrap of equal values would claim to be certain.
    """
    if not hits or not set(hits) <= {0, 1}:
        return mean(hits, prompts, missing)
    total, groups = sum(map(int, hits)), len(set(prompts))
    if groups == 1:
        return Metric(total / len(hits), len(hits), why="no interval: all of it is about one prompt")
    if groups == len(hits) or total in {0, len(hits)}:
        rate = success_rate(total if groups == len(hits) else groups if total else 0, groups)
        return Metric(rate.value, len(hits), rate.low, rate.high)
    return mean(hits, prompts, missing)


def mean(values: Sequence[float], prompts: Sequence[str], missing: str) -> Metric:
    """Return the mean of some numbers."""
    if not values:
        return undefined(missing)
    return _over_prompts(_ratio, np.column_stack([values, np.ones(len(values))]), prompts)


def spread(groups: Sequence[Sequence[float]], prompts: Sequence[str], missing: str) -> Metric:
    """Return the standard deviation within pairs judged several times: the root of their mean variance."""
    if not groups:
        return undefined(missing)
    table = np.array([[float(np.var(group, ddof=1)), 1.0] for group in groups])
    return _over_prompts(lambda sums: math.sqrt(_ratio(sums)), table, prompts)


def kappa(first: Sequence[Any], second: Sequence[Any], prompts: Sequence[str], levels: Sequence[Any]) -> Metric:
    """Return Cohen's κ (1960) of two raters on the same rows; `levels` are all classes there are."""
    if len(first) < LEAST_PAIRS:
        return undefined("no pair has both verdicts" if not first else "a single pair has no κ", len(first))
    if len({*first, *second}) == 1:
        return undefined("both give every pair the same verdict, so chance alone agrees as often", len(first))
    place = {level: index for index, level in enumerate(levels)}
    cells = np.zeros((len(first), len(levels) ** 2))
    for row, (left, right) in enumerate(zip(first, second, strict=True)):
        cells[row, place[left] * len(levels) + place[right]] = 1
    return _over_prompts(lambda sums: _kappa(sums.reshape(len(levels), -1)), cells, prompts)


def ranks(first: Sequence[float], second: Sequence[float], prompts: Sequence[str], method: RankMethod) -> Metric:
    """Return the rank correlation of two columns: Kendall's τ-b (1945) or Spearman's (1904)."""
    n = len(first)
    if n < LEAST_FOR_RANKS:
        counted = {0: "no pair has both, so there is", 1: "a single pair has"}.get(n, f"{n} pairs have")
        return undefined(f"{counted} no order to compare", n)
    for whose, column in (("the judge's", first), ("the reference's", second)):
        if len(set(column)) == 1:
            return undefined(f"{whose} values are all equal, so they have no order", n)
    statistic, groups = partial(rank_correlation, method=method), None if len(set(prompts)) == n else prompts
    return _metric(bootstrap(statistic, first, second, groups=groups, resamples=RANK_RESAMPLES), n)


def _over_prompts(statistic: Callable[[Floats], float], table: Floats, prompts: Sequence[str]) -> Metric:
    """Return a statistic of column sums, its interval from drawing whole prompts."""
    place: dict[str, int] = {}
    rows = [place.setdefault(prompt, len(place)) for prompt in prompts]
    totals = np.zeros((len(place), table.shape[1]))
    np.add.at(totals, rows, table)
    return _metric(bootstrap(lambda drawn: statistic(drawn.sum(axis=0)), totals), len(table))


def _metric(result: EvalResult, n: int) -> Metric:
    """Return a metric without any NaN."""
    if not math.isfinite(result.value):
        return undefined("not defined on these pairs", n)
    if not (math.isfinite(result.low) and math.isfinite(result.high)):
        return Metric(result.value, n, why="no interval: all of it is about one prompt")
    return Metric(result.value, n, result.low, result.high)


def _ratio(sums: Floats) -> float:
    return float(sums[0] / sums[1]) if sums[1] else math.nan


def _kappa(cells: Floats) -> float:
    """Return κ of a square table of counts; NaN where chance alone agrees always."""
    n = cells.sum()
    by_chance = float(cells.sum(axis=1) @ cells.sum(axis=0)) / n
    return float((np.trace(cells) - by_chance) / (n - by_chance)) if n > by_chance else math.nan


Columns: TypeAlias = tuple[Sequence[Any], Sequence[Any], Sequence[str]]
"""What one rater gave, what the other gave, and the prompt, row by row."""


def agreement(panel: Panel, judge: str) -> Metrics:
    """Compare a judge's verdicts with those of the reference, and with single people."""
    if not panel.reference and not panel.humans:
        none = undefined("there is no reference: name labels with --labels, or a judge with --reference")
        return dict.fromkeys(("agreement", "decided", "kappa", "kendall", "spearman"), none)
    votes = panel.by_rater.get(judge, {})
    own = verdicts(votes)
    metrics = verdict_agreement(_align(panel, own, panel.labels))
    raters = {judge, panel.reference, *panel.humans}
    if all(vote.lead is None for vote in panel.votes if vote.rater in raters):
        metrics |= dict.fromkeys(("kendall", "spearman"), undefined("nobody gave scores, only choices"))
    else:
        rows = _align(panel, leads(votes), panel.leads)
        metrics |= {"kendall": ranks(*rows, "kendall"), "spearman": ranks(*rows, "spearman")}
    people = [_align(panel, own, verdicts(panel.by_rater.get(person, {}))) for person in panel.humans]
    if len(people) == 1:  # one who rated a pair again said two things, and not their mean
        again = panel.by_rater.get(panel.humans[0], {})
        named = [name for name, group in again.items() if name in own for _ in group]
        choices = [vote.choice for name, group in again.items() if name in own for vote in group]
        people = [([own[name] for name in named], choices, prompts_of(panel.pairs, named))]
        people = people if len(named) > len(set(named)) else []
    if people:
        first, second, prompts = (list(chain.from_iterable(column)) for column in zip(*people, strict=True))
        metrics |= verdict_agreement((first, second, prompts), "_one")
    return metrics


def human_agreement(panel: Panel) -> Metrics:
    """Compare people with one another: the ceiling for a judge's agreement with one person.

    Every two people on a pair count once in each direction, so that κ is Fleiss' (1971), which for two raters is
    Scott's π.
    """
    if len(panel.humans) < LEAST_PAIRS:
        return {}
    given: dict[str, list[Choice]] = defaultdict(list)
    for person in panel.humans:
        for name, choice in verdicts(panel.by_rater.get(person, {})).items():
            given[name].append(choice)
    rows = [(*both, panel.pairs[name].prompt) for name, choices in given.items() for both in permutations(choices, 2)]
    columns = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    metrics = verdict_agreement(columns, "_one", "no item was labelled by two people")
    return {key: replace(metric, n=metric.n // 2) for key, metric in metrics.items()}


def verdict_agreement(rows: Columns, suffix: str = "", missing: str = "no pair has both verdicts") -> Metrics:
    """Compare two raters' verdicts: share of equal ones, share where both decide, and κ."""
    first, second, prompts = rows
    same = [left == right for left, right in zip(first, second, strict=True)]
    both = [place for place, pair in enumerate(zip(first, second, strict=True)) if "tie" not in pair]
    decided = [same[place] for place in both], [prompts[place] for place in both]
    return {
        f"agreement{suffix}": share(same, prompts, missing),
        f"decided{suffix}": share(*decided, "no pair on which both decide"),
        f"kappa{suffix}": kappa(first, second, prompts, CHOICES) if first else undefined(missing),
    }


def _align(panel: Panel, own: Mapping[str, Any], other: Mapping[str, Any]) -> Columns:
    names = [name for name in own if name in other]
    return [own[name] for name in names], [other[name] for name in names], prompts_of(panel.pairs, names)
