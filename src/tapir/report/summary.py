"""Summary of a run for the report and the terminal."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import chain, pairwise
from operator import attrgetter
from typing import Any

import numpy as np

from tapir.config.corpus import Selection
from tapir.config.curriculum import CurriculumConfig
from tapir.config.recipe import Recipe
from tapir.config.toml import parse, without_idle
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import DropRow
from tapir.data.run.store import RunStore
from tapir.data.screen import unwanted
from tapir.domain.completion import Spending
from tapir.domain.difficulty import Scale
from tapir.domain.evaluation import Evaluation
from tapir.domain.task import shares
from tapir.domain.training import TaggerReport
from tapir.evaluation.gain import Gain, gain
from tapir.report.checks import Check, checks
from tapir.report.estimators import Agreement, read_agreements, read_scale
from tapir.report.judging import Alarm, alarms
from tapir.report.rounds import RoundSummary, read_rounds
from tapir.report.training import Training, read_tagger, read_trainings

_EXAMPLES = 5  # pairs of near-duplicates shown
_ROWS = 3  # rows shown for each reason
_SHOWN = 240  # characters


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two near-duplicates in the corpus; similarity is 0 to 1."""

    text: str
    other: str
    similarity: float
    measure: str


@dataclass(frozen=True, slots=True)
class CorpusSummary:
    """The corpus after filtering.

    `dropped` counts rows by reason, of which `rows` holds the first few; `near` counts near-duplicates that were kept,
    of which `pairs` are the most similar; the teacher wrote the y of `answered`, and not of `unanswered`, by reason;
    `screened` counts texts of the corpus and the teacher that a rule found and the recipe keeps.
    """

    size: int
    dropped: Mapping[str, int]
    rows: Sequence[DropRow]
    near: int
    pairs: Sequence[NearPair]
    answered: int
    unanswered: Mapping[str, int]
    screened: Mapping[str, int] = field(default_factory=dict)


def _screened(run: RunReader) -> Counter[str]:
    texts = chain(
        (row.response for row in run.corpus()),
        (row.text or "" for row in run.responses()),
        (row.text or "" for number in run.rounds() for row in run.refinements(number)),
    )
    return Counter(filter(None, (unwanted(text).partition(": ")[0] for text in texts)))


def read_corpus(run: RunReader, recipe: Recipe) -> CorpusSummary:
    """Count the tables of the corpus; of their texts only the examples are kept."""
    dropped, dropped_rows = Counter[str](), list[DropRow]()
    for drop in run.drops():
        dropped[drop.reason] += 1
        if dropped[drop.reason] <= _ROWS:
            dropped_rows.append(replace(drop, text=_shorten(drop.text)))
    near = list(run.near_duplicates())
    closest = heapq.nlargest(_EXAMPLES, near, key=lambda row: (row.similarity, row.id))
    shown = {name for row in closest for name in (row.id, row.other)}
    size, texts = 0, dict[str, str]()
    for row in run.corpus():
        size += 1
        if row.id in shown:
            texts[row.id] = _shorten(row.text)
    responses = [(row.text is not None, row.failure or "no reason") for row in run.responses()]
    unanswered = Counter(failure.partition(":")[0] for answered, failure in responses if not answered)
    screened = isinstance(recipe.corpus, Selection) and recipe.corpus.screen == "report"
    return CorpusSummary(
        size=size,
        dropped=dropped,
        rows=sorted(dropped_rows, key=lambda row: row.reason),
        near=len(near),
        pairs=[
            NearPair(texts.get(row.id, row.id), texts.get(row.other, row.other), row.similarity, row.measure)
            for row in closest
        ],
        answered=len(responses) - unanswered.total(),
        unanswered=unanswered,
        screened=_screened(run) if screened else {},
    )


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@dataclass(frozen=True, slots=True)
class Cut:
    """Thresholds: hard above `delta`, hopeless above `most`, withheld below `floor`."""

    delta: float
    most: float = math.inf
    floor: float = 0.0

    def part(self, gap: float) -> str:
        """Return the part of the split that a gap belongs to."""
        if self.floor <= gap <= self.most:
            return "hard" if gap > self.delta else "easy"
        return "withheld" if gap < self.floor else "hopeless"


