"""Items, votes and ratings as a reader finds them, one row after the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tapir.audit.pairs import Cost, Item, Rating, Source, Vote

LEAST_CONSTANT = 5  # prompts with the same answer that make it a constant one


@dataclass(slots=True)
class Gathering:
    """A source in the making."""

    items: dict[str, Item] = field(default_factory=dict)
    votes: list[Vote] = field(default_factory=list)
    ratings: list[Rating] = field(default_factory=list)
    people: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    _labels: set[Vote] = field(default_factory=set)
    _money: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, item: Item, *said: Vote | Rating) -> None:
        """Take an item and what was said about it; the first row about an item decides which answer is `a`."""
        known = self.items.setdefault(item.id, item)
        turned = known.is_turned(item)
        for one in said:
            if isinstance(one, Rating):
                self.ratings.append(one)
            else:
                self.votes.append(one.turned() if turned else one)

    def label(self, item: Item, vote: Vote) -> None:
        """Take a label that may stand in every row about its item; the same said again does not count again."""
        self.people.add(vote.rater)
        turned = self.items.setdefault(item.id, item).is_turned(item)
        vote = vote.turned() if turned else vote
        if vote not in self._labels:
            self._labels.add(vote)
            self.votes.append(vote)

    def paid(self, rater: str, money: float | None, seconds: float | None) -> None:
        """Take what one judgement cost."""
        if money is not None:
            self._money[rater].append(money)
        if seconds is not None:
            self._seconds[rater].append(seconds)

    def source(self, name: str, layout: str) -> Source:
        """Everything gathered; answers that are the same to every prompt are marked as constant."""
        constant = set(self._constant())
        items = {
            key: replace(
                one, constant="a" if one.model_a in constant else "b" if one.model_b in constant else one.constant
            )
            for key, one in self.items.items()
        }
        return Source(
            name, layout, items, self.votes, self.ratings, frozenset(self.people), dict(self._costs()), notes=self.notes
        )

    def _costs(self) -> Iterator[tuple[str, Cost]]:
        for rater in {**self._money, **self._seconds}:
            money, seconds = self._money.get(rater, []), self._seconds.get(rater, [])
            count = max(len(money), len(seconds))
            yield rater, Cost(count, sum(money) if money else None, sum(seconds) if seconds else None)

    def _constant(self) -> Iterator[str]:
        """Models that give one and the same answer to every prompt."""
        said: dict[str, set[str]] = defaultdict(set)
        asked: dict[str, set[str]] = defaultdict(set)
        for one in self.items.values():
            for model, answer in ((one.model_a, one.answer_a), (one.model_b, one.answer_b)):
                if model and answer:
                    said[model].add(answer)
                    asked[model].add(one.prompt)
        yield from (
            model for model, answers in said.items() if len(answers) == 1 and len(asked[model]) >= LEAST_CONSTANT
        )
