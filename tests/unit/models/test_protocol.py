from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.calling import asking, endpoint
from tapir.domain.completion import Completion, Failure, Token, Usage
from tapir.models.api.protocol import Request, Sampling, Schema, body, digest, pack, read_reply, unpack
from tapir.models.api.stream import StreamedReply

E = endpoint(model="model")
SENT = body(E, asking("What is it?", max_tokens=50))
SURROGATE = "\ud800"
HUGE = {"token": "a", "top_logprobs": [{"token": "a", "logprob": 10**400}]}


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
    other = endpoint("http://elsewhere/v1", "model", key="KEY", concurrency=3)
    assert digest(body(E, asking("A")), 0) == digest(body(other, asking("A")), 0)


def test_a_request_says_what_its_sampling_and_its_endpoint_say() -> None:
    schema = Schema("verdict", {"type": "object"})
    e = endpoint(json_schema=True, max_tokens_field="max_completion_tokens", extra={"seed": 7})
    sent = json.loads(body(e, Request([{"role": "user", "content": "é"}], Sampling(0.3, 9, logprobs=True), schema)))
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
    plain = endpoint(model="model", json_schema=False)
    assert json.loads(body(plain, Request([], Sampling(1.0, 9), schema))) == {
        "model": "model",
        "messages": [],
        "max_tokens": 9,
        "temperature": 1.0,
    }
    assert "temperature" not in json.loads(body(plain, Request([], Sampling(temperature=False, max_tokens=9))))


def test_a_model_that_thinks_is_not_sent_the_default_temperature() -> None:
    e = endpoint(max_tokens_field="max_completion_tokens")
    sent = json.loads(body(e, Request([], Sampling(1.0, 9))))
    assert sent == {"model": "m", "messages": [], "max_completion_tokens": 9}


def test_a_lone_surrogate_in_a_prompt_can_be_sent() -> None:
    assert json.loads(body(E, asking(f"a{SURROGATE}b")))["messages"][0]["content"] == "a?b"


# Replies


def test_a_reply_is_read_with_its_tokens_and_its_end() -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    assert read(reply(usage=usage)) == Completion("Yes.", "stop", Usage(11, 5, 4), "served")
    assert read(reply(finish="length")).finish_reason == "length"
    assert read(reply(finish=None)).finish_reason == "stop"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "reasoning_text", "thought"])
