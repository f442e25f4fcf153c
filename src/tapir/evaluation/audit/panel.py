"""Recordings joined into one table of votes: judges, reference, and the verdicts of each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, combinations
from statistics import fmean
from typing import TypeVar

from tapir.domain.errors import DataError
from tapir.evaluation.audit.records import AnswerPair, Choice, JudgingCost, Oracle, Pairs, Recording, Vote, Votes, side

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Panel:
    """Pairs and all votes about them.

    Attributes:
        judges: raters to audit.
        humans: raters that serve as labels; none where a judge is the reference, or where there is no reference.
        reference: the judge that others are compared with; "" where people are the reference, or nobody is.
        notes: sentences on what was matched and what was left out.
    """

    pairs: Pairs
    votes: Sequence[Vote]
    judges: Sequence[str]
    humans: Sequence[str]
    reference: str
    costs: Mapping[str, JudgingCost]
    oracle: Oracle | None
    notes: Sequence[str]

    @cached_property
    def by_rater(self) -> Mapping[str, Votes]:
        """Readable votes of each rater; pairs with a constant answer are apart, in `canary`."""
        return group_votes(vote for vote in self.votes if not self.pairs[vote.pair].constant)

    @cached_property
    def canary(self) -> Mapping[str, Votes]:
        """Readable votes of each rater on pairs with a constant answer."""
        return group_votes(vote for vote in self.votes if self.pairs[vote.pair].constant)

    @cached_property
    def labels(self) -> Mapping[str, Choice]:
        """The reference's verdict on each pair: that of the judge, or the most frequent one of people if it leads."""
        leading = {name: most_frequent(choices) for name, choices in self._by_pair(verdicts).items()}
        return {name: choice for name, choice in leading.items() if choice}

    @cached_property
    def leads(self) -> Mapping[str, float]:
        """By how much the first answer is better to the reference; a mean over people."""
        return {name: fmean(values) for name, values in self._by_pair(leads).items()}

    def _by_pair(self, values: Callable[[Votes], Mapping[str, _Value]]) -> Mapping[str, list[_Value]]:
        """Return what each rater of the reference gave a pair."""
        given: dict[str, list[_Value]] = defaultdict(list)
        for rater in [self.reference] if self.reference else self.humans:
            for name, value in values(self.by_rater.get(rater, {})).items():
                given[name].append(value)
        return given


def group_votes(votes: Iterable[Vote]) -> dict[str, dict[str, list[Vote]]]:
    """Group readable votes by rater and pair."""
    groups: dict[str, dict[str, list[Vote]]] = {}
    for vote in votes:
        if vote.choice:
            groups.setdefault(vote.rater, {}).setdefault(vote.pair, []).append(vote)
    return groups


def verdicts(votes: Votes) -> dict[str, Choice]:
    """Return one verdict of one rater for each pair."""
    return {name: verdict(group) for name, group in votes.items()}


def verdict(votes: Sequence[Vote]) -> Choice:
    """Combine a rater's votes on a pair.

    Where every vote has a lead it is the sign of the mean lead, each order counting the same (METHOD section 4.3).
    Where there are choices only, an answer wins if it wins in every order, as in MT-Bench; else it is a tie.
    """
    if all(vote.lead is not None for vote in votes):
        return side(lead(votes))
    orders: dict[str, list[Choice]] = defaultdict(list)
    for vote in votes:
        if vote.choice:
            orders[vote.order].append(vote.choice)
    choices = {most_frequent(group) or "tie" for group in orders.values()}
    return choices.pop() if len(choices) == 1 else "tie"


def leads(votes: Votes) -> dict[str, float]:
    """Return the mean lead of the first answer for each pair; a choice without a lead counts as 1, 0 or -1."""
    return {name: lead(group) for name, group in votes.items()}


def lead(votes: Sequence[Vote]) -> float:
    """Return the mean lead of the first answer, each order counting the same."""
    orders: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        orders[vote.order].append(sign(vote.choice) if vote.lead is None else vote.lead)
    return round(fmean(map(fmean, orders.values())), 9)  # equal means are equal whatever the order of sums


def sign(choice: Choice | None) -> float:
    """Return 1 for the first answer, -1 for the second, 0 for a tie."""
    return {"a": 1.0, "b": -1.0}.get(choice or "", 0.0)


def most_frequent(choices: Sequence[Choice]) -> Choice | None:
    """Return the verdict given most often; None where two are given equally often."""
    (first, times), *others = Counter(choices).most_common()
    return None if any(count == times for _, count in others) else first


