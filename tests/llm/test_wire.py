from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir.domain.completion import Completion, Failure, Token, Usage
from tapir.llm.endpoint import Endpoint
from tapir.llm.wire import Request, Sampling, Schema, body, digest, pack, read_reply, unpack
from tests.llm.calling import asking

E = Endpoint("e", "http://localhost/v1", "model")
SENT = body(E, asking("What is it?", max_tokens=50))
SURROGATE = "\ud800"
HUGE = {"token": "a", "top_logprobs": [{"token": "a", "logprob": 10**400}]}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def reply(
    content: Any = "Yes.", *, finish: Any = "stop", message: Any = None, choice: Any = None, **more: Any
) -> bytes:
    """A chat completion with what a test wants to be otherwise."""
    said = {"role": "assistant", "content": content, **(message or {})}
    return json.dumps(
        {"model": "served", "choices": [{"message": said, "finish_reason": finish, **(choice or {})}], **more}
    ).encode()


def read(content: bytes) -> Completion:
    found = read_reply(content, SENT)
    assert isinstance(found, Completion), found
    return found


def failed(content: bytes) -> Failure:
    found = read_reply(content, SENT)
    assert isinstance(found, Failure), found
    return found


# Requests


def test_equal_requests_are_equal_bytes_and_another_sample_is_another_call() -> None:
    assert body(E, asking("A")) == body(E, asking("A"))
    sent = body(E, asking("A"))
    assert digest(sent, 0) == digest(sent, 0) != digest(sent, 1)
    assert digest(sent, 0) != digest(body(E, asking("B")), 0)


def test_where_a_request_is_sent_and_what_it_costs_is_no_part_of_its_digest() -> None:
    other = Endpoint("other", "http://elsewhere/v1", "model", key_name="KEY", concurrency=3)
    assert digest(body(E, asking("A")), 0) == digest(body(other, asking("A")), 0)


def test_a_request_says_what_its_sampling_and_its_endpoint_say() -> None:
    schema = Schema("verdict", {"type": "object"})
    endpoint = Endpoint("e", "", "m", json_schema=True, max_tokens_field="max_completion_tokens", extra={"seed": 7})
    sent = json.loads(
        body(endpoint, Request([{"role": "user", "content": "é"}], Sampling(0.3, 9, logprobs=True), schema))
    )
    assert sent == {
        "model": "m",
        "messages": [{"role": "user", "content": "é"}],
        "max_completion_tokens": 9,
        "temperature": 0.3,
        "logprobs": True,
        "top_logprobs": 20,
        "seed": 7,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "schema": {"type": "object"}, "strict": True},
        },
    }
    plain = json.loads(body(E, Request([], Sampling(1.0, 9), schema)))
    assert plain == {"model": "model", "messages": [], "max_tokens": 9, "temperature": 1.0}


def test_a_model_that_thinks_is_not_sent_the_default_temperature() -> None:
    endpoint = Endpoint("e", "", "m", max_tokens_field="max_completion_tokens")
    sent = json.loads(body(endpoint, Request([], Sampling(1.0, 9))))
    assert sent == {"model": "m", "messages": [], "max_completion_tokens": 9}


def test_a_lone_surrogate_in_a_prompt_can_be_sent() -> None:
    assert json.loads(body(E, asking(f"a{SURROGATE}b")))["messages"][0]["content"] == "a?b"


# Replies


def test_a_reply_is_read_with_its_tokens_and_its_end() -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    assert read(reply(usage=usage)) == Completion("Yes.", "stop", Usage(11, 5, 4), "served")
    assert read(reply(finish="length")).finish_reason == "length"
    assert read(reply(finish=None)).finish_reason == "stop"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_told_apart_by_either_of_its_names(name: str) -> None:
    found = read(reply(message={name: "Let me think."}))
    assert (found.text, found.reasoning) == ("Yes.", "Let me think.")


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        ("<think>Hm.</think>\n\nYes.", "Yes.", "Hm."),
        ("\n<think>\nHm.\n</think>Yes.", "Yes.", "Hm."),
        ("Hm.\n</think>\n\nYes.", "Yes.", "Hm."),  # the template of the prompt held the opening tag
        ("<think>Hm, still thinking", "", "Hm, still thinking"),
        ("I use <think> and </think> as tags.", "I use <think> and </think> as tags.", ""),
        ("No tags.", "No tags.", ""),
    ],
)
def test_reasoning_inside_the_reply_is_taken_out(content: str, text: str, reasoning: str) -> None:
    found = read(reply(content))
    assert (found.text, found.reasoning) == (text, reasoning)


def test_a_reply_that_was_cut_off_while_it_reasoned_is_an_empty_one_that_says_so() -> None:
    found = read(reply(None, finish="length", message={"reasoning_content": "First,"}))
    assert (found.text, found.finish_reason, found.reasoning) == ("", "length", "First,")


