from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tapir.domain.judgement import Unscored
from tapir.llm.verdict import ReplyStyle, Scores, read_preference, read_scores
from tests.domain.strategies import properties

ONE = ("score",)
BOTH = ("score_a", "score_b")
STYLES: tuple[ReplyStyle, ...] = ("tagged", "json", "mt-bench", "prometheus")

halves = st.integers(2, 20).map(lambda half: half / 2)
# Anything but the characters that markers, quotations and JSON are made of.
prose = st.text(st.characters(codec="utf-8", exclude_characters="<>[]{}|`~\"'\u2018\u201c"), max_size=200)


def names_of(reply: str) -> tuple[str, ...]:
    return BOTH if "score_a" in reply or "score_b" in reply else ONE


def reason(reply: str, style: ReplyStyle, *, high: float = 10.0) -> str:
    names = names_of(reply) if style in {"tagged", "json"} else ONE
    found = read_scores(reply, names, style, high=high)
    assert isinstance(found, Unscored), f"{reply!r} was read as {found.values}"
    assert found.raw == reply
    return found.reason


def values(reply: str, style: ReplyStyle, *, high: float = 10.0) -> tuple[float, ...]:
    names = names_of(reply) if style in {"tagged", "json"} else ONE
    found = read_scores(reply, names, style, high=high)
    assert isinstance(found, Scores), f"{reply!r}: {found}"
    return found.values


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "reply",
    [
        "95",
        "-3",
        "8",
        "8/10",
        "There are 2 flaws in this answer, and I would call it an 8.",
        "On a scale of 0-9, this is a 7.",
        "Score: 8",
        "Rating: 8/10",
        "Rating: [8]",
        "**8**",
        "score_a: 7, score_b: 8",
        "RESULT 4",
        "(RESULT) 4",
        "Rating: [ [8] ]",
        "Rating: ((8))",
        "[[8",
        "<score>8",
        "<score>8</scor>",
        "&lt;score&gt;8&lt;/score&gt;",
        "\N{FULLWIDTH LEFT SQUARE BRACKET}[8]\N{FULLWIDTH RIGHT SQUARE BRACKET}",
        '{"score": 8',
        'Here it is: {"score": 8}',
        "I cannot rate this answer.",
        "\0",
        "8\0",
    ],
)
def test_what_has_no_whole_marker_is_never_scored(reply: str, style: ReplyStyle) -> None:
    assert isinstance(read_scores(reply, ONE, style), Unscored)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("reply", ["", " ", "\n\t \r\n"])
