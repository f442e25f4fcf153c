from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import tapir
from support.calling import PRICES, Outcome, answering, client, collect, endpoint, free_port, rows
from support.server import Behaviour, serving
from tapir.config.endpoints import EndpointConfig
from tapir.domain.completion import Completion
from tapir.domain.errors import RoleError
from tapir.models.api.batch import stream_batches
from tapir.models.api.connection import CallError, EndpointClient, _Response
from tapir.models.api.facts import check_reachable

PACKAGE = Path(tapir.__file__).parent
KEY = "sk-planted/0123456789+abcdefghijklmnop=="


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_KEY", KEY)


def secured(url: str) -> EndpointConfig:
    return endpoint(url, key="PLANTED_KEY", **PRICES)


def chain(error: BaseException | None) -> str:
    """All that a log or a terminal may show of an error and its causes: also the variables of our own functions."""
    if error is None:
        return ""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [frame for frame in told.stack if Path(frame.filename).is_relative_to(PACKAGE)]
    parts = ["".join(traceback.format_exception(error)), repr(error), repr(error.args), str(vars(error))]
    parts += [str(frame.locals) for frame in ours]
    return "\n".join([*parts, chain(error.__cause__), chain(error.__context__)])


def assert_clean(text: str, where: object) -> None:
    """Neither the key nor the half of it."""
    assert KEY not in text, where
    assert KEY[:20] not in text, where
    assert KEY[-20:] not in text, where


def assert_nothing_on_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            assert_clean(path.read_bytes().decode("latin-1"), path)


def echo(_messages: Sequence[Mapping[str, Any]], _body: Mapping[str, Any]) -> str:
    return f"Your key is {KEY}."


def test_the_key_is_sent_without_the_spaces_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_KEY", f" {KEY}\n")
    with (
        serving(Behaviour(latency=0.0, require_key=KEY, models=("m",))) as server,
        client(secured(server.url), tmp_path) as made,
    ):
        check_reachable(made)
        assert collect(made, rows(3)).ends == {"done": 3}


def test_the_key_is_in_no_representation_of_what_holds_it(tmp_path: Path) -> None:
    with serving(Behaviour(latency=0.0)) as server, client(secured(server.url), tmp_path) as made:
        collect(made, rows(3))
        parts = made.budget, made.retry, made.ledger, made.writing_ledger
        for thing in (made, made.endpoints["e"], made.endpoints["e"].config, *parts):
            assert_clean(repr(thing) + str(thing), thing)


def test_the_key_is_in_no_file_also_where_a_model_repeats_it(tmp_path: Path) -> None:
    with serving(Behaviour(latency=0.0), brain=echo) as server:
        with client(secured(server.url), tmp_path) as made:
            replies = collect(made, rows(20)).replies
            exported = [*made.ledger.export()]
        assert_clean(repr(replies), "replies")
        assert_clean(repr(exported), "export")
        assert isinstance(replies[0], Completion)
        assert replies[0].text == "Your key is [key]."
        assert_nothing_on_disk(tmp_path)


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(latency=0.0, echo_key=True, status_for_all=400),
        Behaviour(latency=0.0, echo_key=True, status_for_all=401),
        Behaviour(latency=0.0, echo_key=True, status_for_all=404),
        Behaviour(latency=0.0, echo_key=True, status_for_all=500),
        Behaviour(latency=0.0, echo_key=True, dead=502),
        Behaviour(latency=0.0, echo_key=True, require_key="another"),
        Behaviour(latency=0.0, echo_key=True, error_share=1.0),
    ],
    ids=["400", "401", "404", "500", "page", "wrong key", "errors"],
)
def test_a_server_that_repeats_the_key_in_its_errors_does_not_spread_it(
    tmp_path: Path, behaviour: Behaviour, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(behaviour) as server, client(secured(server.url), tmp_path) as made:
        outcome = Outcome()
        with pytest.raises(RoleError) as caught:
            outcome.take(made.stream(["e"], rows(100)))
        assert "[key]" in str(caught.value) or behaviour.dead
        assert_clean(str(caught.value) + caught.value.remedy, "message")
        assert_clean(chain(caught.value), "traceback")
        assert_clean(repr(outcome), "failures")
    assert_clean(caplog.text + "".join(capfd.readouterr()), "log")
    assert_nothing_on_disk(tmp_path)


@pytest.mark.parametrize("before", range(150, 320, 17))
def test_a_key_at_the_edge_of_what_is_shown_is_not_shown_in_part(before: int) -> None:
    connection = EndpointClient("e", secured("http://localhost"))
    content = b"x" * before + f"Bearer {KEY} was sent".encode()
    for status in (200, 400, 401, 429, 500):
        trouble = connection._read_completion(_Response(status, {}, connection.redact_bytes(content)), b"{}")
        assert_clean(repr(trouble), trouble)
    assert_clean(connection.redact(content.decode()), "redacted")
    assert_clean(repr(connection.fatal), connection.fatal)


def test_a_key_that_json_or_an_address_spells_in_another_way_is_not_shown_either() -> None:
    connection = EndpointClient("e", secured("http://localhost"))
    spellings = [KEY, KEY.replace("/", "\\/"), "sk-planted%2F0123456789%2Babcdefghijklmnop%3D%3D"]
    for one in spellings:
        for content in (f'{{"error": {{"message": "{one}"}}}}'.encode(), f"<p>{one}</p>".encode()):
            trouble = connection._read_completion(_Response(500, {}, connection.redact_bytes(content)), b"{}")
            assert "abcdefghijklmnop" not in repr(trouble)
            assert "[key]" in repr(trouble)


@pytest.mark.parametrize(
    "content",
    [
        f"HTTP/1.1 200 Fine\r\nContent-Length: {KEY}\r\n\r\n",
        f"HTTP/1.1 {KEY}\r\n\r\n",
        f"{KEY}\r\n\r\n",
        f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/{KEY}\r\nContent-Length: 0\r\n\r\n",
        f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(KEY)}\r\n\r\n{KEY}",
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n",
    ],
    ids=["length", "status", "no http", "redirect", "gzip", "chunks"],
)
def test_a_server_that_speaks_no_proper_http_does_not_spread_the_key(tmp_path: Path, content: str) -> None:
    with answering(content.encode()) as url, client(secured(url), tmp_path) as made:
        with pytest.raises(RoleError) as caught:
            collect(made, rows(40))
        assert_clean(str(caught.value), "message")
        assert_clean(chain(caught.value), "traceback")


