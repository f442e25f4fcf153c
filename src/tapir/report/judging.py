"""Judge and estimator diagnostics with alert thresholds, over all rounds of a run."""

from __future__ import annotations

import json
import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from statistics import fmean
from typing import Literal

import numpy as np

from tapir.config.base import CustomConfig
from tapir.config.recipe import Recipe
from tapir.config.student import StudentSection
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import JudgementRow
from tapir.evaluation.audit.panel import leads
from tapir.evaluation.audit.records import AnswerPair, Order, Vote, canary_pairs, judged_pairs, to_vote
from tapir.evaluation.statistics import rank_correlation

TEXTS = tomllib.loads((resources.files("tapir.report") / "texts.toml").read_text(encoding="utf-8"))
_MOST_OF_ONE_SCORE = 0.9


@dataclass(frozen=True, slots=True)
class Alarm:
    """One check of the judge, or of the estimator in its place: the value that has a limit, if any, and its text.

    `n` counts the items, scores or answers it is computed from.
    """

    name: str
    value: float | None
    figure: str
    n: int
    raised: bool
    meaning: str


class _Judgements:
    """Votes, difference in length and reason for no vote by item; one judged again in a later round is another item."""

    def __init__(self, rows: Iterable[tuple[int, AnswerPair, JudgementRow]]) -> None:
        self.votes: dict[str, list[Vote]] = {}
        self.longer: dict[str, int] = {}
        self.unreadable: dict[str, str] = {}
        for number, pair, row in rows:
            name = f"{number}/{pair.id}"
            vote = to_vote(row, name)
            if vote.choice:
                self.votes.setdefault(name, []).append(vote)
            else:
                self.unreadable[name] = vote.unreadable
            if pair.length_a is not None and pair.length_b is not None:
                self.longer[name] = pair.length_a - pair.length_b

    def leads(self, order: Order) -> dict[str, float]:
        """Return the lead of the student's answer on the items that were judged in this order."""
        shown = ((name, [vote for vote in votes if vote.order == order]) for name, votes in self.votes.items())
        return leads({name: votes for name, votes in shown if votes})


def alarms(run: RunReader, recipe: Recipe, ungraded: int = 0, graded: int = 0) -> list[Alarm]:
    """Return every check that applies to the run's way of measuring, as far as the run has come.

    The judge left `ungraded` of the held-out answers without a grade.
    """
    reasons = [row.unscored or "no reason" if row.value is None else "" for row in run.estimates(0)]
    missing = Counter(filter(None, reasons))
    checks = [_missing("Instructions without a difficulty", missing, len(reasons))] if reasons else []
    if recipe.judge.kind == "none":
        return checks
    verifier = recipe.judge.kind == "gym"
    checks.insert(0, _independence(recipe, verifier=verifier))
    judgements = _Judgements(judged_pairs(run, run.rounds("judgements")))
    checks += [*_readability(judgements, verifier=verifier), *_spread(judgements)]
    if getattr(recipe.judge, "expected_score", False):
        checks += _as_written(judgements)
    checks += [*_position(judgements), *_length(judgements), *_canary(run)]
    if recipe.evaluation.needs_judge and (n := ungraded + graded):
        figure = _percent(ungraded / n) + (f" ({ungraded:,})" if ungraded else "")
        checks.append(_alarm("Held-out answers without a grade", ungraded / n, n, figure))
    return checks


def models(recipe: Recipe, role: Literal["teacher", "judge"]) -> list[str]:
    """Return the models that fill a role, or its class or kind where it calls none."""
    section = recipe.teacher if role == "teacher" else recipe.judge
    called = dict.fromkeys(recipe.endpoints[name].model for name in recipe.users().get(role, ()))
    return list(called) or [section.class_ if isinstance(section, CustomConfig) else section.kind]


def success_meaning(recipe: Recipe) -> str:
    """Return what a success of this run's evaluation is, and who says so."""
    text, own = str(TEXTS["success"][recipe.evaluation.kind]), getattr(recipe.evaluation, "class_", "")
    return text.format(judge=", ".join(models(recipe, "judge")), own=own)


def answering(student: StudentSection) -> str:
    """Return how a student answers, as in "greedily, in at most 112 tokens, at once"."""
    thinks = student.thinking != "off"
    thoughts = f"after at most {student.thinking_tokens:,} tokens of thought" if thinks else "at once"
    kept = " that is learnt" if student.thinking == "keep" else ""
    variables = "".join(f", {name} = {json.dumps(value)}" for name, value in student.template.items())
    how = f"at temperature {student.temperature:g}" if student.temperature else "greedily"
    return f"{how}, in at most {student.max_new_tokens:,} tokens, {thoughts}{kept}{variables}"


def _alarm(name: str, value: float, n: int, figure: str = "") -> Alarm:
    check = TEXTS["checks"][name]
    raised = not check["least"] <= value <= check["most"]
    return Alarm(name, value, figure or _percent(value), n, raised, check["meaning"])


