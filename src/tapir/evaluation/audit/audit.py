"""The audit of judges: metrics of every judge, of the reference, and of a run's difficulty; their formatting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Literal, TypeAlias, get_args

from tapir.data.run.reviews import Review
from tapir.evaluation.audit import biases
from tapir.evaluation.audit.metrics import (
    TABLES,
    Metric,
    Metrics,
    agreement,
    human_agreement,
    kappa,
    ranks,
    share,
    verdict_agreement,
)
from tapir.evaluation.audit.panel import Panel, lead, verdicts
from tapir.evaluation.audit.records import Choice, JudgingCost, Oracle, side

Kind: TypeAlias = Literal["comparisons", "difficulty"]
Unit: TypeAlias = Literal["percent", "points", "number", "amount"]
MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"

LEAST_AGREEMENT = 0.2  # Landis and Koch (1977): below it agreement is slight
MOST_UNREADABLE = 0.02
_THOUSAND = 1_000


@dataclass(frozen=True, slots=True)
class RaterColumn:
    """Metrics of one judge, or of the reference.

    Attributes:
        figures: by key; `ROWS` has their labels.
        unreadable: judgements without a verdict, by reason.
    """

    name: str
    reference: bool
    figures: Mapping[str, Metric]
    unreadable: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditSection:
    """Metrics of one kind: two answers compared, or a run's difficulty against people's."""

    kind: Kind
    columns: Sequence[RaterColumn]


@dataclass(frozen=True, slots=True)
class Audit:
    """All metrics.

    Attributes:
        reference: whom the judges are compared with; "" nobody.
        notes: what was read, matched and left out.
    """

    reference: str
    sections: Sequence[AuditSection]
    notes: Sequence[str]


def audit(panel: Panel) -> Audit:
    """Compute every metric the panel has rows for; the others say what is missing."""
    sections = []
    if panel.votes:
        sections.append(AuditSection("comparisons", tuple(_comparisons(panel))))
    if panel.oracle:
        sections.append(AuditSection("difficulty", tuple(_difficulty(panel, panel.oracle))))
    people = panel.humans if len(panel.humans) == 1 else [f"majority of {len(panel.humans)} people"]
    return Audit(panel.reference or (people[0] if panel.humans else ""), sections, panel.notes)


def _comparisons(panel: Panel) -> Iterator[RaterColumn]:
    raters = {vote.rater for vote in panel.votes}
    for judge in panel.judges:
        if judge in raters:
            metrics = agreement(panel, judge) | _bias_metrics(panel, judge, panel.labels)
            yield _column(panel, judge, [judge], metrics, reference=False)
    if panel.reference in raters:
        metrics = _bias_metrics(panel, panel.reference, {})
        yield _column(panel, panel.reference, [panel.reference], metrics, reference=True)
    if raters & set(panel.humans):
        name = panel.humans[0] if len(panel.humans) == 1 else f"{len(panel.humans)} people"
        yield _column(panel, name, panel.humans, _human_metrics(panel), reference=True)


def _bias_metrics(panel: Panel, rater: str, labels: Mapping[str, Choice]) -> Metrics:
    votes = panel.by_rater.get(rater, {})
    choices = verdicts(votes)
    return {
        "ties": biases.tie_share(choices, panel.pairs),
        **biases.position_consistency(votes, panel.pairs),
        **biases.length_preference(choices, panel.pairs, labels),
        **biases.self_preference(rater, choices, panel.pairs, labels),
        **biases.repeat_variance(votes, panel.pairs),
        **biases.null_answer(panel.canary.get(rater, {}), panel.pairs),
    }


def _human_metrics(panel: Panel) -> Metrics:
    """Compute what applies to people too: for their majority where it is about pairs, for each about positions."""
    votes = [vote for rater in panel.humans for group in panel.by_rater.get(rater, {}).values() for vote in group]
    return human_agreement(panel) | {
        "ties": biases.tie_share(panel.labels, panel.pairs),
        "first_shown": biases.first_position(votes, panel.pairs),
        "longer": biases.length_preference(panel.labels, panel.pairs, {})["longer"],
    }


def _column(panel: Panel, name: str, raters: Sequence[str], metrics: Metrics, *, reference: bool) -> RaterColumn:
    votes = [vote for vote in panel.votes if vote.rater in raters and not panel.pairs[vote.pair].constant]
    metrics["unreadable"], reasons = biases.unreadable_share(votes, panel.pairs)
    cost = sum((panel.costs[rater] for rater in raters if rater in panel.costs), JudgingCost())
    for key, total, count in (("money", cost.money, cost.priced), ("seconds", cost.seconds, cost.timed)):
        if count:
            metrics[key] = Metric(total / count * _THOUSAND, count, why="a sum, so without an interval")
    return RaterColumn(name, reference, metrics, reasons)


def _difficulty(panel: Panel, oracle: Oracle) -> Iterator[RaterColumn]:
    """Compare gap and task with every person's review, and with their mean where there are several."""
    by_person: dict[str, list[Review]] = defaultdict(list)
    for review in oracle.reviews:
        by_person[review.rater].append(review)
    for rater, reviews in by_person.items():
        preferences = {name: -lead(group) for name, group in panel.by_rater.get(rater, {}).items()}
        yield RaterColumn(rater, reference=False, figures=_review_metrics(oracle, reviews, preferences))
    if len(by_person) > 1:
        metrics = _review_metrics(oracle, oracle.reviews, {name: -value for name, value in panel.leads.items()})
        yield RaterColumn(f"mean of {len(by_person)}", reference=True, figures=metrics)


