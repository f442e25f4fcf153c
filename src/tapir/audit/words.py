"""What every figure is called and how it is written, and what stands out, as plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tapir.audit.auditing import Audit, Column, Kind, Section
from tapir.audit.measures import Figure

Unit = Literal["percent", "points", "number", "amount"]
MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
RHO = "\N{GREEK SMALL LETTER RHO}"

LEAST_AGREEMENT = 0.2  # Landis and Koch (1977): below it agreement is slight
MOST_UNREADABLE = 0.02


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: the key of its figure, its name, how it is written, and what it belongs to."""

    key: str
    label: str
    unit: Unit
    topic: str

    @property
    def title(self) -> str:
        """The name with its unit."""
        return self.label + {"percent": " (%)", "points": " (pp)"}.get(self.unit, "")


ROWS: Mapping[Kind, Sequence[Row]] = {
    "comparisons": (
        Row("agreement", "agreement with the reference", "percent", "agreement with a reference"),
        Row("decided", "… where both decide", "percent", "agreement with a reference where both decide"),
        Row("kappa", "Cohen's κ", "number", "κ"),
        Row("kendall", "Kendall's τ-b of leads", "number", "rank correlation"),
        Row("spearman", f"Spearman's {RHO} of leads", "number", "rank correlation"),
        Row("agreement_one", "agreement with one person", "percent", "agreement with one person"),
        Row("decided_one", "… where both decide", "percent", "agreement with one person where both decide"),
        Row("kappa_one", "… as κ", "number", "κ with one person"),
        Row("ties", "says tie", "percent", "ties"),
        Row("flips", "order changes the verdict", "percent", "order flips"),
        Row("reversals", "… into its opposite", "percent", "order flips"),
        Row("favours_first", "… in favour of the first shown", "percent", "the place that flips favour"),
        Row("first_shown", "prefers the answer shown first", "percent", "preference for the first place"),
        Row("longer", "prefers the longer answer", "percent", "length preference"),
        Row("longer_excess", "… beyond the reference", "points", "length preference beyond the reference"),
        Row("own", "own family's answer wins", "percent", "self-preference"),
        Row("own_excess", "… beyond the reference", "points", "self-preference beyond the reference"),
        Row("identical", "repeats with the same verdict", "percent", "variance"),
        Row("within", "standard deviation of repeats", "number", "variance"),
        Row("constant_wins", "constant answer wins", "percent", "null-answer canary"),
        Row("constant_score", "constant answer's score", "number", "null-answer canary"),
        Row("other_score", "score of the answer beside it", "number", "null-answer canary"),
        Row("unreadable", "unreadable", "percent", "unreadable share"),
        Row("money", "cost per 1,000 judgements", "amount", "cost"),
        Row("seconds", "seconds per 1,000 judgements", "amount", "time"),
    ),
    "ratings": (
        Row("same", "same score as the reference", "percent", "agreement with a reference"),
        Row("quadratic", "κ with quadratic weights", "number", "κ"),
        Row("same_one", "same score, two people", "percent", "agreement of two people"),
        Row("quadratic_one", "… as κ with quadratic weights", "number", "κ of two people"),
        Row("kendall", "Kendall's τ-b", "number", "rank correlation"),
        Row("spearman", f"Spearman's {RHO}", "number", "rank correlation"),
        Row("higher", "score minus the reference's", "number", "difference to a reference"),
        Row("order_of_answers", "same answer ahead, of two", "percent", "the order of two answers"),
        Row("own", "own family minus others", "number", "self-preference"),
        Row("own_excess", "… beyond the reference", "number", "self-preference beyond the reference"),
        Row("identical", "repeats with the same score", "percent", "variance"),
        Row("within", "standard deviation of repeats", "number", "variance"),
        Row("unreadable", "unreadable", "percent", "unreadable share"),
        Row("money", "cost per 1,000 judgements", "amount", "cost"),
        Row("seconds", "seconds per 1,000 judgements", "amount", "time"),
    ),
    "difficulty": (
        Row("better", "agree who is better", "percent", "agreement on who is better"),
        Row("better_decided", "… where both decide", "percent", "agreement on who is better where both decide"),
        Row("better_kappa", "… as Cohen's κ", "number", "κ on who is better"),
        Row("gap_preference", "gap, preference: Kendall's τ-b", "number", "gap and preference"),
        Row("gap_preference_rho", f"gap, preference: Spearman's {RHO}", "number", "gap and preference"),
        Row("gap_difficulty", "gap, difficulty: Kendall's τ-b", "number", "gap and rated difficulty"),
        Row("gap_difficulty_rho", f"gap, difficulty: Spearman's {RHO}", "number", "gap and rated difficulty"),
        Row("task", "same task", "percent", "agreement on the task"),
        Row("task_kappa", "… as Cohen's κ", "number", "κ of the task"),
    ),
}
TITLES: Mapping[Kind, str] = {
    "comparisons": "two answers compared",
    "ratings": "single answers rated",
    "difficulty": "the oracle's difficulty beside people's",
}


