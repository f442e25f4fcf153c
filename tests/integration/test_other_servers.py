"""Other servers than the polite one: how they stream, where they put things, and what single prompts meet there."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.batches import SLOW, provider, texts
from support.calling import PRICES, answering, client, collect, endpoint, rows
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.errors import RoleError
from tapir.models.api.connection import Call, CallError
from tapir.models.api.facts import check_reachable

USAGE = {"prompt_tokens": 50, "completion_tokens": 40}
WHOLE = {"choices": [{"message": {"content": "Yes sir"}, "finish_reason": "stop"}], "usage": USAGE}
ELSEWHERE = "https://elsewhere/v1/chat/completions"
CUDA = b'{"error": {"message": "CUDA out of memory"}}'


def http(content: Any, status: int = 200, more: str = "") -> bytes:
    said = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = f"HTTP/1.1 {status} So\r\n{more}Content-Length: {len(said)}\r\nConnection: close\r\n\r\n"
    return head.encode() + said


def events(*lines: bytes | dict[str, Any]) -> bytes:
    return b"".join(
        line if isinstance(line, bytes) else b"data: " + json.dumps(line).encode() + b"\n\n" for line in lines
    )


def delta(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish, **more}]}


def in_turn(*answers: bytes) -> Callable[[], bytes]:
    """Each of these answers, the last one again and again."""
    left = itertools.chain(answers, itertools.repeat(answers[-1]))
    return lambda: next(left)


def ask(content: bytes, folder: Path, **config: Any) -> Completion | Failure:
    with answering(content) as url, client(endpoint(url, **PRICES, **config), folder) as made:
        (reply,) = collect(made, rows(1)).replies.values()
    return reply


@pytest.mark.parametrize(
    "lines",
    [
        (b"\xef\xbb\xbf", delta("Yes "), delta("sir", "stop"), {"choices": [], "usage": USAGE}),
        (b"data: ping\n\n", delta("Yes "), delta("sir", "null"), delta("", "stop", usage=USAGE)),
        (
            b'event: ping\ndata: {"type": "ping"}\n\n',
            delta("Yes sir"),
            {**delta("", "stop"), "x_groq": {"usage": USAGE}},
        ),
        (delta("Yes sir", "stop"), {"choices": [], "usage": USAGE}, {"error": {"message": "too late"}}),
    ],
    ids=["mark", "choice", "groq", "late"],
)
@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_is_read_whole_with_its_count_whether_it_was_asked_for_or_not(
    tmp_path: Path, lines: tuple[Any, ...], *, asked: bool
) -> None:
    reply = ask(http(events(*lines, b"data: [DONE]\n\n")), tmp_path, stream=asked)
    assert isinstance(reply, Completion)
    assert (reply.text, reply.usage) == ("Yes sir", Usage(50, 40))


ONLY = {"choices": [], "usage": USAGE}
OLLAMA = (
    {"message": {"content": "Yes "}, "done": False},
    {"message": {"content": "sir"}, "done": False},
    {"message": {"content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 50, "eval_count": 40},
)


def bare(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.mark.parametrize(
    "said",
    [
        events(delta("Yes "), delta("sir", "stop"), ONLY, b"data: [DONE]\n\n").replace(b"\n", b"\r"),
        bare(delta("Yes "), delta("sir", "stop"), ONLY),
        bare(*OLLAMA),
        events(
            delta("Yes ", index=0),
            delta("No", index=1),
            delta("sir", "stop", index=0),
            delta("", "length", index=1),
            ONLY,
        ),
    ],
    ids=["returns", "lines", "ollama", "n"],
)
def test_a_stream_is_read_however_its_events_are_divided(tmp_path: Path, said: bytes) -> None:
    reply = ask(http(said), tmp_path, stream=True)
    assert isinstance(reply, Completion)
    assert (reply.text, reply.finish_reason, reply.usage) == ("Yes sir", "stop", Usage(50, 40))


def test_half_a_character_in_an_event_does_not_cost_a_stream(tmp_path: Path) -> None:
    half = events(delta("Yes"), delta("", "stop")).replace(b"Yes", b"Yes \xf0\x9f")
    reply = ask(http(half), tmp_path, stream=True)
    assert isinstance(reply, Completion)
    assert reply.text == "Yes \ufffd"


@pytest.mark.parametrize("content", [json.dumps(WHOLE).encode(), events(delta("Yes sir", "stop", usage=USAGE))])
def test_a_whole_reply_is_taken_though_the_connection_is_cut_behind_it(tmp_path: Path, content: bytes) -> None:
    size = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(content), content)
    for rest in (size, b"Content-Length: 9999\r\n\r\n" + content):
        reply = ask(b"HTTP/1.1 200 OK\r\n" + rest, tmp_path / str(len(rest)), stream=True)
        assert isinstance(reply, Completion)
        assert (reply.text, reply.usage) == ("Yes sir", Usage(50, 40))


@pytest.mark.parametrize(
    ("lines", "kind", "said"),
    [
        ((b'event: error\ndata: {"code": "overloaded", "message": "GPU lost"}\n\n',), "server", "GPU lost"),
        ((CUDA + b"\n", b"data: [DONE]\n\n"), "server", "CUDA out of memory"),
        ((delta("", None, error={"message": "upstream died"}), b"data: [DONE]\n\n"), "server", "upstream died"),
        ((delta("", "null"),), "cut", "ended before"),
    ],
    ids=["named", "bare", "choice", "null"],
)
def test_an_error_in_a_stream_is_known_however_it_is_written(
    tmp_path: Path, lines: tuple[Any, ...], kind: str, said: str
) -> None:
    reply = ask(http(events(delta("Half of"), *lines)), tmp_path, stream=True)
    assert isinstance(reply, Failure)
    assert (reply.kind, said in reply.message, reply.usage is not None) == (kind, True, True)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("status", "more"), [(201, ""), (200, f"X-Policy: {'a' * 20_000}\r\n")], ids=["201", "header"])
def test_a_reply_that_was_paid_for_is_read_whatever_stands_around_it(
    tmp_path: Path, status: int, more: str, *, stream: bool
) -> None:
    reply = ask(http(WHOLE, status, more), tmp_path, stream=stream)
    assert isinstance(reply, Completion)
    assert (reply.text, reply.usage) == ("Yes sir", Usage(50, 40))


@pytest.mark.parametrize(
    "error",
    [
        {
            "error": {
                "code": 403,
                "message": "This requires moderation, your input was flagged. No credits were charged.",
            }
        },
        {"code": "no permission", "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_X"},
    ],
    ids=["router", "guidelines"],
)
def test_one_prompt_that_a_server_forbids_does_not_stop_the_run(tmp_path: Path, error: Any) -> None:
    answers = in_turn(http(WHOLE), http(error, 403), http(WHOLE))
    with answering(answers) as url, client(endpoint(url, concurrency=1), tmp_path) as made:
        assert collect(made, rows(5)).ends == {"done": 4, "bad-request": 1}


PAGE = b"<html><title>Attention Required!</title></html>"


def test_one_prompt_that_a_firewall_stops_fails_alone_and_many_in_a_row_end_the_run(tmp_path: Path) -> None:
    answers = in_turn(http(WHOLE), *[http(PAGE, 403)] * 2, http(WHOLE))
    with answering(answers) as url, client(endpoint(url, concurrency=1), tmp_path) as made:
        assert collect(made, rows(5)).ends == {"done": 5}
    answers = in_turn(http(WHOLE), http(PAGE, 403))
    with (
        answering(answers) as url,
        client(endpoint(url, concurrency=1), tmp_path / "all") as made,
        pytest.raises(RoleError, match="failed 20 times in a row, last: HTTP 403: Attention Required!"),
    ):
        collect(made, rows(50))


def test_a_rate_limit_under_the_status_of_a_refused_key_is_waited_for(tmp_path: Path) -> None:
    answers = in_turn(http({"error": "rateLimitExceeded"}, 403, "Retry-After: 0\r\n"), http(WHOLE))
    with answering(answers) as url, client(endpoint(url, concurrency=1), tmp_path) as made:
        assert collect(made, rows(2)).ends == {"done": 2}


@pytest.mark.parametrize("words", ["The model has crashed without additional information.", "json_validate_failed"])
def test_a_fault_of_the_server_under_the_status_of_a_bad_request_is_tried_again(tmp_path: Path, words: str) -> None:
    answers = in_turn(http(WHOLE), http({"error": words}, 400), http(WHOLE))
    with answering(answers) as url, client(endpoint(url, concurrency=1), tmp_path) as made:
        assert collect(made, rows(5)).ends == {"done": 5}


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_a_404_in_nobodys_words_is_tried_again_once_the_endpoint_has_replied(tmp_path: Path, content: bytes) -> None:
    answers = in_turn(http(WHOLE), http(content, 404), http(WHOLE))
    with answering(answers) as url, client(endpoint(url, concurrency=1), tmp_path) as made:
        assert collect(made, rows(4)).ends == {"done": 4}
    with (
        answering(in_turn(http(content, 404), http(WHOLE))) as url,
        client(endpoint(url, concurrency=1), tmp_path / "first") as made,
        pytest.raises(RoleError, match="HTTP 404"),
    ):
        collect(made, rows(4))


EXPIRED = {"error": {"message": "The contract has ended."}}
LONG = {"error": {"message": "The prompt is too long."}}


def test_thirty_refusals_in_the_same_words_end_a_run_that_had_replies(tmp_path: Path) -> None:
    answers = in_turn(http(WHOLE), *[http(EXPIRED, 400)] * 29, http(WHOLE), http(EXPIRED, 400))
    with answering(answers) as url, client(endpoint(url, concurrency=1), tmp_path) as made:
        stream = made.stream(["e"], rows(200))
        with pytest.raises(RoleError, match="refused the last 30 requests, last: HTTP 400: The contract has ended"):
            ends = [type(reply) for _, reply in stream]  # noqa: F841
        assert made.endpoints["e"].rate._sent == 61


def test_any_number_of_prompts_in_a_row_may_be_too_long(tmp_path: Path) -> None:
    with (
        answering(in_turn(http(WHOLE), http(LONG, 400))) as url,
        client(endpoint(url, concurrency=1), tmp_path) as made,
    ):
        assert collect(made, rows(50)).ends == {"done": 1, "bad-request": 49}


@pytest.mark.parametrize("status", [408, 499, 504, 524])
def test_a_gateway_that_did_not_wait_for_the_reply_may_have_had_it_billed(tmp_path: Path, status: int) -> None:
    answers = in_turn(http(WHOLE), http(b"", status), http(WHOLE))
    with answering(answers) as url, client(endpoint(url, concurrency=1, **PRICES), tmp_path) as made:
        assert collect(made, rows(3)).ends == {"done": 3}
        assert made.budget.possible > 0


def test_a_request_that_meets_its_second_429_goes_behind_the_others(tmp_path: Path) -> None:
    limited = http({"error": "slowly"}, 429, "Retry-After: 0\r\n")
    with (
        answering(in_turn(http(WHOLE), limited, limited, http(WHOLE))) as url,
        client(endpoint(url, concurrency=1), tmp_path) as made,
    ):
        assert [*collect(made, rows(4)).replies] == [0, 2, 3, 1]


@pytest.mark.parametrize(
    ("status", "more", "said"),
    [
        (
            301,
            f"Location: {ELSEWHERE}?ticket=secret\r\n",
            f"HTTP 301: moved to {ELSEWHERE}, which base_url has to name",
        ),
        (503, "", "HTTP 503: Service Unavailable"),
    ],
)
def test_an_error_without_a_word_still_says_something(tmp_path: Path, status: int, more: str, said: str) -> None:
    with (
        answering(http(b"", status, more)) as url,
        client(endpoint(url), tmp_path) as made,
        pytest.raises(RoleError, match=said),
    ):
        collect(made, rows(20))


def test_a_key_that_may_not_list_the_models_may_still_be_used(tmp_path: Path) -> None:
    refused = {"error": "You have insufficient permissions. Missing scopes: api.model.read."}
    with answering(in_turn(http(refused, 403), http(WHOLE))) as url, client(endpoint(url), tmp_path) as made:
        check_reachable(made)
        assert collect(made, rows(2)).ends == {"done": 2}


@pytest.mark.parametrize("status", [b"", b'"status_code": 201, '], ids=["none", "201"])
@pytest.mark.parametrize("state", ["completed", "succeeded"])
def test_a_line_of_a_batch_with_a_reply_is_one_whatever_its_status(tmp_path: Path, status: bytes, state: str) -> None:
    with provider(SLOW, tmp_path) as made:
        made.ask(range(3))
        made.expire(worked_on=3)
        made.fake.batches["batch_1"].status = state
        ((name, content),) = [each for each in made.fake.files.items() if b'"status_code": 200, ' in each[1]]
        made.fake.files[name] = content.replace(b'"status_code": 200, ', status)
        found, ended = made.ask(range(3))
    assert (set(texts(found)), ended, made.lines) == ({0, 1, 2}, None, [3])


def test_the_pause_that_a_server_asks_for_beside_an_error_in_a_200_is_known(tmp_path: Path) -> None:
    said = http({"error": {"code": 429, "message": "slow down"}}, 200, "Retry-After: 7\r\n")
    with answering(said) as url, client(endpoint(url, **PRICES), tmp_path) as made:
        (one,) = made.endpoints.values()
        error = made.wait_for(one.call(Call(0.0, 0, 10), b"{}"))
    assert isinstance(error, CallError)
    assert (error.failure.kind, error.retry_after) == ("rate-limit", 7.0)
