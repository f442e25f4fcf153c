"""The list of tokens as vLLM sends it, and what is kept of it: what spells the reply."""

from __future__ import annotations

import json

import pytest

from tapir.domain.completion import Completion
from tapir.llm.wire import read_reply


def kept(text: str, *tokens: str) -> list[str]:
    listed = [{"token": one, "logprob": -0.5, "top_logprobs": [{"token": one, "logprob": -0.5}]} for one in tokens]
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": listed}}
    usage = {"prompt_tokens": 9, "completion_tokens": len(tokens)}
    reply = read_reply(json.dumps({"model": "m", "choices": [choice], "usage": usage}).encode(), b"{}")
    assert isinstance(reply, Completion)
    return [token.text for token in reply.tokens]


def test_the_token_that_ends_the_reply_is_no_part_of_it() -> None:
    assert kept("Good. 8", "Good", ".", " 8", "<|im_end|>") == ["Good", ".", " 8"]


def test_the_tokens_of_the_reasoning_are_no_part_of_the_reply() -> None:
    assert kept("Good. 8", "An", " 8", "?", "</think>", "\n\n", "Good", ".", " 8", "</s>") == ["Good", ".", " 8"]
    assert kept("<think>An 8?</think>\nSo: 8", "<think>", "An", " 8", "?", "</think>", "\n", "So:", " 8", "</s>") == [
        "So:",
        " 8",
    ]


def test_a_reply_that_repeats_the_reasoning_is_found_at_the_end() -> None:
    assert kept("8", "8", "?", "</think>", "8", "</s>") == ["8"]


def test_the_parts_of_a_character_count_for_the_token_that_completes_it() -> None:
    assert kept("né 8", "n", "", "é", " 8", "</s>") == ["n", "", "é", " 8"]


@pytest.mark.parametrize("tokens", [("Go", "od. 8"), ("Good. 8",), ()])
def test_tokens_that_spell_the_reply_are_all_kept(tokens: tuple[str, ...]) -> None:
    assert kept("Good. 8", *tokens) == list(tokens)


def test_tokens_that_do_not_spell_the_reply_are_all_kept() -> None:
    assert kept("Good. 8", "Gut", ".", " 8", "</s>") == ["Gut", ".", " 8", "</s>"]
    assert kept("Good. 8", "\nGood", ".", " 8", "</s>") == ["\nGood", ".", " 8", "</s>"]


def test_an_empty_reply_has_no_tokens() -> None:
    assert kept("", "</s>") == []