def rows(section: Section) -> list[Row]:
    """The lines of a section that have a figure in some column."""
    return [
        row
        for row in ROWS[section.kind]
        if any(one.value is not None for column in section.columns if (one := column.figures.get(row.key)))
    ]


def cell(row: Row, figure: Figure | None) -> str:
    """A figure with its interval and n."""
    if figure is None or figure.value is None:
        return NONE
    value = _bare(figure.value, row.unit)
    if figure.low is None or figure.high is None:
        return f"{value} n {figure.n:,}"
    low, high = (_bare(one, row.unit) for one in (figure.low, figure.high))
    return f"{value} [{low}, {high}] n {figure.n:,}"


def _bare(value: float, unit: Unit) -> str:
    if unit == "amount":
        return f"{value:,.2f}"
    text = f"{100 * value:.1f}" if unit in {"percent", "points"} else f"{value:.2f}"
    return text.replace("-", MINUS) if float(text) else text.removeprefix("-")


def missing(section: Section) -> str:
    """What could not be computed and why, as one sentence; empty where nothing is missing."""
    judges = [one.name for one in section.columns if not one.is_reference]
    found: dict[tuple[str, str], list[str]] = {}
    for row in ROWS[section.kind]:
        for why, names in _lacking(section, row.key).items():
            whose = "" if set(judges) <= set(names) else f" of {', '.join(names)}"
            topics = found.setdefault((why, whose), [])
            topics += [] if row.topic in topics else [row.topic]
    parts = [f"{', '.join(topics)}{whose} ({why})" for (why, whose), topics in found.items()]
    return f"Cannot be computed: {'; '.join(parts)}." if parts else ""


def _lacking(section: Section, key: str) -> dict[str, list[str]]:
    """Columns without this figure, by the reason."""
    found: dict[str, list[str]] = {}
    for column in section.columns:
        figure = column.figures.get(key)
        if figure is not None and figure.value is None:
            found.setdefault(figure.why, []).append(column.name)
    return found


def as_json(found: Audit) -> dict[str, Any]:
    """The whole audit for audit.json; a figure that cannot be computed is null with its reason."""
    return {
        "reference": found.reference,
        "notes": list(found.notes),
        "findings": [line for section in found.sections for line in findings(section, found.reference)],
        "sections": [
            {
                "kind": section.kind,
                "columns": [
                    {
                        "name": column.name,
                        "reference": column.is_reference,
                        "figures": {key: asdict(one) for key, one in column.figures.items()},
                        "unreadable": dict(column.unreadable),
                    }
                    for column in section.columns
                ],
            }
            for section in found.sections
        ],
    }


def findings(section: Section, reference: str) -> list[str]:
    """What stands out, judge by judge: only what the intervals bear out."""
    last = section.columns[-1] if section.columns and section.columns[-1].is_reference else None
    lines: list[str] = []
    for column in section.columns:
        if section.kind == "difficulty":
            lines += _about_difficulty(column)
        elif not column.is_reference:
            lines += _about_judge(column, last, reference)
            lines += _about_scores(column, reference) if section.kind == "ratings" else []
        elif column.figures.get("agreement_one"):
            lines += _about_people(column)
    return lines


def _about_judge(column: Column, last: Column | None, reference: str) -> Iterator[str]:
    name, figures = column.name, column.figures
    yield from _agreeing(name, figures, last, reference)
    ties = figures.get("ties")
    if ties and ties.value == 1:
        yield f"{name} says tie on every pair: it tells no answers apart."
    yield from _placing(name, figures)
    longer, more = figures.get("longer"), figures.get("longer_excess")
    if longer and longer.value is not None and more and more.value is not None:
        beside = f"{name} prefers the longer answer in {_percent(longer)} of the pairs it decides"
        yield f"{beside}, {_more(more, 'the reference')}."
    elif longer and _beyond(longer, 0.5):
        yield (
            f"{name} prefers the longer answer in {_percent(longer)} of the pairs it decides; "
            "without labels this does not say whether it should."
        )
    own = figures.get("own_excess")
    if own and own.value is not None and _beyond(own, 0):
        yield f"{name} rates its own family {_direction(own)} than the reference does ({_span(own)})."
    constant = figures.get("constant_wins")
    if constant and constant.value:
        yield f"An answer that says the same whatever is asked wins {_percent(constant)} of its pairs with {name}."
    none = figures["unreadable"]
    if none.value and none.value > MOST_UNREADABLE:
        kinds = ", ".join(f"{why} ({count:,})" for why, count in list(column.unreadable.items())[:3])
        yield f"{_percent(none)} of what {name} said cannot be read: {kinds}."


