"""Rewrites that are no answers."""

from __future__ import annotations

import pytest

from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.stages.refine import speaks_of_rewriting


def pair(instruction: str = "Who climbed it first?", answer: str = "Hillary and Norgay.") -> Pair:
    return Pair(Instruction.of(instruction, Origin("corpus")), Response(answer, "people"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hillary.\nThis rewritten answer adheres to all the given instructions.", "rewritten answer"),
        ("Hillary.\n\nThe re-written response is as given above.", "re-written response"),
        ("Hillary.\nThis answer directly addresses the instruction.", "This answer directly addresses the instruction"),
        ("Here is the revised answer: Hillary.", "revised answer"),
        (
            "The answer is correct and does not need any changes.",
            "The answer is correct and does not need any changes",
        ),
        ("In every rewrite\n- Keep what is right, correct what is wrong.", "every rewrite"),
        (
            "Hillary. The response meets all of the given instructions.",
            "The response meets all of the given instructions",
        ),
    ],
)
def test_a_rewrite_that_speaks_of_itself_is_known(text: str, words: str) -> None:
    assert speaks_of_rewriting(text, pair()) == f"speaks of the rewriting: {words!r}"


@pytest.mark.parametrize(
    "text",
    [
        *("Hillary and Norgay.", "Always follow the instructions on the label.", "The original was lost.", ""),
        "It runs without changes, and there are no changes in the answer sheet.",
    ],
)
def test_an_answer_is_none(text: str) -> None:
    assert not speaks_of_rewriting(text, pair())


def test_words_of_the_instruction_or_of_its_answer_prove_nothing() -> None:
    text = "The original answer was better."
    assert not speaks_of_rewriting(text, pair("Compare the revised and the original answer."))
    assert not speaks_of_rewriting(text, pair(answer="The Original Answer."))
    assert speaks_of_rewriting(text, pair())