def test_an_empty_reply_is_unscored(reply: str, style: ReplyStyle) -> None:
    assert reason(reply, style) == "reply is empty"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Good. <score>8</score>", (8,)),
        ("Good. <score> 8.5\n</score>", (8.5,)),
        ("<SCORE>8.0</SCORE>", (8,)),
        ("<score>7/10</score>", (7,)),
        ("<score>8</score> as said: <score>8.0</score>", (8,)),
        ("I give one <score> for the answer.\n<score>8</score>", (8,)),
        ("There are 2 flaws. On a scale of 0-9 a 3.\n<score_a>7</score_a>\n<score_b>8.50</score_b>", (7, 8.5)),
        ("<score_b>2</score_b><score_a>9</score_a>", (9, 2)),
    ],
)
def test_tagged_scores_are_read(reply: str, expected: tuple[float, ...]) -> None:
    assert values(reply, "tagged") == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("<score>ten</score>", "score is not a plain number"),
        ("<score></score>", "score is not a plain number"),
        ("<score>\N{FULLWIDTH DIGIT EIGHT}</score>", "score is not a plain number"),
        ("<score>8\0</score>", "score is not a plain number"),
        ("<score>1e1</score>", "score is not a plain number"),
        ("<score>7-8</score>", "score is not a plain number"),
        ("<score>7 or 8</score>", "score is not a plain number"),
        ("<score>7,5</score>", "score is not a plain number"),
        ("<score>08</score>", "score is not a plain number"),
        ("<score>+8</score>", "score is not a plain number"),
        ("<score>8.</score>", "score is not a plain number"),
        ("<score>NaN</score>", "score is not a plain number"),
        ("<score>inf</score>", "score is not a plain number"),
        ("<score>true</score>", "score is not a plain number"),
        ("<score>ten</score> <score>10</score>", "score is not a plain number"),
        ("<score>7.3</score>", "not a whole or half number"),
        ("<score>7.50000000000000000001</score>", "not a whole or half number"),
        ("<score>95</score>", "score out of range"),
        ("<score>-3</score>", "score out of range"),
        ("<score>0</score>", "score out of range"),
        ("<score>10.5</score>", "score out of range"),
        (f"<score>{'9' * 5000}</score>", "score out of range"),
        ("<score>4/5</score>", "score on another scale"),
        ("<score>8/100</score>", "score on another scale"),
        ("<score>7</score> or rather <score>8</score>", "two different scores"),
        ("<score>7</score> or rather <score>7.3</score>", "two different scores"),
        ("<score>7 <score>8</score>", "unfinished score"),
        ("<score_a>8</score_b>", "unfinished score"),
        ("<score_a>7</score_a><score_b>8</score_b", "unfinished score"),
        ("<score_a>7</score_a>", "score for only one answer"),
        ("<score_b>7</score_b> <score_c>8</score_c>", "score for only one answer"),
        ("<score_a>7</score_a><score_a>7</score_a>", "score for only one answer"),
        ("<score_a>7</score_a><score_b>11</score_b>", "score out of range"),
        ("<score><b>8</b></score>", "no score found"),
        ("<score/>8", "no score found"),
        ("[[8]]", "no score found"),
    ],
)
def test_a_tagged_score_that_is_not_well_formed_is_unscored(reply: str, expected: str) -> None:
    assert reason(reply, "tagged") == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"rationale": "Good.", "score": 8}', (8,)),
        ('\n {"score": 8.0}\n', (8,)),
        ('```json\n{"score_a": 7, "score_b": 8.5}\n```', (7, 8.5)),
        ('```\n{"score_b": 7, "score_a": 8.5}\n```\n', (8.5, 7)),
        ('{"score": 8, "score": 8.0}', (8,)),
        ('{"rationale": "first line\nsecond line", "score": 3}', (3,)),
        (r'{"rationale": "it says \"score\": 9}", "score": 3}', (3,)),
        ('{"score": 8, "sure": true, "why": null}', (8,)),
    ],
)
def test_json_scores_are_read(reply: str, expected: tuple[float, ...]) -> None:
    assert values(reply, "json") == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"score": NaN}', "score is not a plain number"),
        ('{"score": Infinity}', "score is not a plain number"),
        ('{"score": true}', "score is not a plain number"),
        ('{"score": null}', "score is not a plain number"),
        ('{"score": "8"}', "score is not a plain number"),
        ('{"score": 1e1}', "score is not a plain number"),
        ('{"score": 7.3}', "not a whole or half number"),
        ('{"score": 11}', "score out of range"),
        ('{"score": -3}', "score out of range"),
        (f'{{"score": {"9" * 5000}}}', "score out of range"),
        ('{"score": 7, "score": 8}', "two different scores"),
        ('{"score_a": 7}', "score for only one answer"),
        ('{"rationale": "8", "rating": 8}', "no score found"),
        ('{"Score": 8}', "no score found"),
    ],
)
def test_json_without_well_formed_scores_is_unscored(reply: str, expected: str) -> None:
    assert reason(reply, "json") == expected


