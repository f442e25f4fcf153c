"""Are judge and estimator to be trusted? Figures with a limit each; beyond it a person should look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapir.report.verdicts import (
    NOTHING_TO_JUDGE,
    ORDERS,
    Verdicts,
    judged_rounds,
    longer,
    rank_correlation,
    read_verdicts,
)
from tapir.store.rows import EstimateRow
from tapir.store.run import RunStore

MOST_UNSCORED = 0.02
LEAST_DEVIATION = 0.5
MOST_OF_ONE_SCORE = 0.9
MOST_FLIPS = 0.3
MOST_FOR_FIRST = 0.5
MOST_FOR_LENGTH = 0.5
MOST_FOR_NOTHING = 3.0
MOST_WON_BY_NOTHING = 0.05
_CALL_FAILED = "call failed"
_DIGITS = 9  # means of equal scores are equal, whatever the order of the sum


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that was checked about the judge, or about whoever else measured difficulty.

    Attributes:
        name: what was checked.
        value: the number that has a limit; None where what was checked is no number.
        figure: the value with what belongs to it, as text.
        n: what it was counted over: items, scores or answers; 0 where nothing was counted.
        raised: whether the value is beyond its limit.
        meaning: one plain sentence: what it means and what to do.
    """

    name: str
    value: float | None
    figure: str
    n: int
    raised: bool
    meaning: str


def alarms(store: RunStore, recipe: Mapping[str, Any], ungraded: int = 0, graded: int = 0) -> list[Alarm]:
    """Every check that applies to who measured, as far as the run has come.

    Args:
        store: the run.
        recipe: resolved.
        ungraded: held-out answers the judge gave no grade.
        graded: held-out answers with a grade.
    """
    measured = list(_measured(store))
    if recipe["judge"]["kind"] == "none":
        return measured
    verifier = recipe["judge"]["kind"] == "gym"
    found = [_independence(recipe, verifier=verifier), *measured]
    if judged_rounds(store):
        verdicts = read_verdicts(store, "judgements")
        found += _readable(verdicts, verifier=verifier)
        found += _discerning(verdicts)
        found += _fair_to_both_places(verdicts)
        found += _fair_to_short_answers(store, verdicts)
    if judged_rounds(store, "canary"):
        found += _canary(read_verdicts(store, "canary"))
    if recipe.get("evaluation", {}).get("kind") == "judged" and ungraded + graded:
        found.append(_graded(ungraded, graded))
    return found


def models(recipe: Mapping[str, Any], role: str) -> list[str]:
    """The models that fill a role, or its kind where it calls none."""
    endpoints = recipe.get("endpoints", {})
    names = recipe[role].get("endpoints") or ()
    found = dict.fromkeys(str(endpoints[name]["model"]) for name in names if name in endpoints)
    return list(found) or [str(recipe[role].get("model") or recipe[role]["kind"])]


def _independence(recipe: Mapping[str, Any], *, verifier: bool) -> Alarm:
    """Teacher and judge may be the same model; the report says so (METHOD 4.12)."""
    judge, teacher = models(recipe, "judge"), models(recipe, "teacher")
    both = [name for name in judge if name in teacher]
    name = "Independence of the judge"
    if both and verifier:
        meaning = "Teacher and judge are the same world: its scorer compares with exact answers, so nothing is lost."
        return Alarm(name, None, f"{both[0]} judges itself", 0, raised=False, meaning=meaning)
    if recipe["teacher"]["kind"] == "none":
        meaning = "No teacher wrote anything: the answers are those of the corpus."
        return Alarm(name, None, f"{', '.join(judge)} judges the corpus", 0, raised=False, meaning=meaning)
    figure = f"{', '.join(judge)} judges {', '.join(teacher)}"
    if both:
        meaning = (
            "Teacher and judge are the same model, and models prefer their own answers: a judge of its own would be"
            " independent evidence, and a sample read by a person would do as well."
        )
        return Alarm(name, None, f"{', '.join(both)} judges itself", 0, raised=True, meaning=meaning)
    return Alarm(name, None, figure, 0, raised=False, meaning="The judge does not score answers of its own.")


def _measured(store: RunStore) -> Iterator[Alarm]:
    """What the estimator could say of the corpus, where it takes the judge's place."""
    if not store.has("round-0/estimates"):
        return
    rows = store.read("round-0/estimates", EstimateRow)
    reasons = Counter(row.unscored or "no reason" for row in rows if row.value is None)
    if not rows:
        return
    lost = reasons.total() / len(rows)
    meaning = (
        "What has no difficulty is neither hard nor easy, and no round trains on it; above 2 %, look at the column"
        " `unscored` of estimates.parquet: another estimator may be able to measure this corpus."
    )
    figure = f"{_percent(lost)} ({_listed(reasons)})" if reasons else _percent(lost)
    yield Alarm("Instructions without a difficulty", lost, figure, len(rows), lost > MOST_UNSCORED, meaning)