def join(recordings: Sequence[Recording], labels: Sequence[Recording], reference: str = "") -> Panel:
    """Join recordings and those that hold labels for them.

    Without people and without a named reference, the one judge of the last of several recordings is the reference.
    """
    everything = _distinguish_raters([*recordings, *map(_only_humans, labels)])
    pairs: dict[str, AnswerPair] = {}
    votes: list[Vote] = []
    costs: dict[str, JudgingCost] = defaultdict(JudgingCost)
    for recording in everything:
        swapped = {name for name, pair in recording.pairs.items() if pairs.setdefault(name, pair).is_swap_of(pair)}
        for name, pair in recording.pairs.items():
            pairs[name] = pairs[name].merge(pair.swap() if name in swapped else pair)
        votes += [vote.swap() if vote.pair in swapped else vote for vote in recording.votes]
        for rater, cost in recording.costs.items():
            costs[rater] += cost
    raters = [(name, name in recording.humans) for recording in everything for name in recording.raters]
    humans = list(dict.fromkeys(name for name, human in raters if human))
    judges = list(dict.fromkeys(name for name, human in raters if not human))
    if reference and reference not in judges:
        raise DataError(f"no judge is called '{reference}'", remedy=f"Judges here: {', '.join(judges) or 'none'}.")
    earlier = {name for recording in everything[:-1] for name in recording.raters}
    last = [name for name in everything[-1].raters if name in judges and name not in earlier]
    chosen = reference or (last[0] if not humans and len(everything) > 1 and len(last) == 1 else "")
    notes = [note for recording in everything for note in recording.notes]
    notes += _count_matches(everything[: len(recordings)], everything[len(recordings) :], chosen)
    judges = [name for name in judges if name != chosen]
    return Panel(pairs, votes, judges, [] if chosen else humans, chosen, costs, _join_oracles(everything), notes)


def _only_humans(recording: Recording) -> Recording:
    """Return the people's part of a file given as labels, or all of it where there are no people."""
    humans = recording.humans or {*recording.raters}
    return replace(recording, votes=[vote for vote in recording.votes if vote.rater in humans], humans=humans)


def _distinguish_raters(recordings: Sequence[Recording]) -> list[Recording]:
    """Add the recording's name to raters of the same name that judged mostly the same pairs in two recordings.

    One who judged other pairs there is the same rater, whose judgements lie in several files.
    """
    twice = set()
    for left, right in combinations(recordings, 2):
        for name in {*left.raters} & {*right.raters}:
            first, second = _judged(left, name), _judged(right, name)
            if 2 * len({*first} & {*second}) >= min(len(first), len(second)):
                twice.add(name)
    used: Counter[str] = Counter()
    result = []
    for recording in recordings:
        names = {}
        for name in recording.raters:
            wanted = f"{name} ({recording.name})" if name in twice else name
            used[wanted] += name in twice
            names[name] = wanted if used[wanted] <= 1 else f"{wanted} {used[wanted]}"
        result.append(rename_raters(recording, names))
    return result


def rename_raters(recording: Recording, names: Mapping[str, str]) -> Recording:
    """Give raters of a recording other names."""
    return replace(
        recording,
        votes=[replace(vote, rater=names.get(vote.rater, vote.rater)) for vote in recording.votes],
        humans={names.get(name, name) for name in recording.humans},
        costs={names.get(name, name): cost for name, cost in recording.costs.items()},
    )


def _count_matches(recordings: Sequence[Recording], labels: Sequence[Recording], reference: str) -> list[str]:
    """Report how many pairs of the recordings the labels, or the other judge, cover; none at all is an error."""
    if not labels and (not reference or len(recordings) <= 1):
        return []
    sides = (recordings, labels) if labels else (recordings[:-1], recordings[-1:])
    left, right = (list(dict.fromkeys(chain.from_iterable(map(_judged, group)))) for group in sides)
    names = [" and ".join(recording.name for recording in group) for group in sides]
    if not (left and right):
        raise DataError(
            f"nothing in {names[bool(left)]} can be matched: one answer of every pair is constant",
            remedy="Constant answers are measured apart from agreement: name recordings that judge other answers, too.",
        )
    both = set(left) & set(right)
    if not both:
        raise DataError(
            f"{names[0]} and {names[1]} have no item in common: the first has {left[0]}, the second {right[0]}",
            remedy="Items match by id; formats with texts make it from prompt and answers. See docs/audit.md.",
        )
    notes = [f"{len(both):,} of the {len(left):,} items of {names[0]} and of the {len(right):,} of {names[1]} match."]
    for ids, name in ((left, names[0]), (right, names[1])):
        unmatched = next((pair for pair in ids if pair not in both), None)
        if unmatched is not None:
            notes.append(f"The first item of {name} without a match is {unmatched}.")
    return notes


def _judged(recording: Recording, rater: str = "") -> list[str]:
    """Return the pairs that anybody, or one rater, judged; without those that have a constant answer."""
    names = dict.fromkeys(vote.pair for vote in recording.votes if rater in {"", vote.rater})
    judged = [name for name in names if not recording.pairs[name].constant]
    reviewed = [review.id for review in recording.oracle.reviews] if recording.oracle and not rater else []
    return list(dict.fromkeys([*judged, *reviewed]))


def _join_oracles(recordings: Sequence[Recording]) -> Oracle | None:
    """Return what a run worked out with what people said about it, where both are there."""
    oracles = [recording.oracle for recording in recordings if recording.oracle]
    runs = [oracle for oracle in oracles if oracle.gaps]
    reviews = [review for oracle in oracles for review in oracle.reviews]
    return Oracle(runs[0].gaps, runs[0].tasks, reviews) if runs and reviews else None