@pytest.mark.parametrize(
    "reply",
    [
        'Sure! {"score": 8}',
        '{"score": 8} I hope this helps.',
        '{"score": 8}{"score": 8}',
        '[{"score": 8}]',
        '{"score": [8]}',
        '{"result": {"score": 8}}',
        '{"score": 8,}',
        '{"score": 8',
        "{'score': 8}",
        "{score: 8}",
        '{"score": 08}',
        '{"score": 8/10}',
        '{"score": \N{FULLWIDTH DIGIT EIGHT}}',
        '```json\n{"score": 8}',
        '{"score": 8}\n```',
        '```json\n{"score": 8}\n```\nDone.',
        "[" * 100_000,
        '{"score":' * 20_000,
        "8",
        "null",
        "{",
    ],
)
def test_what_is_not_one_flat_json_object_is_unscored(reply: str) -> None:
    assert reason(reply, "json") == "reply is not one flat JSON object"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Rating: [[5]]", 5),
        ("[[8]]\n\nThe answer is good.", 8),
        ("**Rating: [[8.5]]**", 8.5),
        ("[[Rating: [[9]]]]", 9),
        ("It is a [[10]].", 10),
        ("It is good.\n\nRating: [[ 7/10 ]]", 7),
        ("The matrix [[1, 2], [3, 4]] is right, see [[Matrix]].\nRating: [[8]]", 8),
        ("The list is read with `rows[[1]]`, that is rows[[1]].\nRating: [[8]]", 8),
        ("As is known [[1]](https://example.org), it is right.\nRating: [[8]]", 8),
        ("[[5]] it is. Rating: [[5]]", 5),
    ],
)
def test_mt_bench_ratings_are_read(reply: str, expected: float) -> None:
    assert values(reply, "mt-bench") == (expected,)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Rating: [[11]]", "score out of range"),
        ("Rating: [[0]]", "score out of range"),
        ("Rating: [[-3]]", "score out of range"),
        (f"[[{'9' * 5000}]]", "score out of range"),
        ("Rating: [[7.3]]", "not a whole or half number"),
        ("Rating: [[ten]]", "score is not a plain number"),
        ("Rating: [[7-8]]", "score is not a plain number"),
        ("Rating: [[\N{FULLWIDTH DIGIT EIGHT}]]", "score is not a plain number"),
        ("Rating: [[1e1]]", "score is not a plain number"),
        ("[[8]] for the first and [[6]] for the second. Rating: [[7]]", "two different scores"),
        ("Rating: [[7]]\nOn second thoughts: [[8", "unfinished score"),
        ("Rating: [[8]", "unfinished score"),
        ("The list is read with rows[[1]].", "no score found"),
        ("As is known [[1]](https://example.org).", "no score found"),
        ("<score>8</score>", "no score found"),
    ],
)
def test_a_rating_that_is_not_well_formed_is_unscored(reply: str, expected: str) -> None:
    assert reason(reply, "mt-bench") == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Feedback: It is good. [RESULT] 4", 4),
        ("It is good.\n[RESULT] (4)", 4),
        ("It is good.\n**[Result]** is this: [RESULT] 4", None),
        ("It is good. [RESULT]\n4.5\n", 4.5),
        ("It is good. [RESULT] **4**.", 4),
        ("It is good. [RESULT] 4/5", 4),
        ("It is good. [RESULT] 6", None),
        ("It is good. [RESULT] 4 or 5", None),
        ("It is good. [RESULT] 4/10", None),
        ("It is good. [RESULT] 4 [RESULT] 5", None),
        ("It is good. [RESULT] 4\n[RESULT] 5", None),
        ("It is good. [RESULT]", None),
        ("It is good. [RESULT] (an integer number between 1 and 5)", None),
        ("It is good. 4", None),
    ],
)
def test_a_result_is_read_on_its_own_scale_or_not_at_all(reply: str, expected: float | None) -> None:
    if expected is None:
        assert reason(reply, "prometheus", high=5.0)
    else:
        assert values(reply, "prometheus", high=5.0) == (expected,)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("A is better.\n[[A]]", "A"),
        ("[[B]]\n\nB is better.\n\nFinal verdict: [[B]].", "B"),
        ("It is a [[C]]", "tie"),
        ('As asked: "[[A]]" if A is better, "[[B]]" if B is.\n[[B]]', "B"),
        ('A is better.\n\nFinal verdict: "[[A]]"', "A"),
        ("[[A]] at first sight, but then [[B]]", Unscored("two different preferences")),
        ("> [[A]]", Unscored("preference only in a quotation")),
        ("<answer_a>Say [[A]]</answer_a>", Unscored("preference only in a quotation")),
        ("[[a]] [[D]] [A] A [[A] x[[A]] [[AB]]", Unscored("no preference found")),
        ("Assistant A is better.", Unscored("no preference found")),
        (" \n", Unscored("reply is empty")),
    ],
)
def test_a_preference_is_read_or_its_absence_explained(reply: str, expected: object) -> None:
    found = read_preference(reply)
    assert (Unscored(found.reason) if isinstance(found, Unscored) else found) == expected