def _agreeing(name: str, figures: Mapping[str, Figure], last: Column | None, reference: str) -> Iterator[str]:
    one = figures.get("agreement_one")
    ceiling = last.figures.get("agreement_one") if last else None
    if one and one.value is not None and ceiling and ceiling.value is not None:
        below = 100 * (ceiling.value - one.value)
        side = f"{abs(below):.0f} points {'below' if below > 0 else 'above'}"
        yield (
            f"{name} agrees with one person on {_percent(one)} of the verdicts, "
            f"two people with one another on {_percent(ceiling)}: {side} the ceiling."
        )
    kappa = figures.get("kappa")
    if kappa and kappa.value is not None and kappa.high is not None and kappa.high < LEAST_AGREEMENT:
        chance = "less than chance would" if kappa.high < 0 else "hardly more than chance would"
        yield f"{name} agrees with {reference} {chance} (κ {_bare(kappa.value, 'number')})."


def _placing(name: str, figures: Mapping[str, Figure]) -> Iterator[str]:
    flips, first = figures.get("flips"), figures.get("favours_first")
    if flips and flips.value and first and first.value is not None:
        place = "first" if first.value >= 0.5 else "second"  # noqa: PLR2004
        share = max(first.value, 1 - first.value)
        sure = "" if _beyond(first, 0.5) else ", which may be chance"
        yield (
            f"{name} changes its verdict with the order on {_percent(flips)} of the pairs, "
            f"and prefers the {place} answer in {100 * share:.0f} % of those{sure}."
        )
    shown = figures.get("first_shown")
    if not (flips and flips.value is not None) and shown and _beyond(shown, 0.5):
        yield (
            f"{name} prefers the answer shown first in {_percent(shown)} of its decided verdicts; "
            "pairs were shown in one order, so this is a bias only if the order was chance."
        )


def _about_scores(column: Column, reference: str) -> Iterator[str]:
    name, figures = column.name, column.figures
    rank, higher, same = figures.get("kendall"), figures.get("higher"), figures.get("identical")
    if rank and rank.value is not None:
        most = f"{name} puts answers in an order like that of {reference} with τ-b {rank.value:.2f}"
        if higher and higher.value is not None and _beyond(higher, 0):
            yield f"{most} and scores {abs(higher.value):.2f} points {_direction(higher)}."
        else:
            yield f"{most}; neither scores higher than the other within the uncertainty."
    if same and same.value is not None:
        yield f"{name} gives the same score again to {_percent(same)} of the answers it scored several times."


def _about_people(column: Column) -> Iterator[str]:
    one, kappa = column.figures["agreement_one"], column.figures.get("kappa_one")
    if one.value is not None and kappa and kappa.value is not None:
        yield f"Two people give the same verdict on {_percent(one)} of the pairs they share (κ {kappa.value:.2f})."


def _about_difficulty(column: Column) -> Iterator[str]:
    better, hard = column.figures["better"], column.figures["gap_difficulty"]
    if better.value is not None:
        yield f"The oracle and {column.name} agree who answered better on {_percent(better)} of {better.n} pairs."
    if hard.value is not None:
        sure = "" if _beyond(hard, 0) else "; the interval holds 0, so it may be chance"
        yield f"A larger gap goes with what {column.name} finds harder with τ-b {hard.value:.2f}{sure}."


def _beyond(figure: Figure, value: float) -> bool:
    """Whether the interval lies wholly on one side of a value."""
    return figure.low is not None and figure.high is not None and (figure.low > value or figure.high < value)


def _percent(figure: Figure) -> str:
    return f"{100 * (figure.value or 0):.0f} %"


def _direction(figure: Figure) -> str:
    return "higher" if (figure.value or 0) > 0 else "lower"


def _span(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{figure.value or 0:+.2f}, 95 % interval {figure.low:+.2f} to {figure.high:+.2f}".replace("-", MINUS)


def _more(figure: Figure, other: str) -> str:
    if not _beyond(figure, 0):
        return f"no more often than {other} within the uncertainty"
    points = 100 * (figure.value or 0)
    return f"{abs(points):.0f} points {'more' if points > 0 else 'less'} often than {other}"
