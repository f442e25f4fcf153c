"""Streams, calls that hang, and pauses: what is waited for, what is sent twice, and what is said about it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from support.calling import PRICES, asking, client, collect, endpoint, rows
from support.fake_replies import BROKEN, STREAMS
from support.scripted import Watcher
from support.server import Behaviour, serving
from tapir.data.run.store import RunStore
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.errors import Interrupted, RoleError
from tapir.domain.progress import duration
from tapir.models.api import client as client_module
from tapir.models.api import limits, scheduler
from tapir.models.api.connection import CallError, EndpointClient
from tapir.models.api.pauses import PauseReport
from tapir.models.api.scheduler import QueuedRequest, Scheduler
from tapir.models.api.session import ApiSession
from tapir.runs.progress import EventLog

QUICK = Behaviour(latency=0.0)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are slow, and looked at, after hundredths of a second."""
    monkeypatch.setattr(limits, "_SHORTEST", 0.05)
    monkeypatch.setattr(scheduler, "_POLL", 0.02)


# Streams


@pytest.mark.parametrize("odd", STREAMS)
def test_a_streamed_reply_is_the_reply(tmp_path: Path, odd: str) -> None:
    found = []
    for stream in (False, True):
        with serving(replace(QUICK, odd=odd)) as server:
            paid = endpoint(server.url, stream=stream, **PRICES)
            with client(paid, tmp_path / str(stream)) as made:
                replies = collect(made, rows(20)).replies
            stats = server.stats()
        assert made.budget.usage == Usage(stats.prompt_tokens, stats.completion_tokens)
        found.append(replies)
    assert found[0] == found[1]
    assert all(isinstance(one, Completion) and one.text for one in found[0].values())


@pytest.mark.parametrize(("odd", "kind"), BROKEN.items())
def test_the_tokens_of_a_stream_that_ends_in_the_middle_are_charged(tmp_path: Path, odd: str, kind: str) -> None:
    with serving(replace(QUICK, odd=odd)) as server:
        paid = endpoint(server.url, stream=True, idle_timeout=0.1, **PRICES)
        with client(paid, tmp_path) as made:
            outcome = collect(made, rows(1))
        stats = server.stats()
    assert (outcome.ends, stats.requests) == ({kind: 1}, 6)
    assert made.budget.usage == Usage(stats.prompt_tokens, stats.completion_tokens)
    assert stats.completion_tokens > 60
    assert made.budget.possible == 0


# Calls that hang


@pytest.mark.usefixtures("hasty")
def test_hung_calls_are_raced_where_a_call_is_free(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.01, hang_share=0.02)) as server,
        client(endpoint(server.url, concurrency=16), tmp_path) as made,
    ):
        began = time.monotonic()
        assert collect(made, rows(600)).ends == {"done": 600}
        races, stats = made.endpoints["e"].races, server.stats()
    assert stats.faults["hang"] > 5
    assert 1 <= races.copies <= 0.02 * races.calls + 1
    assert stats.requests - 600 <= stats.faults["hang"] + races.copies
    assert time.monotonic() - began < 30  # no call was waited for until its timeout of ten minutes


def give_up_the_first(stream: Scheduler) -> None:
    task, flight = next(iter(stream._in_flight.items()))
    flight.given_up = task.cancel()


def look_for_slow_calls(stream: Scheduler) -> None:
    stream._looked = 0.0
    asyncio.get_running_loop().call_soon(stream._start_calls)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("copies", "also"),
    [(2, lambda _: None), (2, give_up_the_first), (1, look_for_slow_calls)],
    ids=["both cut", "one given up", "cut when it is to be raced"],
)
def test_a_call_whose_copies_end_in_one_moment_is_sent_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: int, also: Callable[[Scheduler], None]
) -> None:
    reply, sent = Completion("Yes.", "stop", Usage(9, 2), "m"), 0
    with client(endpoint(), tmp_path) as made:
        shared = made.writing_ledger, made._writer, made.budget, made.retry, made.stopping
        scheduler, gone = Scheduler([made.endpoints["e"]], *shared), asyncio.Event()
        races = made.endpoints["e"].races

        async def call(*_: object, **__: object) -> Completion | CallError:
            nonlocal sent
            sent += 1
            if sent > copies:
                return reply
            if sent == copies:
                asyncio.get_running_loop().call_soon(die)
            await gone.wait()
            return CallError(Failure("cut", "the server is gone"))

        def die() -> None:
            gone.set()
            also(scheduler)

        monkeypatch.setattr(EndpointClient, "call", call)
        races.slow = races.longest = 0.0
        ((_, request),) = made.prepare(scheduler.endpoints, [(0, asking("Really?"))])
        assert isinstance(request, QueuedRequest)
        found = made.wait_for(asyncio.wait_for(scheduler.advance([request]), 10))
        made.wait_for(scheduler.close())
    assert found == [(request.digests[0], reply)]
    assert (sent, races.copies, request.attempts) == (copies + 1, copies - 1, 1)


@pytest.mark.usefixtures("hasty")
def test_no_call_is_raced_while_its_server_asks_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EndpointClient, "takes_calls", lambda *_: False)
    with (
        serving(Behaviour(latency=0.01, hang_share=0.05)) as server,
        client(endpoint(server.url, concurrency=16, timeout=1.0), tmp_path) as made,
    ):
        assert collect(made, rows(100)).ends == {"done": 100}
        assert server.stats().faults["hang"]
        assert made.endpoints["e"].races.copies == 0