def test_logprobs_are_read_token_by_token_with_their_alternatives() -> None:
    content = [
        {
            "token": "4",
            "logprob": -0.1,
            "top_logprobs": [{"token": "4", "logprob": -0.1}, {"token": "5", "logprob": -2}],
        },
        {"token": " \ud83d", "logprob": 0, "top_logprobs": []},
    ]
    tokens = read(reply("4 ?", choice={"logprobs": {"content": content}})).tokens
    assert tokens == (Token("4", (("4", -0.1), ("5", -2.0))), Token(" ?", ()))


@pytest.mark.parametrize(
    "logprobs", [None, {}, {"content": None}, {"content": [{"token": "a"}]}, {"content": 3}, [], {"content": [HUGE]}]
)
def test_logprobs_that_nobody_can_read_are_no_logprobs(logprobs: Any) -> None:
    assert read(reply(choice={"logprobs": logprobs})).tokens == ()


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [],
        {"prompt_tokens": 3},
        {"prompt_tokens": None, "completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": float("inf")},
        {"prompt_tokens": 1, "completion_tokens": 10**30},
    ],
)
def test_tokens_that_the_server_does_not_count_are_estimated(usage: Any) -> None:
    found = read(reply("word " * 16, usage=usage)).usage
    assert found == Usage(len(SENT) // 4, 20)


def test_an_estimate_is_no_more_than_what_was_asked_for() -> None:
    assert read(reply("word " * 1000)).usage.completion_tokens == 50


def test_more_cached_tokens_than_tokens_are_as_many_as_there_are() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}}
    assert read(reply(usage=usage)).usage == Usage(3, 1, 3)


def test_a_refusal_has_its_reason() -> None:
    assert failed(reply("", finish="content_filter")).kind == "refused"
    assert "content_filter" in failed(reply("", finish="content_filter")).message
    refused = failed(reply(None, message={"refusal": "I cannot help with that."}))
    assert (refused.kind, "I cannot help with that." in refused.message) == ("refused", True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"<html>Sign in</html>",
        b'{"choices": []}',
        b'{"choices": {}}',
        b'{"choices": [null]}',
        b'{"choices": [{"message": "hello"}]}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": ["part"]}}]}',
        b'{"choices": [{"message": {"content": "a"}, "finish_reason": ["stop"]}]}',
        b'{"choices": [{"message": {"content": "a", "reasoning": 3}}]}',
        b"[" * 100_000,
        b"\xff\xfe",
        reply()[:40],
    ],
    ids=lambda content: repr(content[:30]),
)
def test_what_is_no_chat_completion_is_malformed_and_is_shown(content: bytes) -> None:
    found = failed(content)
    assert found.kind == "malformed"
    assert content[:20].decode(errors="replace")[:10] in found.message or not content.isascii()
    assert len(found.message) < 1000


@settings(deadline=None)
@given(st.binary(max_size=200) | JSON.map(json.dumps).map(str.encode))
def test_no_answer_of_a_server_is_an_error_of_ours(content: bytes) -> None:
    assert isinstance(read_reply(content, SENT), Completion | Failure)


@settings(deadline=None)
@given(JSON, JSON, JSON, JSON, JSON, JSON)
def test_nothing_inside_a_chat_completion_is_an_error_of_ours(
    content: Any, finish: Any, reasoning: Any, usage: Any, logprobs: Any, model: Any
) -> None:
    made = reply(
        content,
        finish=finish,
        message={"reasoning": reasoning},
        choice={"logprobs": logprobs},
        usage=usage,
        model=model,
    )
    found = read_reply(made, SENT)
    if isinstance(found, Completion):
        assert unpack(pack(found)).text == found.text


@settings(deadline=None)
@given(st.text(st.characters()), st.text(st.characters()), st.lists(st.text(st.characters(), max_size=3), max_size=3))
def test_a_reply_comes_back_from_the_ledger_as_it_was(text: str, reasoning: str, tokens: list[str]) -> None:
    content = [{"token": one, "logprob": -1, "top_logprobs": [{"token": one, "logprob": -1}]} for one in tokens]
    found = read_reply(reply(text, message={"reasoning": reasoning}, choice={"logprobs": {"content": content}}), SENT)
    assert isinstance(found, Completion)
    assert unpack(pack(found)) == found


def test_a_text_of_a_megabyte_is_kept_whole() -> None:
    text = "ä€😀 " * 80_000
    assert len(text.encode()) > 1e6 / 2
    assert read(reply(text)).text == text


def test_lone_surrogates_in_a_reply_become_question_marks() -> None:
    found = read(reply(f"a{SURROGATE}b", message={"reasoning": SURROGATE}, model=f"m{SURROGATE}"))
    assert (found.text, found.reasoning, found.model) == ("a?b", "?", "m?")
    assert unpack(pack(found)) == found
