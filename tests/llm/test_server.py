from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fake_openai import tokens
from tests.fake_openai.behaviour import REASONING, as_options
from tests.fake_openai.brain import Message
from tests.fake_openai.completions import Luck
from tests.fake_openai.limit import Window, retry_after
from tests.server import Behaviour, Server, serving

QUICK = Behaviour(latency=0.0, batch_seconds=0.0)
CHAT = "/chat/completions"


@dataclass(frozen=True)
class Got:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return str(self.json["choices"][0]["message"]["content"])


def call(
    server: Server, method: str, path: str, body: bytes | None = None, *, key: str = "", timeout: float = 20.0
) -> Got:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "multipart/form-data; boundary=edge"}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request(method, f"/v1{path}", body, headers)
        with connection.getresponse() as response:
            return Got(response.status, response.headers, response.read())


def asking(content: str, **more: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **more}).encode()


def ask(server: Server, content: str, **more: Any) -> Got:
    return call(server, "POST", CHAT, asking(content, **more))


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with serving(QUICK, thread=True) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    """The one server of these tests, as new."""
    shared.set(**{name: getattr(QUICK, name) for name in Behaviour.__dataclass_fields__})
    shared.reset()
    return shared


# Replies


def test_a_reply_is_a_chat_completion_whose_usage_follows_the_rule(server: Server) -> None:
    got = ask(server, "Name three colours.")
    usage = got.json["usage"]
    assert got.json["choices"][0]["finish_reason"] == "stop"
    assert usage["prompt_tokens"] == len(["Name", "three", "colour", "s", "."]) + tokens.PER_MESSAGE
    assert usage["completion_tokens"] == tokens.count(got.text)
    assert 30 <= len(got.text.split()) <= 150
    stats = server.stats()
    assert (stats.prompt_tokens, stats.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])


def test_the_likeliest_alternatives_of_a_score_are_its_neighbours(server: Server) -> None:
    got = ask(
        server,
        "Judge. <score>N</score> <answer>Some answer that is long enough.</answer>",
        logprobs=True,
        top_logprobs=3,
    )
    content = got.json["choices"][0]["logprobs"]["content"]
    assert "".join(one["token"] for one in content) == got.text
    score = next(one for one in reversed(content) if one["token"].isdecimal())
    assert score["top_logprobs"][0]["token"] == score["token"]
    assert all(abs(int(other["token"]) - int(score["token"])) <= 2 for other in score["top_logprobs"])


def test_equal_requests_get_equal_replies_and_count_as_repeats(server: Server) -> None:
    first = ask(server, "One", temperature=0.5)
    body = {"temperature": 0.5, "messages": [{"content": "One", "role": "user"}], "model": "m"}
    second = call(server, "POST", CHAT, json.dumps(body).encode())
    ask(server, "Two")
    stats = server.stats()
    assert first.text == second.text
    assert (stats.requests, stats.distinct, stats.repeats) == (3, 2, 1)
    assert 0 < stats.first_request <= stats.last_request


def test_a_reply_is_no_longer_than_was_asked_for(server: Server) -> None:
    got = ask(server, "Talk", max_tokens=7)
    assert got.json["choices"][0]["finish_reason"] == "length"
    assert got.json["usage"]["completion_tokens"] == 7