def test_a_call_may_be_raced_where_its_server_works_and_does_not_ask_to_wait() -> None:
    made = EndpointClient("e", endpoint())
    assert made.takes_calls(0.0)
    made.rate.paused_until = 5.0
    assert not made.takes_calls(0.0)
    assert made.takes_calls(6.0)
    made.fatal = RoleError("gone")
    assert not made.takes_calls(6.0)


@pytest.mark.usefixtures("hasty")
def test_a_slow_call_with_a_price_is_sent_once_and_waited_for(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.02, sigma=1.3)) as server,
        client(endpoint(server.url, concurrency=16, **PRICES), tmp_path) as made,
    ):
        assert collect(made, rows(300)).ends == {"done": 300}
        assert made.endpoints["e"].races.copies == 0
        stats = server.stats()
    assert (stats.requests, stats.by_status["left"]) == (300, 0)


@pytest.mark.usefixtures("hasty")
def test_a_hung_call_with_a_price_is_given_up_at_its_timeout_only(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.01, hang_share=0.04)) as server,
        client(endpoint(server.url, concurrency=16, timeout=0.6, **PRICES), tmp_path) as made,
    ):
        began = time.monotonic()
        assert collect(made, rows(100)).ends == {"done": 100}
        assert sum(one.calls for one in made.ledger.spent(possibly=True)) == server.stats().faults["hang"]
        stats = server.stats()
    assert stats.requests - 100 == stats.faults["hang"] > 0
    assert time.monotonic() - began > 0.6


# Pauses


@dataclass
class Patience(Watcher):
    """Stops a little after the first note."""

    until: float = 0.0

    def note(self, text: str) -> None:
        super().note(text)
        self.until = self.until or time.monotonic() + 0.3

    @property
    def stopping(self) -> bool:
        return 0 < self.until < time.monotonic()


def test_a_pause_that_a_server_asks_for_is_said_once_with_its_end_and_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_LOOK", 0.02)
    watcher = Patience()
    with serving(replace(QUICK, odd="long-retry")) as server:
        calls = ApiSession({"e": endpoint(server.url, "fake")}, pause_factor=0.02)
        calls.open(tmp_path, "run", EventLog(watcher, RunStore(tmp_path)))
        with pytest.raises(Interrupted):
            dict(calls.stream(("e",), rows(20)))
        calls.close()
        server.set(odd="")
        with client(endpoint(server.url, "fake"), tmp_path) as made:
            assert collect(made, rows(20)).ends == {"done": 20}
        assert (server.stats().by_status["200"], made.budget.reused) == (20, 5)
    (line,) = watcher.notes
    assert line.startswith("endpoints.e: paused until ")
    assert "(1 h 12 min): HTTP 429: Rate limit reached on tokens per day (TPD)" in line
    events = [json.loads(event) for event in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["text"] for event in events] == [line]


def said(report: PauseReport, now: float, in_flight: int = 1) -> list[str]:
    return [line.removeprefix("endpoints.e: ") for line in report.lines(now, in_flight)]


def test_a_pause_is_said_again_where_its_cause_or_its_end_is_another_and_so_is_its_end() -> None:
    report = PauseReport("e")
    report.record_call(100.0, 0)
    report.record_error("HTTP 429: slowly", 120.0)
    assert said(report, 101.0) == []  # twenty seconds are no pause
    report.record_error("HTTP 429: slowly", 161.0)
    (line,) = said(report, 101.0)
    assert re.fullmatch(r"paused until [0-9: -]+ \(1 min 0 s\): HTTP 429: slowly", line)
    report.record_error("HTTP 429: slowly", 162.0)  # another call in flight meets the same
    assert said(report, 102.0) == []
    report.record_error("HTTP 429: a day", 4_000.0)
    assert [one.endswith(": HTTP 429: a day") for one in said(report, 103.0)] == [True]
    report.record_error("HTTP 429: a day", 9_000.0)
    assert [one.endswith("(1 h 23 min): HTTP 429: a day") for one in said(report, 4_001.0)] == [True]
    report.record_reply(9_010.0, 1.0)
    assert said(report, 9_010.5) == ["goes on after 2 h 28 min"]
    assert said(report, 9_011.0) == []


def test_silence_is_said_once_it_is_longer_than_half_a_minute_and_than_three_times_the_slowest_reply() -> None:
    report = PauseReport("e")
    report.record_call(0.0, 0)
    report.record_reply(20.0, 20.0)
    assert said(report, 79.0, 5) == []
    assert said(report, 81.0, 5) == ["no reply for 1 min 1 s; 5 calls in flight, the slowest so far took 20 s"]
    assert said(report, 500.0, 5) == []
    assert said(report, 900.0, 0) == []  # nothing is waited for
    report.record_error("no connection within 30 s", 0.0)
    report.record_reply(990.0, 1.0)
    report.record_error("HTTP 503: away", 0.0)
    assert said(report, 1_019.0, 0) == ["goes on after 16 min 10 s"]
    assert said(report, 1_021.0, 0) == ["no reply for 31 s: HTTP 503: away"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(31.4, "31 s"), (60, "1 min 0 s"), (3_599.6, "1 h 0 min"), (90_000, "25 h 0 min")]
)
def test_a_duration_is_said_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
