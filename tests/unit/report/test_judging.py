"""The alarms: each is quiet for a good judge and raised by a judge with that one fault."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from support.runs import ENDPOINTS, OVER_API
from tapir.config.recipe import Recipe
from tapir.config.toml import parse
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import AnswerRow, CorpusRow, ExpansionRow, JudgementRow, ResponseRow
from tapir.data.run.store import RunStore
from tapir.report.judging import Alarm, alarms
from tapir.report.summary import Summary

RECIPE = parse(OVER_API)
GYM = parse({})
BOTH = ("student-first", "reference-first")
UNSCORED = "Unscored items"
FAILED = "Calls that failed"
SPREAD = "Spread of the student's scores"
REVERSALS = "Verdicts reversed by the order"
FIRST = "Advantage of the first position"
LENGTH = "Preference for length"
CANARY = "A constant answer's score"
BEATS = "A constant answer beats the teacher"
UNGRADED = "Held-out answers without a grade"
INDEPENDENCE = "Independence of the judge"
ITEMS = [f"{place:016x}" for place in range(200)]


@dataclass(frozen=True)
class Answers:
    """How good, and how long, both answers to an item are."""

    student: float
    teacher: float
    student_length: int
    teacher_length: int


Bias = Callable[[Answers, str], tuple[float, float]]


def quality(name: str) -> Answers:
    rng = random.Random(name)
    return Answers(rng.randint(2, 7), rng.randint(5, 9), rng.randint(5, 400), rng.randint(5, 400))


def fair(one: Answers, _order: str) -> tuple[float, float]:
    return one.student, one.teacher


def judged(bias: Bias, names: Sequence[str] = ITEMS) -> list[JudgementRow]:
    return [
        JudgementRow(name, order, *bias(quality(name), order), "because", "the-judge", None, None)
        for name in names
        for order in BOTH
    ]


def unscored(name: str, why: str) -> JudgementRow:
    return JudgementRow(name, "alone", None, None, "", "the-judge", why, "what the judge said")


def run_of(folder: Path, rows: Sequence[JudgementRow], canary: Sequence[JudgementRow] = ()) -> RunStore:
    store = RunStore(folder)
    corpus = [CorpusRow(name, name, "x" * quality(name).teacher_length, "the-teacher", "file:1") for name in ITEMS]
    answers = [AnswerRow(name, "y" * quality(name).student_length, "stop", 1, None) for name in ITEMS]
    store.write("corpus", CorpusRow, corpus)
    store.write("round-0/answers", AnswerRow, answers)
    store.write("round-0/judgements", JudgementRow, rows)
    if canary:
        store.write("round-0/canary", JudgementRow, canary)
    return store


def found(store: RunStore, recipe: Recipe = RECIPE) -> dict[str, Alarm]:
    return {one.name: one for one in alarms(RunReader(store), recipe)}


def raised(store: RunStore) -> set[str]:
    return {name for name, one in found(store).items() if one.raised}


def test_a_good_judge_raises_nothing(tmp_path: Path) -> None:
    canary = judged(lambda one, _: (1.0, one.teacher), ITEMS[:20])
    store = run_of(tmp_path, judged(fair), canary)
    assert raised(store) == set()
    assert list(found(store)) == [INDEPENDENCE, UNSCORED, FAILED, SPREAD, REVERSALS, FIRST, LENGTH, CANARY, BEATS]


def test_a_judge_that_always_gives_the_same_score_is_noticed(tmp_path: Path) -> None:
    store = run_of(tmp_path, judged(lambda _, __: (7.0, 7.0)))
    assert raised(store) == {SPREAD}
    one = found(store)[SPREAD]
    assert (one.value, one.n) == (0.0, 400)
    assert one.figure == "standard deviation 0.00; 100.0 % are 7"
    assert LENGTH not in found(store)  # without two different scores there is no correlation


def test_a_favourite_score_is_noticed_although_the_others_are_far_away(tmp_path: Path) -> None:
    rare = ITEMS[:10]
    rows = judged(lambda one, _: (8.0, one.teacher), ITEMS[10:]) + judged(lambda _, __: (1.0, 9.0), rare)
    one = found(run_of(tmp_path, rows))[SPREAD]
    assert one.value == pytest.approx(7 * (0.05 * 0.95) ** 0.5)
    assert one.raised
    assert "95.0 % are 8" in one.figure


@pytest.mark.parametrize(("share", "noticed"), [(0.05, False), (0.5, True)])
def test_scores_without_log_probabilities_are_noticed_where_they_were_asked_for(
    tmp_path: Path, share: float, *, noticed: bool
) -> None:
    def partly(one: Answers, _order: str) -> tuple[float, float]:
        doubt = 0.0 if one.student_length / 400 < share else 0.13
        return one.student + doubt, one.teacher + doubt

    store = run_of(tmp_path, judged(partly))
    recipe = parse(OVER_API, ["judge.expected_score=true"])
    check = found(store, recipe)["Scores without log-probabilities"]
    written = sum(quality(name).student_length / 400 < share for name in ITEMS)
    assert (check.raised, check.n, check.value) == (noticed, 4 * len(ITEMS), written / len(ITEMS))
    assert "Scores without log-probabilities" not in found(store)


def test_a_judge_that_likes_what_it_reads_first_is_noticed(tmp_path: Path) -> None:
    def first_is_better(one: Answers, order: str) -> tuple[float, float]:
        return (one.student + 2, one.teacher) if order == BOTH[0] else (one.student, min(10, one.teacher + 1))

    store = run_of(tmp_path, judged(first_is_better))
    leads = [[a - b for a, b in (first_is_better(quality(name), order) for order in BOTH)] for name in ITEMS]
    first, reversals = found(store)[FIRST], found(store)[REVERSALS]
    assert FIRST in raised(store)
    assert first.value == pytest.approx(np.mean([(sooner - later) / 2 for sooner, later in leads]))
    assert first.figure == f"+{first.value:.2f} points"
    assert reversals.value == pytest.approx(np.mean([sooner * later < 0 for sooner, later in leads]))
    apart = np.mean([abs(sooner - later) for sooner, later in leads])
    assert reversals.figure == f"{100 * (reversals.value or 0):.1f} %; gaps {apart:.2f} apart"
    assert (first.n, reversals.n) == (200, 200)


def test_orders_that_contradict_each_other_are_noticed(tmp_path: Path) -> None:
    def position_decides(one: Answers, order: str) -> tuple[float, float]:
        sign = 1 if order == BOTH[0] else -1
        return 5.0 + (one.student > 4) * sign, 5.0  # for the better half the position is all that counts

    store = run_of(tmp_path, judged(position_decides))
    assert found(store)[REVERSALS].value == pytest.approx(np.mean([quality(name).student > 4 for name in ITEMS]))
    assert REVERSALS in raised(store)


def test_the_last_position_counts_too_and_samples_of_one_order_are_averaged_before(tmp_path: Path) -> None:
    store = run_of(tmp_path, judged(lambda _, order: (6.0, 6.0) if order == BOTH[1] else (6.0, 7.0)))
    one = found(store)[FIRST]
    assert (one.value, one.figure, one.raised) == (
        -0.5,
        "\N{MINUS SIGN}0.50 points",
        False,
    )  # half a point is the limit
    assert found(store)[REVERSALS].value == 0.0  # a tie contradicts nothing
    scores = ((BOTH[0], 9.0), (BOTH[0], 4.0), (BOTH[1], 4.0))  # leads of 4 and -1, then of -1
    rows = [JudgementRow(ITEMS[0], *row, 5.0, "", "the-judge", None, None) for row in scores]
    store = run_of(tmp_path / "samples", rows)
    assert (found(store)[REVERSALS].value, found(store)[FIRST].value) == (1.0, 1.25)


def test_a_judge_that_likes_long_answers_is_noticed(tmp_path: Path) -> None:
    def longer_is_better(one: Answers, _: str) -> tuple[float, float]:
        return 1 + one.student_length / 50, 1 + one.teacher_length / 50

    store = run_of(tmp_path, judged(longer_is_better))
    assert raised(store) == {LENGTH}
    assert found(store)[LENGTH].value == pytest.approx(1.0)
    assert found(store)[LENGTH].n == 200


def test_a_judge_that_likes_the_constant_answer_is_noticed(tmp_path: Path) -> None:
    names = ITEMS[:20]
    canary = judged(lambda one, _: (8.0, one.teacher), names)
    store = run_of(tmp_path, judged(fair), canary)
    assert raised(store) == {CANARY, BEATS}
    teacher = [quality(name).teacher for name in names]
    assert found(store)[CANARY].figure == f"8.00; the teacher's {np.mean(teacher):.2f}"
    assert found(store)[BEATS].value == pytest.approx(np.mean([(score < 8) + 0.5 * (score == 8) for score in teacher]))
    assert found(store)[BEATS].n == 20


def test_unscored_items_are_counted_by_reason_and_a_missing_answer_is_not_the_judges(tmp_path: Path) -> None:
    rows = judged(fair, ITEMS[:190])
    rows += [unscored(name, "reply was cut off") for name in ITEMS[190:194]]
    rows += [unscored(name, "call failed: timeout") for name in ITEMS[194:195]]
    rows += [unscored(name, "no student answer") for name in ITEMS[195:]]
    store = run_of(tmp_path, rows)
    one, failed = found(store)[UNSCORED], found(store)[FAILED]
    assert one.value == pytest.approx(5 / 195)
    assert (one.n, one.raised) == (195, True)
    assert one.figure == "2.6 % (reply was cut off: 4, call failed: timeout: 1)"
    assert failed.value == pytest.approx(1 / 195)
    assert (failed.n, failed.raised) == (195, False)


@pytest.mark.parametrize(("count", "alarms"), [(4, set()), (5, {UNSCORED, FAILED})])  # two in a hundred are fine
def test_calls_that_fail_are_noticed(tmp_path: Path, count: int, alarms: set[str]) -> None:
    rows = judged(fair, ITEMS[count:]) + [unscored(name, "call failed: http 500") for name in ITEMS[:count]]
    assert raised(run_of(tmp_path, rows)) == alarms


def test_a_judge_that_was_never_read_or_judged_alone_has_the_figures_there_can_be(tmp_path: Path) -> None:
    assert list(found(RunStore(tmp_path))) == [INDEPENDENCE]  # before anything is judged
    store = run_of(tmp_path, [unscored(name, "reply is empty") for name in ITEMS])
    assert list(found(store)) == [INDEPENDENCE, UNSCORED, FAILED]
    assert found(store)[UNSCORED].value == 1.0
    rows = [JudgementRow(name, "alone", *fair(quality(name), ""), "", "the-judge", None, None) for name in ITEMS]
    store = run_of(tmp_path / "alone", rows)
    assert list(found(store)) == [INDEPENDENCE, UNSCORED, FAILED, SPREAD, LENGTH]  # and no order
    assert list(found(store, GYM)) == [INDEPENDENCE, UNSCORED, SPREAD, LENGTH]  # the gym makes no calls
    one = found(store, GYM)[INDEPENDENCE]  # the gym's judge may be its teacher
    assert (one.figure, one.raised) == ("gym judges itself", False)


def test_held_out_answers_without_a_grade_are_noticed(tmp_path: Path) -> None:
    store = run_of(tmp_path, judged(fair))
    one = alarms(RunReader(store), RECIPE, ungraded=3, graded=97)[-1]
    assert (one.name, one.value, one.n, one.raised) == (UNGRADED, 0.03, 100, True)
    assert not alarms(RunReader(store), RECIPE, ungraded=2, graded=98)[-1].raised
    assert alarms(RunReader(store), GYM, ungraded=3, graded=97)[-1].name != UNGRADED  # the gym grades exactly
    alpaca = parse(OVER_API | {"evaluation": {"kind": "alpaca_eval", "baseline": "outputs.json"}})
    assert alarms(RunReader(store), alpaca, ungraded=3, graded=97)[-1] == one


@pytest.mark.parametrize(
    ("teacher", "judge", "figure", "beyond"),
    [
        (["large"], ["small"], "a-small-model judges a-large-model", False),
        (["large"], ["twin"], "a-large-model judges itself", True),
        (["large", "small"], ["small", "third"], "a-small-model judges itself", True),
    ],
)
def test_a_judge_that_is_the_teacher_is_noticed(
    tmp_path: Path, teacher: list[str], judge: list[str], figure: str, *, beyond: bool
) -> None:
    third = ENDPOINTS["small"] | {"model": "a-third-model"}
    endpoints = ENDPOINTS | {"twin": ENDPOINTS["large"], "third": third}
    used = {name: endpoints[name] for name in {*teacher, *judge}}
    people = {role: {"kind": "llm", "endpoints": names} for role, names in (("teacher", teacher), ("judge", judge))}
    recipe = parse(OVER_API | people | {"tagger": {"endpoints": teacher}, "endpoints": used})
    one = found(RunStore(tmp_path), recipe)[INDEPENDENCE]
    assert (one.figure, one.raised) == (figure, beyond)


def test_an_item_judged_again_in_a_later_round_counts_again_with_its_new_answer(tmp_path: Path) -> None:
    def score(student: float) -> list[JudgementRow]:
        return [JudgementRow(ITEMS[0], order, student, 5.0, "", "the-judge", None, None) for order in BOTH]

    store = RunStore(tmp_path)
    store.write("corpus", CorpusRow, [CorpusRow(ITEMS[0], "x", "x" * 50, "", "")])
    for number, (length, student) in enumerate([(10, 3.0), (60, 6.0), (90, 9.0)]):
        store.write(f"round-{number}/answers", AnswerRow, [AnswerRow(ITEMS[0], "y" * length, "stop", 1, None)])
        store.write(f"round-{number}/judgements", JudgementRow, score(student))
    assert found(store)[LENGTH].value == pytest.approx(1.0)
    assert found(store)[LENGTH].n == 3
    assert found(store)[UNSCORED].n == 3


def test_lengths_are_those_of_the_answers_the_judge_saw(tmp_path: Path) -> None:
    """What the teacher wrote counts in place of the corpus's answer, and expansions have a length too."""
    store, names = RunStore(tmp_path), ITEMS[:3]
    corpus = [CorpusRow(name, "x", "x" * 500, "", "") for name in names[:2]]
    written = ExpansionRow(names[2], "x", "x" * 10, "", "", (), "Math", "Math", None, "")
    store.write("corpus", CorpusRow, corpus)
    store.write("round-0/responses", ResponseRow, [ResponseRow(names[0], "short", "", None)])
    store.write("round-1/expansions", ExpansionRow, [written])
    store.write("round-1/answers", AnswerRow, [AnswerRow(name, "y" * 100, "stop", 1, None) for name in names])
    leads = dict(zip(names, (9.0, 1.0, 8.0), strict=True))  # with lengths of +95, -400 and +90
    rows = [JudgementRow(name, order, leads[name], 5.0, "", "", None, None) for name in names for order in BOTH]
    store.write("round-1/judgements", JudgementRow, rows)
    assert found(store)[LENGTH].value == pytest.approx(1.0)
    assert found(store)[LENGTH].n == 3


def test_a_whole_run_has_the_values_counted_by_hand(api_summary: Summary) -> None:
    by_name = {alarm.name: alarm for alarm in api_summary.alarms}
    assert by_name[UNSCORED].value == pytest.approx(1 / 119)  # 120 instructions, one without an answer
    assert by_name[CANARY].figure == "1.50; the teacher's 8.00"
    assert by_name[REVERSALS].value == 0.0
    assert by_name[UNGRADED].value == pytest.approx((4 + 30) / (4 * 2 * 6 * 30))
    assert [alarm.name for alarm in api_summary.alarms if alarm.raised] == [UNGRADED]