def test_a_share_of_the_replies_is_cut_to_half(server: Server) -> None:
    whole = ask(server, "Talk").text
    server.set(finish_length_share=1.0)
    got = ask(server, "Talk")
    assert got.json["choices"][0]["finish_reason"] == "length"
    assert got.text == whole[: len(whole) // 2]


@pytest.mark.parametrize("place", REASONING)
def test_thoughts_come_where_they_are_asked_for(server: Server, place: str) -> None:
    server.set(reasoning=place)
    message = ask(server, "Think").json["choices"][0]["message"]
    assert ("reasoning" in message, "reasoning_content" in message) == (
        place == "reasoning",
        place == "reasoning_content",
    )
    assert message["content"].startswith("<think>") == (place == "inline")


def test_a_brain_of_ones_own_sees_messages_and_body() -> None:
    def echo(messages: list[Message], body: dict[str, Any]) -> str:
        return f"{messages[-1]['content']} {body['model']}"

    with serving(QUICK, thread=True, brain=echo) as server:
        assert ask(server, "hello").text == "hello m"


# Faults


def test_a_retried_request_gets_fresh_luck(server: Server) -> None:
    server.set(error_share=0.5)
    first = [ask(server, "Again").status for _ in range(12)]
    server.reset()
    assert set(first) == {200, 500}
    assert [ask(server, "Again").status for _ in range(12)] == first


def test_faults_come_in_their_shares() -> None:
    behaviour = Behaviour(error_share=0.1, hang_share=0.2, cut_share=0.3, nonsense_share=0.4)
    kinds = [Luck(0, number.to_bytes(4, "big"), 1).fault_of(behaviour) for number in range(2000)]
    assert [round(kinds.count(kind) / 2000, 1) for kind in ("error", "hang", "cut", "nonsense")] == [0.1, 0.2, 0.3, 0.4]


def test_shares_of_faults_that_exceed_one_are_refused() -> None:
    with pytest.raises(ValueError, match="partition"):
        Behaviour(error_share=0.6, cut_share=0.6)


def test_a_cut_reply_ends_early_or_is_half_a_json(server: Server) -> None:
    server.set(cut_share=1.0)
    kinds = set()
    for number in range(12):
        try:
            with pytest.raises(ValueError, match=r"line|column"):
                _ = ask(server, f"Cut {number}").json
            kinds.add("half a JSON")
        except http.client.IncompleteRead:
            kinds.add("ends early")
    assert kinds == {"half a JSON", "ends early"}
    assert server.stats().completion_tokens == 0


def test_nonsense_is_no_chat_completion(server: Server) -> None:
    server.set(nonsense_share=1.0)
    bodies = set()
    for number in range(20):
        got = ask(server, f"Nonsense {number}")
        bodies.add(got.body)
        assert got.status == 200
        with pytest.raises((ValueError, LookupError, TypeError)):
            len(got.json["choices"][0]["message"]["content"])
    assert len(bodies) > 3


def test_a_hanging_request_ends_with_its_client(server: Server) -> None:
    server.set(hang_share=1.0)
    with pytest.raises(TimeoutError):
        call(server, "POST", CHAT, asking("Hang"), timeout=0.1)
    server.set(hang_share=0.0)
    ask(server, "Wake up")
    assert server.stats().in_flight == 0
    assert server.stats().by_status == {"left": 1, "200": 1}


def test_a_dead_server_answers_every_call_with_its_status_but_obeys(server: Server) -> None:
    server.set(dead=503)
    assert {ask(server, "Hello").status, call(server, "GET", "/models").status} == {503}
    server.set(dead=0, status_for_all=403)
    assert ask(server, "Hello").json["error"]["type"] == "permission_error"
    server.set(status_for_all=0, refuse=True)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        ask(server, "Hello")
    server.set(refuse=False)
    assert ask(server, "Hello").status == 200
    assert server.stats().by_status == {"503": 1, "403": 1, "left": 1, "200": 1}


# Refusals and limits


def test_another_key_is_refused_and_none_is_repeated(server: Server) -> None:
    server.set(require_key="right")
    assert call(server, "POST", CHAT, asking("Hello"), key="right").status == 200
    got = call(server, "POST", CHAT, asking("Hello"), key="wrong")
    assert got.status == 401
    assert b"wrong" not in got.body + str(got.headers).encode()


@pytest.mark.parametrize("trouble", [{"require_key": "right"}, {"error_share": 1.0}, {"dead": 502}, {"models": ["x"]}])
def test_a_careless_server_repeats_the_key_in_its_errors(server: Server, trouble: dict[str, Any]) -> None:
    server.set(echo_key=True, **trouble)
    got = call(server, "POST", CHAT, asking("Hello"), key="secret")
    assert got.status >= 400
    assert b"secret" in got.body


def test_too_long_a_prompt_is_refused(server: Server) -> None:
    server.set(context_limit=50)
    assert ask(server, "word " * 46).status == 200
    got = ask(server, "word " * 47)
    assert (got.status, got.json["error"]["code"]) == (400, "context_length_exceeded")


def test_a_server_without_json_schema_says_so(server: Server) -> None:
    server.set(supports_json_schema=False)
    assert ask(server, "Hello", response_format={"type": "json_object"}).status == 400
    assert ask(server, "Hello").status == 200


def test_an_unknown_model_is_refused_once_models_are_named(server: Server) -> None:
    server.set(models=["a", "b"])
    assert [one["id"] for one in call(server, "GET", "/models").json["data"]] == ["a", "b"]
    assert (ask(server, "Hello").status, ask(server, "Hello", model="b").status) == (404, 200)


def test_requests_above_the_rate_are_refused_and_told_when_to_return(server: Server) -> None:
    server.set(rate_limit=3, rate_window=60.0, retry_after="integer")
    got = [ask(server, f"Number {number}") for number in range(5)]
    assert [one.status for one in got] == [200, 200, 200, 429, 429]
    assert 55 <= int(got[-1].headers["Retry-After"]) <= 60
    server.set(retry_after="none")
    assert "Retry-After" not in ask(server, "One more").headers


def test_a_fixed_window_begins_with_the_first_request_and_a_sliding_one_never_ends() -> None:
    fixed, sliding = Window(), Window()
    times = (10.0, 10.9, 10.95, 11.0, 11.1)
    assert [fixed.wait(now, 2, 1.0, sliding=False) > 0 for now in times] == [False, False, True, False, False]
    assert [sliding.wait(now, 2, 1.0, sliding=True) > 0 for now in times] == [False, False, True, False, True]


def test_the_wait_can_be_told_in_three_ways() -> None:
    assert retry_after(1.25, "float") == "Retry-After: 1.250\r\n"
    assert retry_after(1.25, "integer") == "Retry-After: 2\r\n"
    assert retry_after(1.25, "date").endswith(" GMT\r\n")


# Batches


def upload(server: Server, lines: list[str], purpose: str = "batch") -> Got:
    content = "\n".join(lines)
    form = (
        f'--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n'
        '--edge\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n{content}\r\n--edge--\r\n"
    )
    return call(server, "POST", "/files", form.encode())


def line(custom_id: str, content: str) -> str:
    body = json.loads(asking(content))
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})