def _independence(recipe: Recipe, *, verifier: bool) -> Alarm:
    """Check whether teacher and judge are the same model (METHOD 4.12)."""
    judge, teacher = models(recipe, "judge"), models(recipe, "teacher")
    both = [name for name in judge if name in teacher]
    figure = f"{', '.join(judge)} judges {', '.join(teacher)}"
    meaning = "The judge does not score answers of its own."
    if both:
        figure = f"{', '.join(both)} judges itself"
        meaning = (
            "Teacher and judge are the same model, and models prefer their own answers: use another model as the"
            " judge, or have a person rate a sample with tapir review."
        )
    if both and verifier:
        meaning = "Teacher and judge are the same world: its scorer compares with exact answers, so nothing is lost."
    elif recipe.teacher.kind == "none":
        figure = f"{', '.join(judge)} judges the corpus"
        both, meaning = [], "No teacher wrote anything: the answers are those of the corpus."
    return Alarm("Independence of the judge", None, figure, 0, bool(both) and not verifier, meaning)


def _readability(judgements: _Judgements, *, verifier: bool) -> Iterator[Alarm]:
    """Check how many items have no score, and how many because a call failed."""
    if not (n := len(judgements.votes.keys() | judgements.unreadable)):
        return
    reasons = Counter(judgements.unreadable.values())
    yield _missing("Unscored items", reasons, n)
    if not verifier:
        failed = sum(count for reason, count in reasons.items() if reason.startswith("call failed"))
        yield _alarm("Calls that failed", failed / n, n)


def _spread(judgements: _Judgements) -> Iterator[Alarm]:
    """Check whether the judge tells answers apart at all."""
    given = [vote.scores[0] for votes in judgements.votes.values() for vote in votes if vote.scores]
    if not given:
        return
    scores, counts = np.unique(given, return_counts=True)
    share, deviation = float(counts.max() / counts.sum()), float(np.std(given))
    figure = f"standard deviation {deviation:.2f}; {_percent(share)} are {scores[counts.argmax()]:g}"
    alarm = _alarm("Spread of the student's scores", deviation, len(given), figure)
    yield replace(alarm, raised=alarm.raised or share > _MOST_OF_ONE_SCORE)


def _as_written(judgements: _Judgements) -> Iterator[Alarm]:
    """Check how many scores are whole or half where expected ones were asked for: as written, for want of tokens."""
    given = [score for votes in judgements.votes.values() for vote in votes if vote.scores for score in vote.scores]
    if given:
        written = sum((2 * score).is_integer() for score in given)
        yield _alarm("Scores without log-probabilities", written / len(given), len(given))


def _position(judgements: _Judgements) -> Iterator[Alarm]:
    """Check the influence of the display order on the items that were judged in both."""
    second = judgements.leads("ba")
    both = [(lead, second[name]) for name, lead in judgements.leads("ab").items() if name in second]
    if not both:
        return
    ahead, behind = np.array(both).T  # leads of the student's answer where it was shown first, and second
    reversals = float((ahead * behind < 0).mean())
    figure = f"{_percent(reversals)}; gaps {np.abs(ahead - behind).mean():.2f} apart"
    yield _alarm("Verdicts reversed by the order", reversals, len(both), figure)
    advantage = float((ahead - behind).mean() / 2)  # each lead has it once, with opposite signs
    yield _alarm("Advantage of the first position", advantage, len(both), f"{_signed(advantage)} points")


def _length(judgements: _Judgements) -> Iterator[Alarm]:
    """Check whether longer answers score higher."""
    ahead = leads(judgements.votes)
    names = [name for name in ahead if name in judgements.longer]
    lengths, scores = [judgements.longer[name] for name in names], [ahead[name] for name in names]
    correlation = rank_correlation(lengths, scores) if names else math.nan
    if not math.isnan(correlation):
        yield _alarm("Preference for length", correlation, len(scores), _signed(correlation))


def _canary(run: RunReader) -> Iterator[Alarm]:
    """Check a constant answer, judged against the teacher's: a judge that likes it measures nothing."""
    votes = _Judgements((0, pair, row) for pair, row in canary_pairs(run)).votes
    if not votes:
        return
    scores = [[vote.scores for vote in group if vote.scores] for group in votes.values()]
    constant, teacher = (fmean(fmean(pair[place] for pair in group) for group in scores) for place in (0, 1))
    figure = f"{constant:.2f}; the teacher's {teacher:.2f}"
    yield _alarm("A constant answer's score", constant, len(votes), figure)
    wins = fmean((float(np.sign(lead)) + 1) / 2 for lead in leads(votes).values())  # a tie counts half
    yield _alarm("A constant answer beats the teacher", wins, len(votes))


def _missing(name: str, reasons: Mapping[str, int], n: int) -> Alarm:
    """Return the check of a share that has no value, with the reasons and their counts, the most frequent first."""
    value = sum(reasons.values()) / n
    ordered = sorted(reasons.items(), key=lambda reason: (-reason[1], reason[0]))
    listed = ", ".join(f"{reason}: {count:,}" for reason, count in ordered)
    return _alarm(name, value, n, f"{_percent(value)} ({listed})" if listed else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