def test_reasoning_is_told_apart_by_either_of_its_names(name: str) -> None:
    found = read(reply(message={name: "Let me think."}))
    assert (found.text, found.reasoning) == ("Yes.", "Let me think.")


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        ("<think>Hm.</think>\n\nYes.", "Yes.", "Hm."),
        ("\n<think>\nHm.\n</think>Yes.", "Yes.", "Hm."),
        ("Hm.\n</think>\n\nYes.", "Hm.\n</think>\n\nYes.", ""),  # `usable` calls that a fault of the server
        ("[THINK]Hm.[/THINK]  x = 1", "  x = 1", "Hm."),
        ("<thinking>Hm.</thinking>\nClose it with </think>.", "Close it with </think>.", "Hm."),
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
            "Yes.",
            "Hm.",
        ),
        ("<|channel|>final<|message|>Yes.", "Yes.", ""),
        ("<|channel|>analysis<|message|>Hm", "", "Hm"),
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
def test_unreadable_logprobs_are_no_logprobs(logprobs: Any) -> None:
    assert read(reply(choice={"logprobs": logprobs})).tokens == ()


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (None, (8, 16)),  # "What is it?" is four words and marks, and a message has four more
        ({}, (8, 16)),
        ([], (8, 16)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (8, 16)),
        ({"prompt_tokens": 3}, (3, 16)),
        ({"total_tokens": 900}, (8, 892)),
        ({"prompt_tokens": None, "completion_tokens": 1}, (8, 1)),
        ({"prompt_tokens": -1, "completion_tokens": 1}, (8, 1)),
        ({"prompt_tokens": True, "completion_tokens": float("inf")}, (8, 16)),
        ({"prompt_tokens": 1, "completion_tokens": 10**30}, (1, 16)),
    ],
)
def test_tokens_that_the_server_does_not_count_are_estimated(usage: Any, counted: tuple[int, int]) -> None:
    assert read(reply("word " * 16, usage=usage)).usage == Usage(*counted)


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}, Usage(10, 105)),  # thoughts in the total
        ({"prompt_tokens": "10", "completion_tokens": 5.0}, Usage(10, 5)),
        ({"prompt_tokens": "10.0", "completion_tokens": 5}, Usage(10, 5)),
        ({"inputTokens": 10, "outputTokens": 5, "totalTokens": 15}, Usage(10, 5)),
        (
            {
                "tokens": {"input_tokens": 90, "output_tokens": 6},
                "billed_units": {"input_tokens": 10, "output_tokens": 5},
            },
            Usage(10, 5),
        ),
        ({"tokens": {"input_tokens": 10, "output_tokens": 5}}, Usage(10, 5)),
        (
            {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 15, "cache_read_input_tokens": 7},
            Usage(10, 5, 7),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 5, "reasoning_tokens": 100}, Usage(10, 105)),
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 100}},
            Usage(10, 105),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 4}},
            Usage(10, 9),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 7}, Usage(10, 5, 7)),
        ({"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 7}, Usage(10, 5, 7)),
        ({"input_tokens": 10, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 2}}, Usage(10, 5, 2)),
    ],
)
def test_usage_is_read_in_every_spelling(usage: Any, counted: Usage) -> None:
    assert read(reply(usage=usage)).usage == counted


@pytest.mark.parametrize(
    "more",
    [
        {"usageMetadata": {"promptTokenCount": 50, "candidatesTokenCount": 10, "thoughtsTokenCount": 30}},
        {"x_groq": {"usage": {"prompt_tokens": 50, "completion_tokens": 40}}},
        {"choice": {"usage": {"prompt_tokens": 50, "completion_tokens": 40}}, "usage": None},
    ],
)
def test_usage_is_found_where_servers_put_it(more: Any) -> None:
    assert read(reply(**more)).usage == Usage(50, 40)


@pytest.mark.parametrize(
    ("finish", "known"),
    [
        *((word, "stop") for word in ("STOP", "eos_token", "end_turn", "stop_sequence", "FinishReason.STOP", None, "")),
        *((word, "length") for word in ("MAX_TOKENS", "max_output_tokens", "model_length", "maxTokens")),
        *((word, "length") for word in ("model_context_window_exceeded", {"type": "length", "length": 64})),
    ],
)
def test_a_finish_reason_is_known_in_every_spelling(finish: Any, known: str) -> None:
    found = read(reply(finish=finish))
    assert (found.finish_reason, found.unknown_finish) == (known, "")


def test_an_unknown_finish_reason_is_a_stop_that_is_named_where_there_is_a_text() -> None:
    found = read(reply(finish="quantum_flux"))
    assert (found.finish_reason, found.unknown_finish) == ("stop", "quantum_flux")
    without = failed(reply("", finish="quantum_flux"))
    assert (without.kind, "quantum_flux" in without.message) == ("refused", True)


THINKING = {"prompt_tokens": 9, "completion_tokens": 64, "completion_tokens_details": {"reasoning_tokens": 64}}


@pytest.mark.parametrize("message", [{"content": ""}, {"content": None}, None])
@pytest.mark.parametrize(
    "usage", [THINKING, {"prompt_tokens": 9, "total_tokens": 73}, {**THINKING, "completion_tokens": 0}]
)
def test_a_reply_cut_off_in_a_thought_that_is_not_shown_is_all_thought(message: Any, usage: Any) -> None:
    found = read(reply(finish="length", choice={"message": message}, usage=usage))
    assert (found.text, found.finish_reason, found.all_thought, found.usage) == ("", "length", True, Usage(9, 64))
    assert unpack(pack(found)) == found
    assert not read(reply("Yes", finish="length", usage=usage)).reasoning
    assert not read(reply("", finish="length", usage={"prompt_tokens": 9, "completion_tokens": 64})).all_thought


