"""Several sources as one table: who judges, who serves as the reference, and what each said about every item."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from statistics import fmean

from tapir.audit.pairs import Choice, Cost, Item, Oracle, Rating, Source, Vote, side
from tapir.errors import DataError


@dataclass(frozen=True)
class Panel:
    """Items and everything said about them.

    Attributes:
        judges: raters to audit.
        people: raters that serve as labels; none where a judge is the reference, or where there is no reference.
        reference: the judge that others are compared with; "" where people are the reference, or nobody is.
        notes: what was matched and what was left out, as sentences.
    """

    items: Mapping[str, Item]
    votes: Sequence[Vote]
    ratings: Sequence[Rating]
    judges: Sequence[str]
    people: Sequence[str]
    reference: str
    costs: Mapping[str, Cost]
    oracle: Oracle | None
    notes: Sequence[str]

    @cached_property
    def by_rater(self) -> Mapping[str, Mapping[str, list[Vote]]]:
        """Votes that can be read, of each rater, by item; items with a constant answer are apart, in `canary`."""
        return _grouped(one for one in self.votes if one.choice and not self.items[one.item].constant)

    @cached_property
    def canary(self) -> Mapping[str, Mapping[str, list[Vote]]]:
        """Votes on items where one answer is constant, of each rater, by item."""
        return _grouped(one for one in self.votes if one.choice and self.items[one.item].constant)

    @cached_property
    def scores(self) -> Mapping[str, Mapping[str, list[float]]]:
        """Ratings that can be read, of each rater, by item."""
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for one in self.ratings:
            if one.score is not None:
                found[one.rater][one.item].append(one.score)
        return found

    @cached_property
    def labels(self) -> Mapping[str, Choice]:
        """The verdict of the reference by item: that of the judge, or the one most people gave, where one leads."""
        if self.reference:
            return verdicts(self.by_rater.get(self.reference, {}))
        found: dict[str, list[Choice]] = defaultdict(list)
        for person in self.people:
            for name, choice in verdicts(self.by_rater.get(person, {})).items():
                found[name].append(choice)
        leading = {name: most(some) for name, some in found.items()}
        return {name: choice for name, choice in leading.items() if choice}

    @cached_property
    def leads(self) -> Mapping[str, float]:
        """By how much the first answer is better to the reference: a mean over people of -1, 0, 1 or of their leads."""
        if self.reference:
            return leads(self.by_rater.get(self.reference, {}))
        found: dict[str, list[float]] = defaultdict(list)
        for person in self.people:
            for name, lead in leads(self.by_rater.get(person, {})).items():
                found[name].append(lead)
        return {name: fmean(some) for name, some in found.items()}

    @cached_property
    def marks(self) -> Mapping[str, float]:
        """The score of the reference by item: mean over people, or that of the judge."""
        found: dict[str, list[float]] = defaultdict(list)
        for rater in [self.reference] if self.reference else self.people:
            for name, some in self.scores.get(rater, {}).items():
                found[name].append(fmean(some))
        return {name: fmean(some) for name, some in found.items()}

    def prompt(self, item: str) -> str:
        """The prompt of an item."""
        return self.items[item].prompt


def verdicts(votes: Mapping[str, Sequence[Vote]]) -> dict[str, Choice]:
    """One verdict of one rater for each item."""
    return {name: verdict(some) for name, some in votes.items()}


def verdict(votes: Sequence[Vote]) -> Choice:
    """What a rater said about an item in all.

    Where every vote has a lead it is the sign of the mean lead, each order counting the same (METHOD section 4.3).
    Where there are choices only, an answer wins if it wins in every order, as in MT-Bench; else it is a tie.
    """
    if all(one.lead is not None for one in votes):
        return side(lead(votes))
    orders: dict[str, list[Choice]] = defaultdict(list)
    for one in votes:
        if one.choice:
            orders[one.order].append(one.choice)
    found = {most(some) or "tie" for some in orders.values()}
    return found.pop() if len(found) == 1 else "tie"


def leads(votes: Mapping[str, Sequence[Vote]]) -> dict[str, float]:
    """The mean lead of the first answer for each item; a choice without one counts as 1, 0 or -1."""
    return {name: lead(some) for name, some in votes.items()}


def lead(votes: Sequence[Vote]) -> float:
    """The mean lead of the first answer, each order counting the same."""
    orders: dict[str, list[float]] = defaultdict(list)
    for one in votes:
        orders[one.order].append(sign(one.choice) if one.lead is None else one.lead)
    return round(fmean(fmean(some) for some in orders.values()), 9)  # equal means are equal whatever the order of sums


def sign(choice: Choice | None) -> float:
    """1 for the first answer, -1 for the second, 0 for a tie."""
    return {"a": 1.0, "b": -1.0}.get(choice or "", 0.0)


def most(choices: Sequence[Choice]) -> Choice | None:
    """The verdict given most often; None where two are given equally often."""
    (first, times), *others = Counter(choices).most_common()
    return None if any(count == times for _, count in others) else first


def gather(sources: Sequence[Source], labels: Sequence[Source], reference: str = "") -> Panel:
    """One panel of some sources and of the files that hold labels for them.

    Without people and without a named reference, the one judge of the last of several sources is the reference.

    Raises:
        DataError: labels and sources have no item in common, or `reference` said nothing.
    """
    given = [_as_labels(one) for one in labels]
    everything = _apart([*sources, *given])
    items: dict[str, Item] = {}
    votes: list[Vote] = []
    for source in everything:
        turned = set()
        for name, one in source.items.items():
            if items.setdefault(name, one).is_turned(one):
                turned.add(name)
            items[name] = _known(items[name], one.turned() if name in turned else one)
        votes += [one.turned() if one.item in turned else one for one in source.votes]
    ratings = [one for source in everything for one in source.ratings]
    people = list(dict.fromkeys(name for source in everything for name in source.raters if name in source.people))
    judges = list(dict.fromkeys(name for source in everything for name in source.raters if name not in source.people))
    chosen = _reference(everything, judges, people, reference)
    notes = [note for source in everything for note in source.notes]
    notes += _matched(everything[: len(sources)], everything[len(sources) :], chosen)
    return Panel(
        items,
        votes,
        ratings,
        [name for name in judges if name != chosen],
        [] if chosen else people,
        chosen,
        _costs(everything),
        _oracle(everything),
        notes,
    )


def _known(first: Item, other: Item) -> Item:
    """An item with whatever either source knows about it."""
    return replace(
        first,
        answer_a=first.answer_a or other.answer_a,
        answer_b=first.answer_b or other.answer_b,
        model_a=first.model_a or other.model_a,
        model_b=first.model_b or other.model_b,
        length_a=other.length_a if first.length_a is None else first.length_a,
        length_b=other.length_b if first.length_b is None else first.length_b,
        constant=first.constant or other.constant,
    )


def _as_labels(source: Source) -> Source:
    """Of a file given as labels the people count, or everybody where there are none."""
    people = source.people or frozenset(source.raters)
    return replace(
        source,
        votes=[one for one in source.votes if one.rater in people],
        ratings=[one for one in source.ratings if one.rater in people],
        people=people,
    )


def _apart(sources: Sequence[Source]) -> list[Source]:
    """Raters of the same name who speak about the same items in two sources get the source's name behind theirs.

    One who speaks about other items there is the same rater, whose judgements lie in several files.
    """
    twice = {name for one, other in combinations(sources, 2) for name in _in_both(one, other)}
    used: Counter[str] = Counter()
    result = []
    for source in sources:
        names = {}
        for name in source.raters:
            wanted = f"{name} ({source.name})" if name in twice else name
            used[wanted] += name in twice
            names[name] = wanted if used[wanted] <= 1 else f"{wanted} {used[wanted]}"
        result.append(
            replace(
                source,
                votes=[replace(one, rater=names[one.rater]) for one in source.votes],
                ratings=[replace(one, rater=names[one.rater]) for one in source.ratings],
                people=frozenset(names[one] for one in source.people if one in names),
                costs={names[one]: cost for one, cost in source.costs.items() if one in names},
            )
        )
    return result


def _in_both(one: Source, other: Source) -> Iterator[str]:
    """Raters of both who spoke about mostly the same items."""
    for name in set(one.raters) & set(other.raters):
        first, second = _said(one, name), _said(other, name)
        if 2 * len(set(first) & set(second)) >= min(len(first), len(second)):
            yield name


def _reference(sources: Sequence[Source], judges: Sequence[str], people: Sequence[str], wanted: str) -> str:
    if wanted:
        if wanted not in judges:
            raise DataError(f"no judge is called '{wanted}'", remedy=f"Judges here: {', '.join(judges) or 'none'}.")
        return wanted
    earlier = {name for one in sources[:-1] for name in one.raters}
    last = [name for name in sources[-1].raters if name in judges and name not in earlier]
    return last[0] if not people and len(sources) > 1 and len(last) == 1 else ""


def _matched(sources: Sequence[Source], labels: Sequence[Source], reference: str) -> list[str]:
    """How much of the sources the labels, or the other judge, speak about.

    Raises:
        DataError: nothing at all.
    """
    if labels:
        first, second = sources, labels
    elif reference and len(sources) > 1:
        first, second = sources[:-1], sources[-1:]
    else:
        return []
    left, right = (list(dict.fromkeys(name for one in some for name in _said(one))) for some in (first, second))
    there, here = set(left), set(right)
    both = len(there & here)
    names = " and ".join(one.name for one in first), " and ".join(one.name for one in second)
    if not both:
        raise DataError(
            f"{names[0]} and {names[1]} have no item in common: the first has {left[0]}, the second {right[0]}",
            remedy="Items match by id; formats with texts make it from prompt and answers. See docs/audit.md.",
        )
    found = [f"{both:,} of the {len(left):,} items of {names[0]} and of the {len(right):,} of {names[1]} match."]
    for some, others, name in ((left, here, names[0]), (right, there, names[1])):
        alone = next((one for one in some if one not in others), None)
        if alone is not None:
            found.append(f"The first item of {name} without a match is {alone}.")
    return found


def _said(source: Source, rater: str = "") -> list[str]:
    """Items that somebody, or one rater, said something about, canary apart."""
    said: list[Vote | Rating] = [*source.votes, *source.ratings]
    names = dict.fromkeys(one.item for one in said if rater in {"", one.rater})
    rated = [one.item for one in source.oracle.people] if source.oracle and not rater else []
    return [name for name in dict.fromkeys([*names, *rated]) if name in rated or not source.items[name].constant]


def _costs(sources: Sequence[Source]) -> dict[str, Cost]:
    """What each rater's judgements took over all sources; money or time counts where every source knows it."""
    found: dict[str, Cost] = {}
    for rater, cost in (one for source in sources for one in source.costs.items()):
        known = found.get(rater)
        if known is None:
            found[rater] = cost
            continue
        money = None if known.money is None or cost.money is None else known.money + cost.money
        seconds = None if known.seconds is None or cost.seconds is None else known.seconds + cost.seconds
        found[rater] = Cost(known.judgements + cost.judgements, money, seconds)
    return found


def _oracle(sources: Sequence[Source]) -> Oracle | None:
    """What a run knows and what people said about it, where both are there."""
    found = [one.oracle for one in sources if one.oracle]
    runs = [one for one in found if one.gaps]
    people = [person for one in found for person in one.people]
    return Oracle(runs[0].gaps, runs[0].tasks, people) if runs and people else None


def _grouped(votes: Iterable[Vote]) -> dict[str, dict[str, list[Vote]]]:
    found: dict[str, dict[str, list[Vote]]] = defaultdict(lambda: defaultdict(list))
    for one in votes:
        found[one.rater][one.item].append(one)
    return found