def _review_metrics(oracle: Oracle, reviews: Sequence[Review], preferences: Mapping[str, float]) -> Metrics:
    """Compare gap and task with reviews; a preference is above 0 where the teacher's answer is better, as a gap is."""
    rated: dict[str, list[int]] = defaultdict(list)
    for review in reviews:
        if review.difficulty is not None and review.id in oracle.gaps:
            rated[review.id].append(review.difficulty)
    hard = [oracle.gaps[name] for name in rated], [fmean(values) for values in rated.values()], list(rated)
    both = [name for name in preferences if name in oracle.gaps]
    gaps, preferred = [oracle.gaps[name] for name in both], [preferences[name] for name in both]
    sides = [side(gap) for gap in gaps], [side(value) for value in preferred], both
    better = verdict_agreement(sides, missing="no scored item has a preference")
    tagged = [(oracle.tasks[row.id], row.task, row.id) for row in reviews if row.task and row.id in oracle.tasks]
    tasks, labels, names = ([row[place] for row in tagged] for place in range(3))
    return {
        "better": better["agreement"],
        "better_decided": better["decided"],
        "better_kappa": better["kappa"],
        "gap_preference": ranks(gaps, preferred, both, "kendall"),
        "gap_preference_rho": ranks(gaps, preferred, both, "spearman"),
        "gap_difficulty": ranks(*hard, "kendall"),
        "gap_difficulty_rho": ranks(*hard, "spearman"),
        "task": share([left == right for left, right in zip(tasks, labels, strict=True)], names, "nobody named a task"),
        "task_kappa": kappa(tasks, labels, names, sorted({*tasks, *labels})),
    }


@dataclass(frozen=True, slots=True)
class MetricRow:
    """A row of the table: the key of its metric, its label, its unit, and the topic it belongs to."""

    key: str
    label: str
    unit: Unit
    topic: str

    @property
    def title(self) -> str:
        """The label with its unit."""
        return self.label + {"percent": " (%)", "points": " (pp)"}.get(self.unit, "")


ROWS: Mapping[Kind, Sequence[MetricRow]] = {
    kind: [MetricRow(key, *row) for key, row in TABLES[kind].items()] for kind in get_args(Kind)
}
TITLES: Mapping[Kind, str] = {
    "comparisons": "two answers compared",
    "difficulty": "the oracle's difficulty against people's",
}


def rows(section: AuditSection) -> list[MetricRow]:
    """Return the rows of a section that have a value in some column."""
    values = {key for column in section.columns for key, metric in column.figures.items() if metric.value is not None}
    return [row for row in ROWS[section.kind] if row.key in values]


def cell(row: MetricRow, metric: Metric | None) -> str:
    """Return a metric with its interval and n."""
    if metric is None or metric.value is None:
        return NONE
    value = _value(metric.value, row.unit)
    if metric.low is None or metric.high is None:
        return f"{value} n {metric.n:,}"
    return f"{value} [{_value(metric.low, row.unit)}, {_value(metric.high, row.unit)}] n {metric.n:,}"


def _value(value: float, unit: Unit) -> str:
    if unit == "amount":
        return f"{value:,.2f}"
    text = f"{100 * value:.1f}" if unit in {"percent", "points"} else f"{value:.2f}"
    return text.replace("-", MINUS) if float(text) else text.removeprefix("-")


def missing(section: AuditSection) -> str:
    """Return one sentence on what cannot be computed and why; empty where nothing is missing."""
    judges = [column.name for column in section.columns if not column.reference]
    topics: dict[tuple[str, str], dict[str, None]] = {}
    for row in ROWS[section.kind]:
        lacking: dict[str, list[str]] = {}
        for column in section.columns:
            metric = column.figures.get(row.key)
            if metric is not None and metric.value is None:
                lacking.setdefault(metric.why, []).append(column.name)
        for why, names in lacking.items():
            whose = "" if set(judges) <= set(names) else f" of {', '.join(names)}"
            topics.setdefault((why, whose), {})[row.topic] = None
    parts = [f"{', '.join(group)}{whose} ({why})" for (why, whose), group in topics.items()]
    return f"Cannot be computed: {'; '.join(parts)}." if parts else ""


def to_json(audit: Audit) -> dict[str, Any]:
    """Return the whole audit; a metric that cannot be computed is null with its reason."""
    return {
        "reference": audit.reference,
        "notes": list(audit.notes),
        "findings": [line for section in audit.sections for line in findings(section, audit.reference)],
        "sections": [asdict(section) for section in audit.sections],
    }