@dataclass(frozen=True, slots=True)
class Summary:
    """A run at a glance.

    Attributes:
        scale: of the estimator that difficulty was measured with; None where nothing was measured.
        parts: corpus items by part of the first split; `gaps` are those with a score, `cut` the thresholds.
        tagger: None where it had nothing to learn, or has not learnt yet.
        seconds: working time over all sessions of the run.
        ungraded: held-out answers that could not be judged and do not count, by benchmark and round.
        gains: change from the first to the last evaluation by benchmark; None where no prompt is graded in both.
    """

    recipe: Recipe
    manifest: Mapping[str, Any]
    finished: bool
    corpus: CorpusSummary
    corpus_shares: Mapping[str, float]
    scale: Scale | None
    parts: Mapping[str, int]
    gaps: Sequence[float]
    cut: Cut
    tagger: TaggerReport | None
    rounds: Sequence[RoundSummary]
    evaluations: Sequence[Evaluation]
    checks: Sequence[Check]
    seconds: float
    ungraded: Mapping[tuple[str, int], int] = field(default_factory=dict)
    gains: Mapping[str, Gain | None] = field(default_factory=dict)
    alarms: Sequence[Alarm] = ()
    spending: Sequence[Spending] = ()
    trainings: Sequence[Training] = ()
    agreements: Sequence[Agreement] = ()

    def benchmark(self, name: str) -> list[Evaluation]:
        """Return the evaluations on one benchmark over the rounds."""
        return [evaluation for evaluation in self.evaluations if evaluation.benchmark == name]

    @property
    def benchmarks(self) -> list[str]:
        """Names, in the recipe's order."""
        return list(dict.fromkeys(evaluation.benchmark for evaluation in self.evaluations))


def summarise(store: RunStore, *, brief: bool = False) -> Summary:
    """Read everything that is finished in a run directory; a `brief` summary has no alarms and an empty corpus."""
    run = RunReader(store)
    recipe = parse(without_idle(run.recipe))
    scale = read_scale(run, recipe.curriculum)
    first = list(run.difficulty(1))
    gaps = {row.id: row.gap for row in first if row.gap is not None and math.isfinite(row.gap)}
    corpus = {row.id for row in run.corpus()}  # held-out instructions are tagged in the same table
    tasks = Counter(row.task for row in run.tags() if row.task is not None and row.id in corpus)
    rounds, evaluations = read_rounds(run, one_pool=scale is None), run.metrics()
    trainings, corpus_shares = read_trainings(run, recipe.training), shares(tasks)
    graded = {number: list(run.evaluation(number)) for number in run.rounds()}
    answered = sum(map(len, graded.values()))
    ungraded = Counter((row.benchmark, at) for at, rows in graded.items() for row in rows if row.score is None)
    measured: dict[str, list[int]] = {}
    for each in evaluations:
        measured.setdefault(each.benchmark, []).append(each.round)
    steps = [(name, *pair) for name, at in list(measured.items())[:1] for pair in pairwise(at)]
    gains = [gain(graded[before], graded[after], name) for name, before, after in steps]
    return Summary(
        recipe=recipe,
        manifest=run.manifest,
        finished=run.finished,
        corpus=CorpusSummary(0, {}, (), 0, (), 0, {}) if brief else read_corpus(run, recipe),
        corpus_shares=corpus_shares,
        scale=scale,
        parts=Counter(row.part for row in first),
        gaps=list(gaps.values()),
        cut=_cut(recipe.curriculum, scale, list(gaps.values())),
        tagger=read_tagger(run),
        rounds=rounds,
        evaluations=evaluations,
        checks=checks(recipe.curriculum, rounds, gains, corpus_shares, trainings, scale),
        seconds=working_time(run),
        ungraded=ungraded,
        gains={name: gain(graded[at[0]], graded[at[-1]], name) for name, at in measured.items() if len(at) > 1},
        alarms=() if brief else alarms(run, recipe, ungraded.total(), answered - ungraded.total()),
        spending=run.spending(),
        trainings=trainings,
        agreements=read_agreements(run, recipe.curriculum, scale, gaps),
    )