def _readable(verdicts: Verdicts, *, verifier: bool) -> Iterator[Alarm]:
    reasons = {why: count for why, count in verdicts.unscored.items() if why != NOTHING_TO_JUDGE}
    if not verdicts.judged:
        return
    lost = sum(reasons.values()) / verdicts.judged
    meaning = (
        "What the judge gave no readable score is neither hard nor easy; above 2 %, read the raw replies in"
        " judgements.parquet and give the judge more tokens, another prompt or another model."
    )
    figure = f"{_percent(lost)} ({_listed(reasons)})" if reasons else _percent(lost)
    yield Alarm("Unscored items", lost, figure, verdicts.judged, lost > MOST_UNSCORED, meaning)
    if not verifier:
        failed = sum(count for why, count in reasons.items() if why.startswith(_CALL_FAILED)) / verdicts.judged
        meaning = (
            "Calls that brought no reply after all attempts leave their items unscored; above 2 %, look at the server,"
            " its limits and the endpoint's timeout before the next run."
        )
        yield Alarm("Calls that failed", failed, _percent(failed), verdicts.judged, failed > MOST_UNSCORED, meaning)


def _discerning(verdicts: Verdicts) -> Iterator[Alarm]:
    """A judge that gives everything the same score measures nothing."""
    if not verdicts.student.size:
        return
    scores, counts = np.unique(verdicts.student, return_counts=True)
    most = int(counts.argmax())
    share, deviation = float(counts[most] / counts.sum()), float(verdicts.student.std())
    meaning = (
        "A standard deviation below 0.5, or one score in more than 90 % of all cases, says that the judge hardly tells"
        " answers apart, or that they hardly differ: read some, then change the rubric or the judge."
    )
    figure = f"standard deviation {deviation:.2f}; {_percent(share)} are {scores[most]:g}"
    raised = deviation < LEAST_DEVIATION or share > MOST_OF_ONE_SCORE
    yield Alarm("Spread of the student's scores", deviation, figure, int(counts.sum()), raised, meaning)


def _fair_to_both_places(verdicts: Verdicts) -> Iterator[Alarm]:
    """Only items shown in both orders tell the place from the answer."""
    first, second = (verdicts.lead(order) for order in range(len(ORDERS)))
    both = ~np.isnan(first) & ~np.isnan(second)
    n = int(both.sum())
    if not n:
        return
    first, second = first[both], second[both]
    flips = float((first * second < 0).mean())
    spread = float(np.abs(first - second).mean())
    meaning = (
        "Items where the student's answer is the better one in one order and the worse one in the other; above 30 %,"
        " the order decides where the answers should: use a stronger judge, or mode = single."
    )
    figure = f"{_percent(flips)}; gaps {spread:.2f} apart"
    yield Alarm("Orders that contradict each other", flips, figure, n, flips > MOST_FLIPS, meaning)
    advantage = float((first - second).mean() / 2)  # shown first, the student's lead has it; shown second, it lacks it
    meaning = (
        "The score of the answer shown first minus that of the other; averaging both orders takes it out of the gap,"
        " but beyond half a point the judge reads places, not answers: use a stronger judge, or mode = single."
    )
    raised = abs(advantage) > MOST_FOR_FIRST
    yield Alarm("Advantage of the first place", advantage, f"{_signed(advantage)} points", n, raised, meaning)


def _fair_to_short_answers(store: RunStore, verdicts: Verdicts) -> Iterator[Alarm]:
    length = longer(store, verdicts.items)
    lead = np.round(verdicts.lead(), _DIGITS)
    known = ~np.isnan(length) & ~np.isnan(lead)
    n = int(known.sum())
    correlation = rank_correlation(length[known], lead[known]) if n else None
    if correlation is None:
        return
    meaning = (
        "Rank correlation of the difference in length with the difference in score; the judge may be right where longer"
        " answers are better, but above 0.5 compare some long bad answers with short good ones."
    )
    raised = correlation > MOST_FOR_LENGTH
    yield Alarm("Preference for length", correlation, _signed(correlation), n, raised, meaning)


def _canary(verdicts: Verdicts) -> Iterator[Alarm]:
    """A constant answer, judged against the teacher's: a judge that likes it measures nothing."""
    n = len(verdicts.items)
    if not n:
        return
    constant = float(verdicts.means(verdicts.student).mean())
    teacher = float(verdicts.means(verdicts.reference).mean())
    meaning = (
        "The mean score of an answer that says nothing, beside the teacher's on the same items; above 3, the judge"
        " rewards something else than the answer: read its reasons in canary.parquet before trusting any difficulty."
    )
    figure = f"{constant:.2f}; the teacher's {teacher:.2f}"
    yield Alarm("A constant answer's score", constant, figure, n, constant > MOST_FOR_NOTHING, meaning)
    won = float((verdicts.lead() > 0).mean())
    meaning = (
        "An answer that says nothing should never beat the teacher's; above 5 %, read those items: either the judge is"
        " wrong, or the teacher's answers are."
    )
    yield Alarm("A constant answer beats the teacher", won, _percent(won), n, won > MOST_WON_BY_NOTHING, meaning)


def _graded(ungraded: int, graded: int) -> Alarm:
    share = ungraded / (ungraded + graded)
    meaning = (
        "Held-out answers the judge gave no grade do not count; above 2 %, the success rates are those of another set"
        " of questions: read the reasons in evaluation.parquet."
    )
    figure = f"{_percent(share)} ({ungraded:,})" if ungraded else _percent(share)
    return Alarm("Held-out answers without a grade", share, figure, ungraded + graded, share > MOST_UNSCORED, meaning)


def _listed(reasons: Mapping[str, int]) -> str:
    """Reasons with their counts, the most frequent first."""
    return ", ".join(f"{why}: {count:,}" for why, count in sorted(reasons.items(), key=lambda one: (-one[1], one[0])))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
