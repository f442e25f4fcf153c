from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.domain.completion import Token
from tapir.models.logprobs import expected
from tapir.models.replies import ReplyStyle, Scores, read_scores

ONE = ("score",)
BOTH = ("score_a", "score_b")


def token(text: str, **weighed: float) -> Token:
    """A token and its alternatives, named `_8` for "8"."""
    return Token(text, tuple((name.removeprefix("_"), math.log(share)) for name, share in weighed.items()))


def read(text: str, names: tuple[str, ...] = ONE, style: ReplyStyle = "tagged") -> Scores:
    found = read_scores(text, names, style)
    assert isinstance(found, Scores)
    return found


def value(*tokens: Token, style: ReplyStyle = "tagged") -> float:
    text = "".join(token.text for token in tokens)
    return expected(read(text, style=style), text, tokens).values[0]


def tagged(*tokens: Token) -> float:
    return value(Token("Good. <score>"), *tokens, Token("</score>"))


def test_a_score_becomes_the_mean_of_the_numbers_weighed_up() -> None:
    assert tagged(token("8", _8=0.5, _7=0.25, _9=0.25)) == pytest.approx(8)
    assert tagged(token("8", _8=0.6, _7=0.4)) == pytest.approx(7.6)


def test_probabilities_are_renormalised_over_the_numbers_of_the_scale() -> None:
    weighed = {"8": 0.3, "7": 0.1, "ten": 0.2, "0": 0.1, "11": 0.1, "7.5": 0.1, "-2": 0.05, "08": 0.05}
    eight = Token("8", tuple((text, math.log(share)) for text, share in weighed.items()))
    assert tagged(eight) == pytest.approx((8 * 0.3 + 7 * 0.1) / 0.4)


def test_a_number_with_a_space_before_it_is_the_same_number() -> None:
    spaced = Token(" 8", ((" 8", math.log(0.4)), ("8", math.log(0.2)), (" 6", math.log(0.2))))
    assert tagged(spaced) == pytest.approx((8 * 0.6 + 6 * 0.2) / 0.8)


def test_each_of_two_scores_is_read_from_its_own_token() -> None:
    tokens = (
        Token("<score_a>"),
        token("7", _7=0.5, _6=0.5),
        Token("</score_a><score_b>"),
        token("9", _9=0.75, _5=0.25),
        Token("</score_b>"),
    )
    text = "".join(one.text for one in tokens)
    written = read(text, BOTH)
    found = expected(written, text, tokens)
    assert found.values == pytest.approx((6.5, 8))
    assert (found.rationale, found.spans) == (written.rationale, written.spans)


def test_a_score_in_json_gives_an_expectation_too() -> None:
    four = token("4", _4=0.5, _3=0.5)
    assert value(Token('{"score": '), four, Token("}"), style="json") == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("tokens", "written"),
    [
        ((token("1", _1=0.9, _2=0.1), Token("0")), 10),
        ((token("8", _8=0.5, _7=0.5), Token("."), token("5", _5=1.0)), 8.5),
        ((Token("8.5", (("8.5", -0.5), ("8", -1.0))),), 8.5),
        ((token("8", _8=0.5, _7=0.5), Token(".0")), 8),
        ((Token("8"),), 8),
        ((token("8", _7=0.6, _6=0.4),), 8),
        ((Token("8", (("8", -math.inf), ("7", -1.0))),), 8),
        ((Token("8", (("8", math.nan), ("7", -1.0))),), 8),
        ((Token(">8", ((">8", -0.5), (">7", -1.0))),), None),
    ],
)
def test_the_written_score_stays_where_its_token_says_nothing(tokens: tuple[Token, ...], written: float | None) -> None:
    if written is None:
        assert value(Token("<score"), *tokens, Token("</score>")) == 8
    else:
        assert tagged(*tokens) == written


@pytest.mark.parametrize(
    ("before", "after", "value"),
    [
        ("\\xf0 <score>", "</score>", 7.5),
        ("\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} <score>", "</score><|im_end|>", 7.5),
        ("thought</think>\N{THUMBS UP SIGN} <score>", "</score>", 7.5),
        ("\N{THUMBS UP SIGN} <score>", "</score> \\xf0", 7.5),
        ("\\xf0 <score>", "</score> \\xf0", 8),
    ],
)
def test_a_score_is_found_among_tokens_that_spell_another_part_of_the_reply_otherwise(
    before: str, after: str, value: float
) -> None:
    text = "\N{THUMBS UP SIGN} <score>8</score>" + (" \N{THUMBS UP SIGN}" if "xf0" in after else "")
    tokens = (Token(before), token("8", _8=0.5, _7=0.5), Token(after))
    assert expected(read(text), text, tokens).values[0] == pytest.approx(value)
    assert expected(read(text), text, ()).values == (8,)


def test_a_one_that_may_begin_a_ten_is_left_out() -> None:
    assert tagged(token("9", _9=0.6, _1=0.3, _8=0.1)) == pytest.approx((9 * 0.6 + 8 * 0.1) / 0.7)


def test_what_follows_a_one_says_how_much_of_it_begins_a_ten() -> None:
    one = token("1", _1=0.5, _8=0.3, _2=0.2)
    ten = tagged(one, token("0", **{"_0": 0.9, "_</": 0.1}))
    assert ten == pytest.approx(10 * 0.5 * 0.9 + 1 * 0.5 * 0.1 + 8 * 0.3 + 2 * 0.2)
    text = (Token("<score>"), one, token("</score>", **{"_</score>": 0.75, "_0": 0.25}))
    assert value(*text) == pytest.approx(10 * 0.5 * 0.25 + 1 * 0.5 * 0.75 + 8 * 0.3 + 2 * 0.2)
    assert tagged(token("1", _1=0.5, _2=0.5)) == pytest.approx(1.5)


def test_a_one_counts_where_the_tokenizer_writes_ten_in_one_token() -> None:
    assert tagged(token("9", _9=0.6, _1=0.2, _10=0.2)) == pytest.approx(9 * 0.6 + 1 * 0.2 + 10 * 0.2)
    assert value(
        Token("In "), Token("2024"), Token(" <score>"), token("2", _2=0.5, _1=0.5), Token("</score>")
    ) == pytest.approx(1.5)


@given(st.dictionaries(st.integers(0, 12), st.floats(-40, 0), min_size=1), st.integers(1, 10))
def test_an_expected_score_stays_on_the_scale(weighed: dict[int, float], written: int) -> None:
    one = Token(str(written), tuple((str(number), share) for number, share in weighed.items()))
    assert 1 <= tagged(one) <= 10


@given(st.integers(1, 10), st.floats(-700, 0))
def test_a_certain_judge_is_taken_at_its_word(written: int, logarithm: float) -> None:
    assert tagged(Token(str(written), ((str(written), logarithm),))) == written
