"""Answers that only refuse, and texts with somebody's own data in them."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.paths import SHARED
from tapir.data.corpus import CorpusFilter, pairs
from tapir.data.duplicates import DuplicateIndex
from tapir.data.layouts import Row
from tapir.data.run.rows import CorpusRow, DropRow
from tapir.data.screen import _KEY, refuses, secret, unwanted
from tapir.domain.completion import always_fit


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I can\u2019t assist with this request.",
        "Sorry, but I cannot fulfil that request. Is there anything else?",
        "As an AI language model, I don't have access to real-time data.",
        "Unfortunately, I am unable to open links.",
        "I cannot provide medical advice.",
        "I'm unable to provide legal advice.",
        "I can't help with that.",
        "As a large language model, I am unable to draw.",
        "I am an AI language model, and I do not have real-time data.",
    ],
)
def test_an_answer_that_only_refuses_is_found(answer: str) -> None:
    assert refuses(answer)
    assert unwanted(answer).startswith("refusal: ")


@pytest.mark.parametrize(
    "answer",
    [
        "Sorry, I won't be able to make it to the meeting.",
        "I'm sorry for your loss. She was a dear friend.",
        "Dear Sir, unfortunately the parcel cannot be delivered.",
        "I cannot wait to see you again!",
        "I can't help but laugh when I think about it.",
        "I cannot help the way I feel.",
        "",
        "I'm sorry, but I can't give one number. " + "It depends on the depth, the season and the wind. " * 8,
    ],
)
def test_an_answer_that_says_more_or_something_else_is_none(answer: str) -> None:
    assert not refuses(answer)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Write to anna.k@uni-trier.de.", "e-mail address"),
        ("Write to name@example.com or test@gmail.com.", ""),
        ("`[a-z]+@[a-z]+\\.[a-z]{2,}` finds an address", ""),
        (
            "`^(.+@mysite.com)$`, your.name@uni.edu, username@gmail.com, user12@web.de, ann@email.com, a@example1.com",
            "",
        ),
        ("key: sk-proj-" + "a1B2" * 10, "key"),
        ("AKIA" + "ABCDEFGH12345678", "key"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE", "key"),
        ("Card 4111 1111 1111 1111, please.", "card number"),
        ("Card 4111 1111 1111 1112, please.", ""),  # the sum is wrong
        ("Call 0800 1111 2222 3333 4444 or order 1234567890123456.", ""),
        ("sk-learn and task-oriented", ""),
    ],
)
def test_what_is_somebodys_own_is_named(text: str, found: str) -> None:
    assert secret(text) == found


@given(st.from_regex(_KEY), st.sampled_from(("", "x", " ", "sk-")))
def test_a_key_of_any_kind_is_found(text: str, before: str) -> None:
    if "@" not in text and _KEY.search(before + text):
        assert secret(before + text) == "key"


@pytest.mark.parametrize("kind", _KEY.pattern.split("|\\b"))
@given(data=st.data())
def test_so_are_keys_of_each_kind(kind: str, data: st.DataObject) -> None:
    assert secret(f" {data.draw(st.from_regex(kind, fullmatch=True))} ") == "key"


def test_a_text_without_a_mark_of_a_key_is_not_searched_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir.data.screen._KEY", None)
    assert secret("Bring 3 pens; the desk is at the back, my dear.") == ""
    with pytest.raises(AttributeError):
        secret("A desk-top.")


def test_a_screen_drops_rows_with_the_reason_and_without_one_all_stay() -> None:
    rows = [
        Row("Open it.", "I'm sorry, but I can't open links.", "a:1"),
        Row("Answer bob.b@web.de.", "Done.", "a:2"),
        Row("Name a sea.", "The Baltic.", "a:3"),
    ]
    for screen, kept in ((unwanted, 1), (always_fit, 3)):
        sifted = list(CorpusFilter(DuplicateIndex(), DuplicateIndex(), screen=screen).sift(pairs(rows, "a")))
        assert sum(isinstance(row, CorpusRow) for row in sifted) == kept
        reasons = [row.reason for row in sifted if isinstance(row, DropRow)]
        assert reasons == ["refusal", "holds a secret"][: 3 - kept]


def test_an_instruction_may_begin_as_a_refusal_does() -> None:
    asked = "I'm sorry, but I can't find the error. Where is it?"
    rows = pairs([Row(asked, "In the second line.", "a:1")], "a")
    assert unwanted(asked)
    assert [type(row) for row in CorpusFilter(DuplicateIndex(), DuplicateIndex(), screen=unwanted).sift(rows)] == [
        CorpusRow
    ]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_of_real_answers_few_are_refusals_and_hardly_any_by_mistake() -> None:
    """Read by hand: all eight of GPT-4's are, and three of text-davinci-003's; the fourth was asked for one."""
    counts = {}
    for name in ("seed/alpaca_data.json.gz", "teacher/alpaca_gpt4_answers_999.json.gz"):
        with gzip.open(SHARED / name) as file:
            counts[name] = sum(refuses(row["output"]) for row in json.load(file))
    assert list(counts.values()) == [4, 8]