def begin(server: Server, lines: list[str]) -> Any:
    asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": {"run": "x"}}
    asked["input_file_id"] = upload(server, lines).json["id"]
    return call(server, "POST", "/batches", json.dumps(asked).encode()).json


def results(server: Server, file_id: str | None) -> dict[str, Any]:
    if file_id is None:
        return {}
    lines = call(server, "GET", f"/files/{file_id}/content").body.decode().splitlines()
    return {one["custom_id"]: one for one in map(json.loads, lines)}


def test_a_batch_answers_each_line_as_a_call_would(server: Server) -> None:
    batch = begin(server, [line(f"id-{number}", f"Number {number}") for number in range(5)])
    assert (batch["status"], batch["metadata"]) == ("validating", {"run": "x"})
    done = call(server, "GET", f"/batches/{batch['id']}").json
    assert (done["status"], done["error_file_id"]) == ("completed", None)
    assert done["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
    found = results(server, done["output_file_id"])
    assert found["id-3"]["response"]["status_code"] == 200
    usage = ask(server, "Number 3").json["usage"]
    assert found["id-3"]["response"]["body"]["usage"] == usage
    assert (server.stats().batch_lines, server.stats().repeats) == (5, 1)


def test_the_errors_of_a_batch_stand_in_a_file_of_their_own(server: Server) -> None:
    server.set(error_share=0.4, hang_share=0.2)
    batch = begin(server, [line(str(number), f"Number {number}") for number in range(40)])
    done = call(server, "GET", f"/batches/{batch['id']}").json
    good, bad = results(server, done["output_file_id"]), results(server, done["error_file_id"])
    assert sorted([*good, *bad], key=int) == [str(number) for number in range(40)]
    assert {one["response"]["status_code"] for one in bad.values() if one["response"]} == {500}
    assert {one["error"]["code"] for one in bad.values() if one["error"]} == {"batch_expired"}


def test_a_batch_takes_its_time_and_can_be_cancelled(server: Server) -> None:
    server.set(batch_seconds=3600.0)
    batch = begin(server, [line("a", "A")])
    assert call(server, "GET", f"/batches/{batch['id']}").json["status"] == "validating"
    assert call(server, "POST", f"/batches/{batch['id']}/cancel").json["status"] == "cancelling"
    assert call(server, "GET", f"/batches/{batch['id']}").json["status"] == "cancelled"


@pytest.mark.parametrize("lines", [["no JSON"], [line("a", "A"), line("a", "B")], [""], ['{"custom_id": "a"}']])
def test_a_batch_with_a_bad_line_fails(server: Server, lines: list[str]) -> None:
    batch = begin(server, lines)
    assert batch["status"] == "failed"
    assert batch["errors"]["data"]


def test_what_is_not_there_is_not_found(server: Server) -> None:
    for path in ("/batches/batch_99999", "/files/file-99999/content", "/files", "/elsewhere"):
        assert call(server, "GET", path).status == 404
    assert upload(server, ["{}"], purpose="fine-tune").status == 400


# Running


def test_many_requests_are_in_flight_at_once(server: Server) -> None:
    server.set(latency=0.5)

    async def ask_all() -> list[int]:
        async def one(session: aiohttp.ClientSession, number: int) -> int:
            async with session.post(server.url + CHAT, data=asking(f"Number {number}")) as response:
                assert tokens.count((await response.json())["choices"][0]["message"]["content"])
                return response.status

        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*(one(session, number) for number in range(40)))

    assert asyncio.run(ask_all()) == [200] * 40
    assert server.stats().in_flight_max > 20


def test_an_unknown_setting_is_refused_by_name(server: Server) -> None:
    with pytest.raises(ValueError, match="latencyy"):
        server.set(latencyy=1.0)
    with pytest.raises(ValueError, match="latency is 'fast'"):
        server.set(latency="fast")


def test_a_server_of_its_own_process_takes_its_behaviour_along() -> None:
    with serving(Behaviour(latency=0.0, models=("a",), retry_after="date", echo_key=True)) as server:
        assert [one["id"] for one in call(server, "GET", "/models").json["data"]] == ["a"]
        assert ask(server, "Hello", model="a").status == 200
    with pytest.raises(ConnectionRefusedError):
        server.stats()


def test_a_server_ends_with_its_parent() -> None:
    command = [sys.executable, "-m", "tests.server", "--until-stdin-closes", *as_options(QUICK)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["port"] > 0
        process.stdin.close()
        assert process.wait(30) == 0
        assert process.stdout.read() == ""