def findings(section: AuditSection, reference: str) -> list[str]:
    """Return what stands out, judge by judge: only what the intervals support."""
    last = section.columns[-1] if section.columns and section.columns[-1].reference else None
    ceiling = last.figures.get("agreement_one") if last else None
    lines: list[str] = []
    for column in section.columns:
        if section.kind == "difficulty":
            lines += _difficulty_findings(column)
        elif not column.reference:
            lines += _agreement_findings(column, ceiling, reference)
            lines += _position_findings(column.name, column.figures)
            lines += _other_findings(column)
        elif ceiling and ceiling.value is not None:
            kappa = column.figures["kappa_one"].value
            if kappa is not None:
                both = _percent(ceiling)
                lines.append(f"Two people give the same verdict on {both} of the pairs they share (κ {kappa:.2f}).")
    return lines


def _agreement_findings(column: RaterColumn, ceiling: Metric | None, reference: str) -> Iterator[str]:
    name, metrics = column.name, column.figures
    person, kappa = metrics.get("agreement_one"), metrics.get("kappa")
    if person and person.value is not None and ceiling and ceiling.value is not None:
        below = 100 * (ceiling.value - person.value)
        yield (
            f"{name} agrees with one person on {_percent(person)} of the verdicts, two people with one another on "
            f"{_percent(ceiling)}: {abs(below):.0f} points {'below' if below > 0 else 'above'} the ceiling."
        )
    if kappa and kappa.value is not None and kappa.high is not None and kappa.high < LEAST_AGREEMENT:
        chance = "less than chance would" if kappa.high < 0 else "hardly more than chance would"
        yield f"{name} agrees with {reference} {chance} (κ {_value(kappa.value, 'number')})."
    if metrics["ties"].value == 1:
        yield f"{name} says tie on every pair: it tells no answers apart."


def _position_findings(name: str, metrics: Mapping[str, Metric]) -> Iterator[str]:
    flips, first, shown = metrics["flips"], metrics["favours_first"], metrics["first_shown"]
    if flips.value and first.value is not None:
        position = "first" if first.value >= 0.5 else "second"  # noqa: PLR2004
        sure = "" if _excludes(first, 0.5) else ", which may be chance"
        yield (
            f"{name} changes its verdict with the order on {_percent(flips)} of the pairs, "
            f"and prefers the {position} answer in {100 * max(first.value, 1 - first.value):.0f} % of those{sure}."
        )
    if flips.value is None and _excludes(shown, 0.5):
        yield (
            f"{name} prefers the answer shown first in {_percent(shown)} of its decided verdicts; "
            "pairs were shown in one order, so this is a bias only if the order was random."
        )


def _other_findings(column: RaterColumn) -> Iterator[str]:
    name, metrics = column.name, column.figures
    longer, more, own = metrics["longer"], metrics["longer_excess"], metrics["own_excess"]
    prefers = f"{name} prefers the longer answer in {_percent(longer)} of the pairs it decides"
    if longer.value is not None and more.value is not None:
        excess = f"{abs(100 * more.value):.0f} points {'more' if more.value > 0 else 'less'} often than the reference"
        if not _excludes(more, 0):
            excess = "no more often than the reference within the uncertainty"
        yield f"{prefers}, {excess}."
    elif _excludes(longer, 0.5):
        yield f"{prefers}; without labels this does not say whether it should."
    if own.value is not None and _excludes(own, 0):
        interval = f"{own.value:+.2f}, 95 % interval {own.low:+.2f} to {own.high:+.2f}".replace("-", MINUS)
        direction = "higher" if own.value > 0 else "lower"
        yield f"{name} rates its own family {direction} than the reference does ({interval})."
    if metrics["constant_wins"].value:
        wins = _percent(metrics["constant_wins"])
        yield f"An answer that is the same to every prompt wins {wins} of its pairs with {name}."
    unreadable = metrics["unreadable"]
    if unreadable.value and unreadable.value > MOST_UNREADABLE:
        kinds = ", ".join(f"{why} ({count:,})" for why, count in list(column.unreadable.items())[:3])
        yield f"{name} has no verdict on {_percent(unreadable)} of what it judged: {kinds}."


def _difficulty_findings(column: RaterColumn) -> Iterator[str]:
    better, hard = column.figures["better"], column.figures["gap_difficulty"]
    if better.value is not None:
        yield f"The oracle and {column.name} agree who answered better on {_percent(better)} of {better.n} pairs."
    if hard.value is not None:
        sure = "" if _excludes(hard, 0) else "; the interval includes 0, so it may be chance"
        yield f"A larger gap goes with what {column.name} finds harder with τ-b {hard.value:.2f}{sure}."


def _excludes(metric: Metric, value: float) -> bool:
    """Return whether the interval lies wholly on one side of a value."""
    return metric.low is not None and metric.high is not None and (metric.low > value or metric.high < value)


def _percent(metric: Metric) -> str:
    return f"{100 * (metric.value or 0):.0f} %"
