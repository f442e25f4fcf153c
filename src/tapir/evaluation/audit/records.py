"""Records of an audit: pairs of answers, votes of judges and people about them, what they cost; those of a run."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from operator import add
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tapir.data.run.reader import RunReader, difficulties
from tapir.data.run.reviews import Review
from tapir.data.run.rows import JudgementRow
from tapir.data.run.store import RunStore, is_run
from tapir.domain.difficulty import Difficulty
from tapir.domain.errors import DataError

Choice: TypeAlias = Literal["a", "b", "tie"]
Constant: TypeAlias = Literal["", "a", "b"]
Order: TypeAlias = Literal["ab", "ba", ""]
"""Which answer was shown first; "" where that was not recorded."""

LEAST_CONSTANT = 5  # prompts with the same answer that make it a constant one
CANARY = "canary"
STUDENT, TEACHER = "student", "teacher"
NOTHING_TO_JUDGE = "no student answer"
_SEPARATOR = "\x1f"
_SWAPPED: Mapping[Any, Any] = {"a": "b", "b": "a", "ab": "ba", "ba": "ab"}
_SIDED = ("answer", "model", "length")
_ORDERS: Mapping[str, Order] = {"student-first": "ab", "reference-first": "ba"}


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Two answers to one prompt.

    Attributes:
        prompt: pairs with the same prompt are not independent; intervals resample whole prompts.
        answer_a: digest of the first answer's text; "" where only the model is known.
        model_a: author of the first answer; "" unknown.
        length_a: its characters; None unknown.
        constant: the answer that is the same to every prompt; "" neither.
    """

    id: str
    prompt: str
    answer_a: str = ""
    answer_b: str = ""
    model_a: str = ""
    model_b: str = ""
    length_a: int | None = None
    length_b: int | None = None
    constant: Constant = ""

    def swap(self) -> AnswerPair:
        """Return the same pair with its answers the other way round."""
        other = {f"{name}_{side}": getattr(self, f"{name}_{_SWAPPED[side]}") for name in _SIDED for side in "ab"}
        return replace(self, **other, constant=_SWAPPED.get(self.constant, ""))

    def is_swap_of(self, other: AnswerPair) -> bool:
        """Return whether `other` is this pair with its answers the other way round: by texts, else by models."""
        texts, models = (self.answer_a, self.answer_b), (self.model_a, self.model_b)
        if all(texts) and other.answer_a and other.answer_b:
            return texts == (other.answer_b, other.answer_a) != texts[::-1]
        return all(models) and models == (other.model_b, other.model_a) != models[::-1]

    def merge(self, other: AnswerPair) -> AnswerPair:
        """Return this pair, its unknown attributes taken from `other`."""
        unknown = [column.name for column in fields(self) if getattr(self, column.name) in {"", None}]
        return replace(self, **{name: getattr(other, name) for name in unknown})


@dataclass(frozen=True, slots=True)
class Vote:
    """The verdict of one rater on a pair shown once.

    Attributes:
        pair: id of the pair.
        choice: the better answer; None where the reply cannot be read.
        lead: by how much the first answer is better: a difference of scores or of probabilities; None where only a
            choice was given.
        scores: both scores, where there are two.
        unreadable: the reason for no choice.
        joint: whether the rater has one verdict on the pair or none, however often it was shown, as in a run.
    """

    pair: str
    rater: str
    choice: Choice | None
    lead: float | None = None
    order: Order = ""
    scores: tuple[float, float] | None = None
    unreadable: str = ""
    joint: bool = False

    def swap(self) -> Vote:
        """Return the same vote about the pair with its answers the other way round."""
        return replace(
            self,
            choice=_SWAPPED.get(self.choice, self.choice),
            lead=None if self.lead is None else -self.lead,
            order=_SWAPPED.get(self.order, ""),
            scores=None if self.scores is None else (self.scores[1], self.scores[0]),
        )


