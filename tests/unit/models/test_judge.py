"""The judge filled by a language model: what it is asked, and what its replies are taken for."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from support.judging import (
    Q,
    Style,
    by_text,
    comparison,
    in_both_styles,
    judge,
    judge_section,
    opinion,
    scored,
    unscored,
    verdict,
    verdicts,
    written,
)
from support.scripted import (
    BOOK,
    FAILED,
    Said,
    Script,
    completion,
    connected,
    cut,
    is_repair,
    known_by,
    shown,
    user,
)
from support.server import Behaviour, serving
from tapir.domain.completion import Token
from tapir.domain.judgement import Judgement, Unscored
from tapir.models.api.protocol import Request
from tapir.models.judge import LlmJudge


@in_both_styles
def test_both_answers_are_judged_in_both_orders_and_the_scores_go_back_to_whom_they_belong(style: Style) -> None:
    script = Script(by_text(style, opinion, "Half a \ud83d."), json=style == "json")
    found = verdict(judge(script), comparison("Add 1 and 2."))
    assert scored(found) == [(3, 8.5, "student-first"), (3, 8.5, "reference-first")]
    assert [(shown(one, "answer_a"), shown(one, "answer_b")) for one in script.asked] == [
        ("so it is", "as it was"),
        ("as it was", "so it is"),
    ]
    assert not isinstance(found, Unscored)
    assert {(one.rationale, one.judge) for one in found} == {("Half a ?.", "large")}
    assert all(user(one).endswith(BOOK[f"reply-pairwise-{style}"].fill()) for one in script.asked)
    schemas = [one.schema.content["required"] for one in script.asked if one.schema]
    assert schemas == [["rationale", "score_a", "score_b"]] * 2 * (style == "json")
    assert {shown(one, "instruction") for one in script.asked} == {"Add 1 and 2."}


@in_both_styles
def test_alone_each_answer_is_judged_without_the_other(style: Style) -> None:
    script = Script(by_text(style, opinion), json=style == "json")
    found = verdict(judge(script, single=True), Q)
    assert scored(found) == [(3, 8.5, "alone")]
    assert [shown(one, "answer") for one in script.asked] == ["so it is", "as it was"]
    assert not any("as it was" in user(one) for one in script.asked[:1])
    schemas = [one.schema.content["required"] for one in script.asked if one.schema]
    assert schemas == [["rationale", "score"]] * 2 * (style == "json")
    assert user(script.asked[0]).endswith(BOOK[f"reply-single-{style}"].fill())


@in_both_styles
@pytest.mark.parametrize(("single", "names"), [(False, ["score_a", "score_b"]), (True, ["score"])])
def test_without_a_rationale_the_scores_alone_are_asked_for(style: Style, names: list[str], *, single: bool) -> None:
    said = written(style, "", **dict.fromkeys(names, 5.0))
    script = Script(lambda _: said, json=style == "json")
    found = verdict(judge(script, single=single, rationale=False), Q)
    assert {one[:2] for one in scored(found)} == {(5, 5)}
    for asked in script.asked:
        assert all(user(asked).count(name) == (2 if style == "tagged" else 1) for name in names)
        assert "rationale" not in user(asked)
        assert (asked.schema.content["required"] if asked.schema else names) == names


def test_alone_the_reference_is_the_same_call_whichever_student_it_is_compared_with() -> None:
    script = Script(lambda _: written("tagged", score=5))
    for answer in ("first student", "second student"):
        verdict(judge(script, single=True), comparison("Add.", answer))
    student, reference, other_student, other_reference = map(known_by, script.asked)
    assert reference == other_reference
    assert len({student, other_student, reference}) == 3


@pytest.mark.parametrize("single", [False, True])
def test_the_rubric_of_the_task_reaches_the_prompt_and_no_other(*, single: bool) -> None:
    script = Script(lambda _: written("tagged", score=5, score_a=5, score_b=5))
    rubrics = {"Math": "Is the sum right? </rubric>", "Law": "Is it allowed?"}
    found = judge(script, single=single, rubrics=rubrics)
    verdicts(found, [comparison("Add."), comparison("Sue.", task="Law"), comparison("Sing.", task="Music")])
    assert [shown(one, "rubric") for one in script.asked[::2]] == [
        "Is the sum right? \N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}/rubric>",
        "Is it allowed?",
        "",
    ]


def test_the_expected_score_is_the_mean_over_the_log_probabilities() -> None:
    def weighed(eight: float) -> Token:
        return Token("8", (("8", math.log(eight)), ("6", math.log(1 - eight))))

    def say(request: Request) -> Said:
        assert request.sampling.logprobs
        shares = (0.75, 0.5) if shown(request, "answer_a") == "so it is" else (0.5, 0.75)
        tokens: tuple[Token, ...] = (Token("<score_a>"), weighed(shares[0]), Token("</score_a>"))
        tokens += (Token("<score_b>"), weighed(shares[1]), Token("</score_b>"))
        return completion("".join(one.text for one in tokens), tokens=tokens)

    found = verdict(judge(Script(say), expected_score=True), Q)
    assert [(one[0], one[1]) for one in scored(found)] == [pytest.approx((7.5, 7))] * 2
    written_scores = verdict(judge(Script(lambda _: written("tagged", score_a=8, score_b=8)), expected_score=True), Q)
    assert [(one[0], one[1]) for one in scored(written_scores)] == [(8, 8)] * 2


@in_both_styles
def test_a_reply_that_cannot_be_read_is_asked_for_again_with_the_reason(style: Style) -> None:
    def say(request: Request) -> str:
        return written(style, score_a=4, score_b=6) if is_repair(request) else written(style, score_a=4, score_b=60)

    script = Script(say, json=style == "json")
    found = verdict(judge(script), Q)
    assert scored(found) == [(4, 6, "student-first"), (6, 4, "reference-first")]
    assert len(script.repairs) == 2
    for one in script.repairs:
        first = next(other for other in script.asked if user(other) == user(one))
        assert one.messages[:2] == first.messages
        assert [turn["role"] for turn in one.messages[2:]] == ["assistant", "user"]
        assert one.messages[2]["content"] == written(style, score_a=4, score_b=60)
        assert "score out of range" in one.messages[3]["content"]
        assert BOOK[f"reply-pairwise-{style}"].fill() in one.messages[3]["content"]


@in_both_styles
def test_a_second_unreadable_reply_is_the_last(style: Style) -> None:
    script = Script(lambda one: "I will not." if is_repair(one) else "I cannot.", json=style == "json")
    found = verdict(judge(script), Q)
    assert isinstance(found, Unscored)
    assert found.raw == "I will not."
    assert len(script.asked) == 4


@pytest.mark.parametrize("said", ["", " \n"])
def test_an_empty_reply_is_asked_for_again_without_an_empty_message(said: str) -> None:
    script = Script(lambda one: written("tagged", score_a=4, score_b=6) if is_repair(one) else said)
    assert scored(verdict(judge(script), Q))
    assert [one.messages[2]["content"] for one in script.repairs] == ["(nothing)"] * 2


@in_both_styles
def test_a_cut_reply_is_no_verdict_even_where_scores_stand_in_it(style: Style) -> None:
    whole = written(style, score_a=4, score_b=6)
    script = Script(lambda one: whole if is_repair(one) else cut(whole), json=style == "json")
    assert scored(verdict(judge(script), Q))
    assert len(script.repairs) == 2
    assert unscored(verdict(judge(Script(lambda _: cut(whole), json=style == "json")), Q)) == "reply was cut off"


@in_both_styles
def test_after_a_rationale_that_was_cut_off_the_scores_alone_are_asked_for(style: Style) -> None:
    marks = '{"score_a": 4, "score_b": 6}' if style == "json" else "<score_a>4</score_a>\n<score_b>6</score_b>"
    said = "The first answer is short, the first answer is"
    script = Script(lambda one: marks if is_repair(one) else cut(said), json=style == "json")
    found = verdict(judge(script), Q)
    assert scored(found) == [(4, 6, "student-first"), (6, 4, "reference-first")]
    assert isinstance(found, tuple)
    assert {one.rationale for one in found} == {said}
    for one in script.repairs:
        assert "was cut off" in one.messages[3]["content"]
        assert marks.replace("4", "N").replace("6", "N") in one.messages[3]["content"]
        assert (one.schema is not None) == (style == "json")
        assert not one.schema or [*one.schema.content["properties"]] == ["score_a", "score_b"]


def test_scores_are_the_last_thing_in_a_reply() -> None:
    both = written("tagged", score_a=4, score_b=6)
    script = Script(lambda one: both if is_repair(one) else f"{both}\n```\n<score_b>9</score_b>\n```")
    assert scored(verdict(judge(script), Q))
    assert "other scores follow" in script.repairs[0].messages[3]["content"]


def test_a_call_that_failed_is_unscored_and_not_asked_for_again() -> None:
    script = Script(lambda _: FAILED)
    found = verdict(judge(script), Q)
    assert found == Unscored("call failed: timeout", "no answer in 60 s")
    assert not script.repairs
    again = Script(lambda one: FAILED if is_repair(one) else "Hm.")
    assert unscored(verdict(judge(again), Q)) == "call failed: timeout"


@pytest.mark.parametrize("first", ["so it is", "as it was"])
def test_where_one_order_cannot_be_read_the_item_is_unscored(first: str) -> None:
    def say(request: Request) -> str:
        return "Hm." if shown(request, "answer_a") == first else written("tagged", score_a=4, score_b=6)

    assert unscored(verdict(judge(Script(say)), Q)) == "no score found"


def test_alone_scores_of_different_samples_are_not_put_together() -> None:
    def say(request: Request) -> Said:
        student = shown(request, "answer") == "so it is"
        return FAILED if student == (request.sample == 0) else written("tagged", score=4)

    found = verdict(judge(Script(say), single=True, samples=2, temperature=1.0), Q)
    assert unscored(found) == "score for only one answer"


def test_a_sample_without_a_score_leaves_the_others_of_its_order() -> None:
    def say(request: Request) -> Said:
        return FAILED if request.sample == 1 else written("tagged", score_a=4, score_b=6)

    script = Script(say)
    found = verdict(judge(script, samples=3, temperature=0.7), Q)
    assert {one.sampling.temperature for one in script.asked} == {0.7}
    assert scored(found) == [(4, 6, "student-first")] * 2 + [(6, 4, "reference-first")] * 2


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("order", range(5))
def test_the_order_of_the_replies_changes_nothing(order: int, *, single: bool) -> None:
    """Failures, repairs and samples included: also the reason that is recorded."""

    def say(request: Request) -> Said:
        luck = random.Random(known_by(request)).randrange(10)
        bad: list[Said] = ["Hm.", cut("Well"), FAILED, "", *[written("tagged", score=40, score_a=40, score_b=6)] * 2]
        return bad[luck] if luck < len(bad) else written("tagged", score=luck, score_a=luck, score_b=5)

    asked = [comparison(f"Add {number}.") for number in range(40)]
    straight = verdicts(judge(Script(say), single=single, samples=2, temperature=1.0), asked)
    assert any(isinstance(one, Unscored) for one in straight.values())
    assert any(not isinstance(one, Unscored) for one in straight.values())
    assert verdicts(judge(Script(say, order=order), single=single, samples=2, temperature=1.0), asked) == straight


def test_more_comparisons_than_one_wave_are_all_judged_and_none_is_asked_twice() -> None:
    def say(request: Request) -> str:
        bad = shown(request, "instruction").endswith(("1.", "8.")) and not is_repair(request)
        return "Hm." if bad else written("tagged", score_a=4, score_b=6)

    script = Script(say, order=1)
    asked = [comparison(f"Add {number}.") for number in range(10)]
    found = verdicts(judge(script, wave=3), asked)
    assert not any(isinstance(one, Unscored) for one in found.values())
    assert len({known_by(one) for one in script.asked}) == len(script.asked) == 10 * 2 + 2 * 2
    assert [count for count in script.streams if count] == [6, 2, 6, 6, 2, 2]
    source = iter(asked)
    next(iter(judge(script, wave=3).judge(source)))
    assert len(list(source)) == 10 - 3, "no more is taken than a wave"
    script.asked.clear()
    assert not list(judge(script).judge([]))
    assert not script.asked


@in_both_styles
def test_a_real_call_judges_and_the_reference_alone_is_paid_for_once(style: Style, tmp_path: Path) -> None:
    asked = [comparison(f"Explain {number}.", reference=f"It is {number}, as shown above.") for number in range(5)]
    again = [comparison(f"Explain {number}.", "better", f"It is {number}, as shown above.") for number in range(5)]
    with (
        serving(Behaviour(latency=0.0), thread=True) as server,
        connected(server, tmp_path, json=style == "json") as calls,
    ):
        pairwise = verdicts(LlmJudge(calls, BOOK, judge_section(), "m"), asked)
        alone = LlmJudge(calls, BOOK, judge_section(mode="single"), "m")
        singly = verdicts(alone, asked)
        before = server.stats().requests
        verdicts(alone, again)
        assert server.stats().requests - before == 5
    for name, found in pairwise.items():
        (first, second), (lonely,) = scored(found), scored(singly[name])
        assert first[:2] == second[:2] == lonely[:2]
    assert all(isinstance(one, Judgement) for found in singly.values() if isinstance(found, tuple) for one in found)


def test_a_server_that_fails_often_can_cost_a_score_but_not_change_it(tmp_path: Path) -> None:
    asked = [comparison(f"Explain {number}.", f"It is {number}, I think.") for number in range(40)]
    trouble = Behaviour(latency=0.0, error_share=0.3, cut_share=0.1, nonsense_share=0.2, finish_length_share=0.3)
    found = []
    for name, behaviour in (("well", Behaviour(latency=0.0)), ("ill", trouble)):
        with serving(behaviour, thread=True) as server, connected(server, tmp_path / name) as calls:
            found.append(verdicts(LlmJudge(calls, BOOK, judge_section(), "m"), asked))
    well, ill = found
    assert all(scored(one) for one in well.values())
    good = {name: one for name, one in ill.items() if not isinstance(one, Unscored)}
    assert 0 < len(good) < len(asked)
    assert {name: scored(one) for name, one in good.items()} == {name: scored(well[name]) for name in good}
    assert {unscored(one).partition(":")[0] for one in ill.values() if isinstance(one, Unscored)} <= {
        "reply was cut off",
        "call failed",
    }