def test_a_message_that_is_missing_leaves_what_its_end_says() -> None:
    found = failed(reply(finish="content_filter: PROHIBITED_CONTENT.", choice={"message": None}))
    assert (found.kind, "prohibited_content" in found.message) == ("refused", True)
    assert read(reply(finish="length", choice={"message": None})).finish_reason == "length"


def test_nothing_without_an_end_and_without_tokens_is_no_reply() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}
    assert failed(reply("", finish=None, usage=usage)).kind == "malformed"
    assert read(reply("", finish="stop", usage=usage)).text == ""
    assert read(reply("", finish=None, usage={**usage, "completion_tokens": 1})).text == ""


@pytest.mark.parametrize("finish", ["content_filter: RECITATION", "IMAGE_SAFETY", "prompt_blocked"])
def test_a_reply_that_a_filter_cut_short_is_no_answer(finish: str) -> None:
    assert failed(reply("Half of", finish=finish)).kind == "refused"


@pytest.mark.parametrize("finish", [None, "error"])
@pytest.mark.parametrize("where", ["choice", "reply"])
def test_an_error_beside_half_a_reply_makes_it_a_failure_in_the_servers_words_with_its_usage(
    where: str, finish: Any
) -> None:
    error: Any = {"error": {"code": 502, "message": "upstream died"}}
    more = {"choice": error} if where == "choice" else error
    found = failed(reply("Half of", finish=finish, usage={"prompt_tokens": 9, "completion_tokens": 4}, **more))
    assert (found.kind, "upstream died" in found.message, found.usage) == ("server", True, Usage(9, 4))


def test_an_error_beside_a_whole_reply_does_not_throw_it_away() -> None:
    assert read(reply("All of it.", error={"code": 0, "message": ""})).text == "All of it."


@pytest.mark.parametrize("finish", ["error", "abort", "Cancelled", "insufficient_system_resource"])
def test_a_server_that_ends_a_reply_with_a_fault_of_its_own_is_asked_again(finish: str) -> None:
    assert failed(reply("Half of", finish=finish)).kind == "server"


def test_the_parts_of_a_content_are_text_and_thought() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    found = read(reply([thought, {"type": "text", "text": "Yes"}, {"type": "output_text", "text": "."}]))
    assert (found.text, found.reasoning) == ("Yes.", "Hm.")


@pytest.mark.parametrize(
    "apart",
    [
        {"reasoning": {"content": "Hm."}},
        {
            "reasoning_details": [
                {"type": "reasoning.text", "text": "Hm"},
                {"type": "reasoning.summary", "summary": "."},
            ]
        },
        {"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "x"}]},
        {"reasoning": " \n", "reasoning_content": None, "thoughts": 3, "thinking": "Hm."},
    ],
)
def test_a_thought_apart_is_read_in_any_form_also_from_a_stream(apart: dict[str, Any]) -> None:
    found = read(reply(None, finish="length", message=apart))
    assert (found.all_thought, found.reasoning) == (True, "Hm.")
    streamed = StreamedReply()
    for delta, finish in ((apart, None), ({"content": "Yes."}, "stop")):
        streamed.feed(
            b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"
        )
    found = read(streamed.content())
    assert (found.text, found.reasoning) == ("Yes.", "Hm.")


def test_an_empty_thought_apart_leaves_the_one_inside_the_reply() -> None:
    found = read(reply("<think>Hm.</think>Yes.", message={"reasoning_content": "\n"}))
    assert (found.text, found.reasoning) == ("Yes.", "Hm.")
    assert not read(reply("", message={"reasoning_content": "\n"})).all_thought


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"type": "text", "text": "Yes."}, "Yes."),
        ({"text": "Yes."}, "Yes."),
        ({"score_a": 3, "text": "é"}, '{"score_a": 3, "text": "é"}'),
    ],
)
def test_a_content_may_be_one_part_or_the_json_that_was_asked_for(content: Any, text: str) -> None:
    assert read(reply(content)).text == text