Pairs: TypeAlias = Mapping[str, AnswerPair]
"""Pairs by id."""
Votes: TypeAlias = Mapping[str, Sequence[Vote]]
"""Readable votes of one rater, by the id of the pair."""


@dataclass(frozen=True, slots=True)
class JudgingCost:
    """Money and time spent on the judgements for which they were recorded."""

    priced: int = 0
    money: float = 0.0
    timed: int = 0
    seconds: float = 0.0

    def __add__(self, other: JudgingCost) -> JudgingCost:
        return JudgingCost(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class Oracle:
    """Gaps (MFD) and tasks that a run worked out, by instruction id, and people's reviews of the same instructions."""

    gaps: Mapping[str, float]
    tasks: Mapping[str, str]
    reviews: Sequence[Review] = ()


@dataclass(slots=True)
class Recording:
    """Judgements read from one file or run, gathered row by row.

    Attributes:
        humans: raters that are people, or whose verdicts serve as labels.
        scaled: raters whose rows name the scale of their scores.
        costs: by rater.
        notes: sentences a reader of the audit has to know.
    """

    name: str
    pairs: dict[str, AnswerPair] = field(default_factory=dict)
    votes: list[Vote] = field(default_factory=list)
    humans: set[str] = field(default_factory=set)
    scaled: set[str] = field(default_factory=set)
    costs: dict[str, JudgingCost] = field(default_factory=lambda: defaultdict(JudgingCost))
    oracle: Oracle | None = None
    notes: list[str] = field(default_factory=list)
    _labels: set[Vote] = field(default_factory=set)

    @property
    def raters(self) -> list[str]:
        """All raters in order of appearance."""
        return list(dict.fromkeys(vote.rater for vote in self.votes))

    def add(self, pair: AnswerPair, *votes: Vote) -> None:
        """Add a pair with votes about it; the first row about a pair decides which answer is `a`."""
        swapped = self.pairs.setdefault(pair.id, pair).is_swap_of(pair)
        self.votes += [vote.swap() if swapped else vote for vote in votes]

    def add_label(self, pair: AnswerPair, vote: Vote) -> None:
        """Add a person's vote that may stand in every row about its pair; repetitions do not count."""
        self.humans.add(vote.rater)
        vote = vote.swap() if self.pairs.setdefault(pair.id, pair).is_swap_of(pair) else vote
        if vote not in self._labels:
            self._labels.add(vote)
            self.votes.append(vote)

    def add_cost(self, rater: str, money: float | None, seconds: float | None) -> None:
        """Add the cost of one judgement."""
        if money is not None:
            self.costs[rater] += JudgingCost(priced=1, money=money)
        if seconds is not None:
            self.costs[rater] += JudgingCost(timed=1, seconds=seconds)

    def mark_constant(self) -> None:
        """Mark the answers that are the same to every prompt, once all rows are there."""
        constant = set(self._constant_models())
        for name, pair in self.pairs.items():
            if {pair.model_a, pair.model_b} & constant:
                self.pairs[name] = replace(pair, constant="a" if pair.model_a in constant else "b")

    def _constant_models(self) -> Iterator[str]:
        answers: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for pair in self.pairs.values():
            answers[pair.model_a].add((pair.answer_a, pair.prompt))
            answers[pair.model_b].add((pair.answer_b, pair.prompt))
        for model, given in answers.items():
            texts, prompts = ({row[place] for row in given if row[0]} for place in (0, 1))
            if model and len(texts) == 1 and len(prompts) >= LEAST_CONSTANT:
                yield model


def prompts_of(pairs: Pairs, names: Iterable[str]) -> list[str]:
    """Return the prompt of each pair."""
    return [pairs[name].prompt for name in names]


def digest(*texts: str) -> str:
    """Return 16 hexadecimal digits for some texts."""
    return hashlib.blake2b(_SEPARATOR.join(texts).encode(errors="surrogatepass"), digest_size=8).hexdigest()


def text_pair(prompt: str, first: str, second: str, models: tuple[str, str] = ("", "")) -> AnswerPair:
    """Return the pair of two texts; its id is a digest of prompt and texts, whichever text comes first."""
    name = digest(prompt, *sorted((first, second)))
    return AnswerPair(name, prompt, digest(first), digest(second), *models, length_a=len(first), length_b=len(second))


def score_vote(pair: str, rater: str, scores: tuple[float, float], order: Order = "") -> Vote:
    """Return the vote of two scores; equal scores are a tie, and a score that is not finite cannot be read."""
    if not all(map(math.isfinite, scores)):
        return Vote(pair, rater, None, order=order, unreadable="a score is not a finite number")
    lead = scores[0] - scores[1]
    return Vote(pair, rater, side(lead), lead, order, scores)


def side(lead: float) -> Choice:
    """Return the better answer by the sign of its lead."""
    return "tie" if lead == 0 else "a" if lead > 0 else "b"


def number(value: Any) -> float | None:
    """Return a finite number, also from a table of texts, or None for anything else."""
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return result if math.isfinite(result) and not isinstance(value, bool) else None


def read_run(folder: Path, number: int | None = None) -> Recording:
    """Read the judgements of one round, the first that was judged unless `number` says which."""
    if not is_run(folder):
        raise DataError(f"{folder} is not the folder of a run", remedy="Name a file of judged pairs, or runs/NAME.")
    run = RunReader(RunStore(folder))
    place = run.choose(run.rounds("judgements"), number, "judgements")[0]
    into = Recording(folder.name)
    into.notes.append(f"Round {place} of {folder.name}: the student's answers compared with the teacher's.")
    for _, pair, row in judged_pairs(run, [place]):
        into.add(pair, to_vote(row, pair.id))
    for pair, row in canary_pairs(run):
        into.add(pair, to_vote(row, pair.id))
    if not into.votes:
        raise DataError(f"{folder}, round {place}: no judgement", remedy="Go on with `tapir resume` and audit then.")
    spent = [entry for entry in run.spending() if (entry.stage, entry.round) in {("judge", place), (CANARY, 0)}]
    if spent and len(into.raters) == 1:  # costs are not recorded by judge
        into.costs[into.raters[0]] = JudgingCost(len(into.votes), sum(entry.cost for entry in spent))
    scored = difficulties(run.judgements(place)).items()
    gaps = {name: value.gap for name, value in scored if isinstance(value, Difficulty)}
    into.oracle = Oracle(gaps, run.tasks())
    return into


def judged_pairs(run: RunReader, numbers: Iterable[int]) -> Iterator[tuple[int, AnswerPair, JudgementRow]]:
    """Yield every judgement of some rounds: round, pair and row; the student's answer is `a`, the teacher's `b`."""
    lengths = {name: len(reference) for name, _, reference in run.references()}
    for number in numbers:
        students = {row.id: len(row.text) for row in run.answers(number) if row.text is not None}
        for row in run.judgements(number):
            if row.unscored != NOTHING_TO_JUDGE:
                own, other = students.get(row.id), lengths.get(row.id)
                yield number, AnswerPair(row.id, row.id, "", "", STUDENT, TEACHER, own, other), row


def canary_pairs(run: RunReader) -> Iterator[tuple[AnswerPair, JudgementRow]]:
    """Yield every judgement of a constant answer in the student's place, with its pair."""
    for row in run.judgements(0, CANARY):
        yield AnswerPair(f"{CANARY}/{row.id}", row.id, model_a=CANARY, model_b=TEACHER, constant="a"), row


def to_vote(row: JudgementRow, name: str) -> Vote:
    """Return the vote of a judgement on the pair `name`."""
    order = _ORDERS.get(row.order, "")
    if row.student is None or row.reference is None:
        return Vote(name, row.judge, None, order=order, unreadable=row.unscored or "no reason given", joint=True)
    return replace(score_vote(name, row.judge, (row.student, row.reference), order), joint=True)
