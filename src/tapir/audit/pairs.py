"""What an audit reads: items, and what judges and people said about them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Choice: TypeAlias = Literal["a", "b", "tie"]
Order: TypeAlias = Literal["ab", "ba", ""]
"""Which answer was shown first; "" where that was not recorded."""

_SEPARATOR = "\x1f"


@dataclass(frozen=True, slots=True)
class Item:
    """What is judged: two answers to one prompt, or one answer (then all about `b` is empty).

    Attributes:
        prompt: what belongs together when an interval is taken; items of one prompt are not independent.
        answer_a: digest of the first answer's text; "" where only the model is known.
        model_a: who wrote it; "" unknown.
        length_a: characters of it; None unknown.
        constant: which of the answers says the same whatever is asked; "" neither.
    """

    id: str
    prompt: str
    answer_a: str = ""
    answer_b: str = ""
    model_a: str = ""
    model_b: str = ""
    length_a: int | None = None
    length_b: int | None = None
    constant: Literal["", "a", "b"] = ""

    def turned(self) -> Item:
        """The same item with its answers the other way round."""
        sides: dict[str, Literal["", "a", "b"]] = {"": "", "a": "b", "b": "a"}
        return Item(
            self.id,
            self.prompt,
            self.answer_b,
            self.answer_a,
            self.model_b,
            self.model_a,
            self.length_b,
            self.length_a,
            sides[self.constant],
        )

    def is_turned(self, other: Item) -> bool:
        """Whether `other` is this item with its answers the other way round."""
        texts = (self.answer_a, self.answer_b)
        if all(texts) and other.answer_a and other.answer_b:
            return texts == (other.answer_b, other.answer_a) and texts[0] != texts[1]
        models = (self.model_a, self.model_b)
        return all(models) and models == (other.model_b, other.model_a) and models[0] != models[1]


@dataclass(frozen=True, slots=True)
class Vote:
    """What one rater said about two answers, shown once.

    Attributes:
        choice: the better answer; None where it cannot be read.
        lead: by how much the first answer is better, where that was said: a difference of scores or of
            probabilities; None where only a choice was given.
        scores: both scores, where there are two.
        unreadable: why there is no choice, in words that can be counted.
    """

    item: str
    rater: str
    choice: Choice | None
    lead: float | None = None
    order: Order = ""
    scores: tuple[float, float] | None = None
    unreadable: str = ""

    def turned(self) -> Vote:
        """The same vote about the item with its answers the other way round."""
        sides: dict[Choice | None, Choice | None] = {"a": "b", "b": "a", "tie": "tie", None: None}
        orders: dict[Order, Order] = {"ab": "ba", "ba": "ab", "": ""}
        return Vote(
            self.item,
            self.rater,
            sides[self.choice],
            None if self.lead is None else -self.lead,
            orders[self.order],
            None if self.scores is None else (self.scores[1], self.scores[0]),
            self.unreadable,
        )


@dataclass(frozen=True, slots=True)
class Rating:
    """The score one rater gave to one answer; None where it cannot be read."""

    item: str
    rater: str
    score: float | None
    unreadable: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """What the judgements of one rater took; `seconds` is None where it was not recorded."""

    judgements: int
    money: float | None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """What a person said about an instruction of a run beside which answer is better."""

    item: str
    rater: str
    difficulty: int | None
    task: str | None


@dataclass(frozen=True, slots=True)
class Oracle:
    """What a run knows about its instructions, by item: the gap (MFD) and the task; and what people said of both."""

    gaps: Mapping[str, float]
    tasks: Mapping[str, str]
    people: Sequence[Person] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """One file or run, read.

    Attributes:
        people: raters that are human, or whose verdicts serve as labels.
        costs: by rater.
        notes: what a reader has to know about this source, as sentences.
    """

    name: str
    layout: str
    items: Mapping[str, Item]
    votes: Sequence[Vote] = ()
    ratings: Sequence[Rating] = ()
    people: frozenset[str] = frozenset()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    oracle: Oracle | None = None
    notes: Sequence[str] = ()

    @property
    def raters(self) -> list[str]:
        """Everybody who said something, in order of appearance."""
        return list(dict.fromkeys([*(one.rater for one in self.votes), *(one.rater for one in self.ratings)]))


def digest(*texts: str) -> str:
    """16 hexadecimal digits for some texts."""
    return hashlib.blake2b(_SEPARATOR.join(texts).encode(errors="surrogatepass"), digest_size=8).hexdigest()


def pair_id(prompt: str, first: str, second: str) -> str:
    """The id of two answers to a prompt by their texts, whichever comes first: equal in every format with texts."""
    return digest(prompt, *sorted((first, second)))


def by_scores(item: str, rater: str, scores: tuple[float, float], order: Order = "") -> Vote:
    """The vote that two scores make; equal scores are a tie, and a score that is not finite cannot be read."""
    if not all(map(math.isfinite, scores)):
        return Vote(item, rater, None, order=order, unreadable="a score is not a finite number")
    lead = scores[0] - scores[1]
    return Vote(item, rater, side(lead), lead, order, scores)


def side(lead: float) -> Choice:
    """The better answer by the sign of its lead."""
    return "tie" if lead == 0 else "a" if lead > 0 else "b"


def number(value: object) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
