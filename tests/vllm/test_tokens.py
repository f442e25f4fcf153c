"""The list of tokens as vLLM sends it, and what is kept of it: what spells the reply."""

from __future__ import annotations

import json

import pytest

from tapir.domain.completion import Completion
from tapir.models.api.protocol import read_reply


def kept(text: str, *tokens: str) -> list[str]:
    listed = [{"token": one, "logprob": -0.5, "top_logprobs": [{"token": one, "logprob": -0.5}]} for one in tokens]
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": listed}}
    usage = {"prompt_tokens": 9, "completion_tokens": len(tokens)}
    reply = read_reply(json.dumps({"model": "m", "choices": [choice], "usage": usage}).encode(), b"{}")
    assert isinstance(reply, Completion)
    return [token.text for token in reply.tokens]


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("Good. 8", ("Good", ".", " 8", "<|im_end|>"), ["Good", ".", " 8"]),
        ("Good. 8", ("An", " 8", "?", "</think>", "\n\n", "Good", ".", " 8", "</s>"), ["Good", ".", " 8"]),
        (
            "<think>An 8?</think>\nSo: 8",
            ("<think>", "An", " 8", "?", "</think>", "\n", "So:", " 8", "</s>"),
            ["So:", " 8"],
        ),
        ("8", ("8", "?", "</think>", "8", "</s>"), ["8"]),
        ("né 8", ("n", "", "é", " 8"), ["n", "", "é", " 8"]),
        ("Good. 8", ("Go", "od. 8"), ["Go", "od. 8"]),
        ("Good. 8", (), []),
        ("", ("</s>",), []),
    ],
    ids=["end", "reasoning", "open reasoning", "repeated", "part of a character", "long tokens", "none", "no text"],
)
def test_the_tokens_that_spell_the_reply_are_kept(text: str, tokens: tuple[str, ...], expected: list[str]) -> None:
    assert kept(text, *tokens) == expected


def test_tokens_that_do_not_spell_the_reply_are_all_kept() -> None:
    assert kept("Good. 8", "Gut", ".", " 8", "</s>") == ["Gut", ".", " 8", "</s>"]
    assert kept("Good. 8", "\nGood", ".", " 8", "</s>") == ["\nGood", ".", " 8", "</s>"]
