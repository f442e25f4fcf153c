"""The whole audit: figures of every judge, of the reference beside them, and of the oracle's difficulty."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, TypeAlias

from tapir.audit import biases
from tapir.audit.agreement import agreement, among_people, rating_agreement, ratings_among_people
from tapir.audit.measures import Figure, kappa, ranks, share
from tapir.audit.pairs import Choice, Cost, Oracle, Person, Rating, Vote, side
from tapir.audit.panel import Panel, lead, verdicts

Kind: TypeAlias = Literal["comparisons", "ratings", "difficulty"]
_THOUSAND = 1_000


@dataclass(frozen=True, slots=True)
class Column:
    """The figures of one judge, or of the reference.

    Attributes:
        figures: by key; `tapir.audit.words` says what each is called.
        unreadable: how many judgements gave no verdict, by reason.
    """

    name: str
    is_reference: bool
    figures: Mapping[str, Figure]
    unreadable: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Section:
    """Figures of one kind: two answers compared, single answers rated, or a run's difficulty beside people's."""

    kind: Kind
    columns: Sequence[Column]


@dataclass(frozen=True, slots=True)
class Audit:
    """Everything that was found.

    Attributes:
        reference: who the judges are compared with, in words; "" nobody.
        notes: what was read, matched and left out.
    """

    reference: str
    sections: Sequence[Section]
    notes: Sequence[str]


def audit(panel: Panel) -> Audit:
    """Work out every figure there is something for; what is missing is said in the figure."""
    sections = []
    if panel.votes:
        sections.append(Section("comparisons", tuple(_comparing(panel))))
    if panel.ratings:
        sections.append(Section("ratings", tuple(_rating(panel))))
    if panel.oracle:
        sections.append(Section("difficulty", tuple(_difficulty(panel, panel.oracle))))
    return Audit(_reference(panel), tuple(sections), tuple(panel.notes))


def _reference(panel: Panel) -> str:
    if panel.reference:
        return panel.reference
    several = f"majority of {len(panel.people)} people"
    return several if len(panel.people) > 1 else panel.people[0] if panel.people else ""


def _comparing(panel: Panel) -> Iterator[Column]:
    voters = {one.rater for one in panel.votes}
    for judge in panel.judges:
        if judge in voters:
            said = [one for one in panel.votes if one.rater == judge]
            figures = agreement(panel, judge) | _biases(panel, judge, panel.labels)
            yield _column(panel, judge, figures, said, reference=False)
    if panel.reference in voters:
        said = [one for one in panel.votes if one.rater == panel.reference]
        yield _column(panel, panel.reference, _biases(panel, panel.reference, {}), said, reference=True)
    if voters & set(panel.people):
        people = [one for one in panel.votes if one.rater in panel.people]
        figures = among_people(panel) | _people(panel)
        yield _column(panel, _named(panel), figures, people, reference=True)


def _named(panel: Panel) -> str:
    return panel.people[0] if len(panel.people) == 1 else f"{len(panel.people)} people"


def _biases(panel: Panel, rater: str, labels: Mapping[str, Choice]) -> dict[str, Figure]:
    choices = verdicts(panel.by_rater.get(rater, {}))
    found = {"ties": biases.ties(panel, choices)}
    found |= biases.order(panel, rater)
    found |= biases.length(panel, choices, labels)
    found |= biases.own_kin(panel, rater, choices, labels)
    return found | biases.variance(panel, rater) | biases.canary(panel, rater)


def _people(panel: Panel) -> dict[str, Figure]:
    """What can be asked of people too: of their majority where it is about items, of each where it is about places."""
    found = {"ties": biases.ties(panel, panel.labels), "first_shown": biases.first_shown(panel, panel.people)}
    return found | {"longer": biases.length(panel, panel.labels, {})["longer"]}


def _rating(panel: Panel) -> Iterator[Column]:
    raters = {one.rater for one in panel.ratings}
    for judge in panel.judges:
        if judge in raters:
            figures = rating_agreement(panel, judge) | biases.own_kin_scores(panel, judge)
            figures |= biases.variance_of_scores(panel, judge)
            yield _column(panel, judge, figures, _ratings(panel, [judge]), reference=False)
    if panel.reference in raters:
        figures = biases.own_kin_scores(panel, panel.reference) | biases.variance_of_scores(panel, panel.reference)
        yield _column(panel, panel.reference, figures, _ratings(panel, [panel.reference]), reference=True)
    if raters & set(panel.people):
        figures = ratings_among_people(panel)
        yield _column(panel, _named(panel), figures, _ratings(panel, panel.people), reference=True)


def _ratings(panel: Panel, raters: Sequence[str]) -> list[Rating]:
    return [one for one in panel.ratings if one.rater in raters]


def _column(
    panel: Panel, name: str, figures: dict[str, Figure], said: Sequence[Vote | Rating], *, reference: bool
) -> Column:
    none, kinds = biases.unreadable(panel, [one for one in said if not panel.items[one.item].constant])
    raters = dict.fromkeys(one.rater for one in said)
    costs = [panel.costs[one] for one in raters if one in panel.costs]
    return Column(name, reference, figures | {"unreadable": none} | dict(_cost(costs)), kinds)


def _cost(costs: Sequence[Cost]) -> Iterator[tuple[str, Figure]]:
    """What 1,000 judgements cost and took; sums, so without an interval."""
    for key, found in (
        ("money", [(one.money, one.judgements) for one in costs if one.money is not None]),
        ("seconds", [(one.seconds, one.judgements) for one in costs if one.seconds is not None]),
    ):
        count = sum(judgements for _, judgements in found)
        if count:
            total = sum(value for value, _ in found)
            yield key, Figure(total / count * _THOUSAND, count, why="a sum, so without an interval")


def _difficulty(panel: Panel, oracle: Oracle) -> Iterator[Column]:
    """How far the gap and the task agree with every person, and with their mean where there are several."""
    by_person: dict[str, list[Person]] = defaultdict(list)
    for one in oracle.people:
        by_person[one.rater].append(one)
    for rater, said in by_person.items():
        votes = panel.by_rater.get(rater, {})
        preferences = {name: -lead(some) for name, some in votes.items()}
        yield Column(rater, is_reference=False, figures=_against_oracle(oracle, said, preferences), unreadable={})
    if len(by_person) > 1:
        preferences = {name: -value for name, value in panel.leads.items()}
        figures = _against_oracle(oracle, oracle.people, preferences)
        yield Column(f"mean of {len(by_person)}", is_reference=True, figures=figures, unreadable={})


def _against_oracle(oracle: Oracle, said: Sequence[Person], preferences: Mapping[str, float]) -> dict[str, Figure]:
    """Figures of one person, or of several.

    Args:
        oracle: the gaps and tasks.
        said: what they said.
        preferences: by item, above 0 where the teacher's answer is the better one, as the gap is.
    """
    rated: dict[str, list[int]] = defaultdict(list)
    for one in said:
        if one.difficulty is not None and one.item in oracle.gaps:
            rated[one.item].append(one.difficulty)
    hard = [fmean(some) for some in rated.values()]
    gaps = [oracle.gaps[name] for name in rated]
    both = [name for name in preferences if name in oracle.gaps]
    own, theirs = [oracle.gaps[name] for name in both], [preferences[name] for name in both]
    better = [side(one) for one in own], [side(one) for one in theirs]
    decided = [at for at in range(len(both)) if "tie" not in {better[0][at], better[1][at]}]
    tagged = [(oracle.tasks[one.item], one.task, one.item) for one in said if one.task and one.item in oracle.tasks]
    labels = sorted({label for pair in tagged for label in pair[:2]})
    items = [name for _, _, name in tagged]
    nobody = "no scored item has a preference"
    return {
        "better": share([one == other for one, other in zip(*better, strict=True)], both, nobody),
        "better_decided": share(
            [better[0][at] == better[1][at] for at in decided],
            [both[at] for at in decided],
            "no pair on which both decide",
        ),
        "better_kappa": kappa(*better, both, ("a", "b", "tie")),
        "gap_preference": ranks(own, theirs, both, "kendall"),
        "gap_preference_rho": ranks(own, theirs, both, "spearman"),
        "gap_difficulty": ranks(gaps, hard, list(rated), "kendall"),
        "gap_difficulty_rho": ranks(gaps, hard, list(rated), "spearman"),
        "task": share([one == other for one, other, _ in tagged], items, "nobody named a task"),
        "task_kappa": kappa([one for one, _, _ in tagged], [other for _, other, _ in tagged], items, labels),
    }