@pytest.mark.parametrize(
    ("reply", "style", "rationale"),
    [
        ("Good, but short.\n\n<score_a>7</score_a> <score_b>8</score_b>\n", "tagged", "Good, but short."),
        ("<score_a>7</score_a> is fair, <score_b>8</score_b> too.", "tagged", "is fair,\ntoo."),
        ("Good.\n\n**Rating: [[8]]**", "mt-bench", "Good."),
        ("[[8]]\n\nIt is good.", "mt-bench", "It is good."),
        ("Feedback: Good. [RESULT] 4", "prometheus", "Good."),
        ('{"rationale": " Good. ", "score": 8}', "json", "Good."),
        ('{"score": 8}', "json", ""),
    ],
)
def test_the_rationale_is_what_stands_beside_the_scores(reply: str, style: ReplyStyle, rationale: str) -> None:
    found = read_scores(reply, names_of(reply), style)
    assert isinstance(found, Scores)
    assert found.rationale == rationale


@pytest.mark.parametrize("names", [(), BOTH])
def test_a_style_with_one_score_is_not_asked_for_another_number_of_them(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="mt-bench cannot give scores"):
        read_scores("[[8]]", names, "mt-bench")


@properties
@given(prose)
@example("Rating: 8")
@example("RESULT 4, score 8/10")
def test_a_text_without_a_marker_never_scores(text: str) -> None:
    for style in STYLES:
        assert isinstance(read_scores(text, ONE, style), Unscored)
    assert isinstance(read_preference(text), Unscored)


@properties
@given(st.text(st.sampled_from("[]<>/score{}\":8. \n`>RESULT'")), st.sampled_from(STYLES))
def test_any_text_is_read_or_unscored_and_a_score_stands_where_its_span_says(text: str, style: ReplyStyle) -> None:
    found = read_scores(text, ONE, style)
    if isinstance(found, Scores):
        assert [float(text[start:end]) for start, end in found.spans] == list(found.values)


@properties
@given(prose, halves, halves)
def test_a_rendered_reply_round_trips(rationale: str, first: float, second: float) -> None:
    a, b = f"{first:g}", f"{second:g}"
    tagged = f"{rationale}\n\n<score_a>{a}</score_a>\n<score_b>{b}</score_b>"
    object_ = json.dumps({"rationale": rationale, "score_a": first, "score_b": second})
    rendered: tuple[tuple[str, ReplyStyle], ...] = (
        (tagged, "tagged"),
        (object_, "json"),
        (f"```json\n{object_}\n```", "json"),
    )
    for reply, style in rendered:
        found = read_scores(reply, BOTH, style)
        assert isinstance(found, Scores)
        assert found.values == (first, second)
        assert [float(reply[start:end]) for start, end in found.spans] == [first, second]
        if style == "json":
            assert found.rationale == rationale.strip()


@properties
@given(prose, halves)
def test_one_rendered_score_round_trips_in_every_style(rationale: str, score: float) -> None:
    rendered: tuple[tuple[str, ReplyStyle], ...] = (
        (f"{rationale}\n<score>{score:g}</score>", "tagged"),
        (f"{rationale}\n\nRating: [[{score:g}]]", "mt-bench"),
        (f"Feedback: {rationale} [RESULT] {score:g}", "prometheus"),
    )
    for reply, style in rendered:
        assert values(reply, style) == (score,)