def test_an_unreachable_server_is_reported_without_the_key(tmp_path: Path) -> None:
    with client(secured(f"http://127.0.0.1:{free_port()}/v1"), tmp_path) as made:
        with pytest.raises(RoleError) as caught:
            check_reachable(made)
        assert_clean(chain(caught.value), "traceback")
        with pytest.raises(RoleError) as caught:
            collect(made, rows(40))
        assert_clean(chain(caught.value), "traceback")


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_at_the_start_stops_the_run_before_any_call_and_is_not_named(
    tmp_path: Path, status: int
) -> None:
    behaviour = Behaviour(latency=0.0, echo_key=True, status_for_all=status)
    with serving(behaviour) as server, client(secured(server.url), tmp_path) as made:
        with pytest.raises(RoleError, match=f"HTTP {status}") as caught:
            check_reachable(made)
        assert server.stats().requests == 0
    assert_clean(chain(caught.value), "traceback")
    assert "PLANTED_KEY" in caught.value.remedy


def test_an_unforeseen_error_is_reported_without_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_args: object, **more: Any) -> None:
        raise ArithmeticError(f"with {more}")

    monkeypatch.setattr(aiohttp.ClientSession, "_request", broken)
    with serving(Behaviour(latency=0.0)) as server, client(secured(server.url), tmp_path) as made:
        with pytest.raises(RoleError, match="unknown way") as caught:
            collect(made, rows(2))
        assert "[key]" in str(caught.value)
        assert_clean(str(caught.value), "message")


@pytest.mark.parametrize("value", ["", "  ", "sk-line\nbreak", "sk-ünïcode", "sk-\x00null"])
def test_an_invalid_key_is_refused_and_its_value_not_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    if "\x00" in value:
        monkeypatch.setattr("os.environ", {"PLANTED_KEY": value})
    else:
        monkeypatch.setenv("PLANTED_KEY", value)
    with pytest.raises(RoleError, match="PLANTED_KEY") as caught:
        EndpointClient("e", secured("http://localhost"))
    assert "sk-" not in str(caught.value) + caught.value.remedy


@pytest.mark.parametrize("key", ["1", "test", "EMPTY", "token"])
def test_a_short_key_is_a_word_of_a_reply_and_no_word_of_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("PLANTED_KEY", key)
    behaviour = Behaviour(latency=0.0, require_key=key, echo_key=True, batch_seconds=0.0, models=("m", f"m-{key}"))
    text = f"Write a test with 1 token; {key} is EMPTY."
    with serving(behaviour, brain=lambda *_: text) as server, client(secured(server.url), tmp_path) as made:
        check_reachable(made)
        replies = [*collect(made, rows(3)).replies.values()]
        batched = secured(server.url).model_copy(update={"batch": True})
        with client(batched, tmp_path / "batch") as other:
            replies += dict(stream_batches(other, "e", rows(3), (0.0,) * 2)).values()
        assert {one.text for one in replies if isinstance(one, Completion)} == {text}
        assert len(replies) == 6
        server.set(status_for_all=400)
        outcome = collect(made, rows(3, 9))
    assert all(f"Bearer {key}" not in one.message for one in outcome.failures.values())
    assert all("you sent: Bearer [key]" in one.message for one in outcome.failures.values())
    strange = made.endpoints["e"]._read_completion(_Response(200, {}, f"<p>{key}</p>".encode()), b"{}")
    assert isinstance(strange, CallError)
    assert "<p>[key]</p>" in strange.failure.message


def test_half_a_character_in_an_error_is_a_question_mark() -> None:
    said = {"error": {"message": "no \ud83d", "metadata": {"raw": "why \ud83d"}}}
    connection = EndpointClient("e", secured("http://localhost"))
    trouble = connection._read_completion(_Response(401, {}, json.dumps(said).encode()), b"{}")
    assert isinstance(trouble, CallError)
    assert trouble.failure.message == "HTTP 401: no ?: why ?"
    assert "no ?: why ?" in str(connection.fatal)


def test_an_endpoint_without_a_key_sends_none_and_replaces_nothing() -> None:
    connection = EndpointClient("e", endpoint())
    assert "Authorization" not in connection._headers
    assert connection.redact("anything") == "anything"
    assert "key in" not in json.dumps(connection._unusable("so").remedy)