def working_time(run: RunReader) -> float:
    """Return the seconds of work over all sessions; time between sessions does not count."""
    sessions: list[list[float]] = [[]]
    for event in run.events():
        if event["event"] == "session":
            sessions.append([])
        sessions[-1].append(event["time"])
    return sum((times[-1] - times[0] for times in sessions if times), 0.0)


def tasks_of(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return every task that any evaluation has a result for; one may lack a task whose answers were not graded."""
    return sorted({task for evaluation in evaluations for task in evaluation.tasks})


def _cut(plan: CurriculumConfig, scale: Scale | None, gaps: Sequence[float]) -> Cut:
    """Return δ, as it follows from the gaps where a quantile or budget decided, and the other bounds."""
    if plan.difficulty.measured_by == "nobody":
        return Cut(0.0)
    threshold = plan.difficulty_threshold(scale)
    delta = threshold.delta(np.array(gaps))
    return Cut(delta if math.isfinite(delta) else 0.0, threshold.most, threshold.floor)


def sum_spending(entries: Iterable[Spending]) -> Spending:
    """Add up entries; the sum is of no round, stage or task."""
    columns = zip(*(astuple(entry)[3:] for entry in entries), strict=True)
    return Spending(0, "", "", *map(sum, columns))


def _order(amount: Spending) -> tuple[float, int]:
    """Return a key that sorts the dearest first, without prices the most tokens."""
    return -amount.cost, -amount.prompt_tokens - amount.completion_tokens


@dataclass(frozen=True, slots=True)
class Rate:
    """Money and calls for one unit, counting the calls of `of`; None where the units are not told from chance."""

    what: str
    of: str
    units: float
    cost: float | None
    calls: float | None


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of a run, by round and stage and by task ("" for none), the dearest first; `priced` if any price is set."""

    priced: bool
    total: Spending
    stages: Sequence[tuple[int, str, Spending]]
    tasks: Sequence[tuple[str, Spending]]
    rates: Sequence[Rate]


def costs(summary: Summary) -> Costs | None:
    """Return the run's costs, or None where no model was called, with a reply or without."""
    total = sum_spending(summary.spending)
    if not (total.calls or total.possible_calls):
        return None
    stages = group_spending(summary.spending, "round", "stage")
    return Costs(
        priced=total.cost > 0,
        total=total,
        stages=[(*key, each) for key, each in sorted(stages, key=lambda row: (row[0][0], _order(row[1]), row[0][1]))],
        tasks=sorted(group_spending(summary.spending, "task"), key=lambda row: (not row[0], _order(row[1]), row[0])),
        rates=list(_rates(summary, total)),
    )


def group_spending(spending: Sequence[Spending], *names: str) -> list[tuple[Any, Spending]]:
    """Return the amount of every value of a field, or of every tuple of values."""
    key, entries = attrgetter(*names), dict[Any, list[Spending]]()
    for entry in spending:
        entries.setdefault(key(entry), []).append(entry)
    return [(value, sum_spending(several)) for value, several in entries.items()]


def _rates(summary: Summary, total: Spending) -> Iterator[Rate]:
    """Yield what a unit of everything that a run brought took."""
    expansion = sum_spending(entry for entry in summary.spending if entry.stage == "expand")
    units: list[tuple[str, str, float, Spending]] = [
        ("kept training example", "all calls", sum(each.new for each in summary.rounds), total),
        ("kept expansion", "calls of the stage expand", sum(each.expanded for each in summary.rounds), expansion),
    ]
    name, change = next(iter(summary.gains.items()), ("", None))
    if change and change.certain:
        units.append((f"point gained on {name}", "all calls", change.points, total))
    yield from (Rate(what, of, n, paid.cost / n, paid.calls / n) for what, of, n, paid in units if n > 0)
    if change and not change.certain:
        yield Rate(f"point gained on {name}", f"not told from chance: {change}", change.points, None, None)