def test_a_reply_without_choices_is_read_where_the_server_says_that_it_is_done() -> None:
    bare = {"message": {"content": "Yes."}, "done": True, "done_reason": "length", "prompt_eval_count": 9}
    found = read(json.dumps({**bare, "eval_count": 4}).encode())
    assert (found.text, found.finish_reason, found.usage) == ("Yes.", "length", Usage(9, 4))


def test_half_a_character_does_not_cost_a_reply() -> None:
    assert read(reply("Yes").replace(b"Yes", b"Yes \xf0\x9f")).text == "Yes \ufffd"


@pytest.mark.parametrize("content", [None, 3, [{"type": "text", "text": 3}]])
@pytest.mark.parametrize("finish", ["content_filter", "stop"])
def test_a_failure_holds_what_was_billed_for_it(content: Any, finish: str) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 40}
    assert failed(reply(content, finish=finish, usage=usage)).usage == Usage(10, 30)
    estimated = Usage(8, 0) if (content, finish) == (None, "content_filter") else None
    assert failed(reply(content, finish=finish, usage={"prompt_tokens": 0, "completion_tokens": 0})).usage == estimated


@pytest.mark.parametrize("logprob", [float("nan"), 1000.0])
def test_a_log_probability_that_is_none_is_left_out(logprob: float) -> None:
    tops = [{"token": "4", "logprob": logprob}, {"token": "5", "logprob": -1}]
    found = read(reply("4", choice={"logprobs": {"content": [{"token": "4", "top_logprobs": tops}]}}))
    assert found.tokens == (Token("4", (("5", -1.0),)),)


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
        b"data: [DONE]\n\n",  # the end of a stream that brought nothing
        b'{"choices": []}',
        b'{"choices": {}}',
        b'{"choices": [null]}',
        b'{"choices": [{"message": "hello"}]}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": 3}}]}',
        b'{"choices": [{"message": {"content": {"type": "text"}}}]}',
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


@given(st.text(st.characters()), st.text(st.characters()), st.lists(st.text(st.characters(), max_size=3), max_size=3))
def test_a_reply_comes_back_from_the_ledger_as_it_was(text: str, reasoning: str, tokens: list[str]) -> None:
    content = [{"token": one, "logprob": -1, "top_logprobs": [{"token": one, "logprob": -1}]} for one in tokens]
    found = read_reply(reply(text, message={"reasoning": reasoning}, choice={"logprobs": {"content": content}}), SENT)
    assert isinstance(found, Completion)
    assert unpack(pack(found)) == found


def test_a_character_that_several_tokens_make_up_is_joined_from_their_bytes() -> None:
    pieces = [b"Good \xf0\x9f", b"\x91\x8d", b" 8"]
    content = [
        {"token": piece.decode(errors="replace"), "bytes": [*piece], "top_logprobs": [{"token": " 8", "logprob": -0.1}]}
        for piece in pieces
    ]
    found = read(reply("Good \N{THUMBS UP SIGN} 8", choice={"logprobs": {"content": content}}))
    assert [token.text for token in found.tokens] == ["Good ", "\N{THUMBS UP SIGN}", " 8"]
    without = [{**content[0], "bytes": None}, *content[1:]]
    found = read(reply("Good \N{THUMBS UP SIGN} 8", choice={"logprobs": {"content": without}}))
    assert found.tokens[2].text == " 8"


def test_lone_surrogates_in_a_reply_become_question_marks() -> None:
    found = read(reply(f"a{SURROGATE}b", message={"reasoning": SURROGATE}, model=f"m{SURROGATE}"))
    assert (found.text, found.reasoning, found.model) == ("a?b", "?", "m?")
    assert unpack(pack(found)) == found
