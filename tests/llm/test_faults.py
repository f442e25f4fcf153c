from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir.errors import RoleError
from tapir.llm import lane as lane_module
from tapir.llm.endpoint import Endpoint
from tapir.llm.lane import Lane, Trouble, _retry_after
from tapir.llm.limits import FIRST
from tapir.llm.wire import Request
from tests.llm.calling import Outcome, answering, asking, collect, engine, rows
from tests.server import Behaviour, serving

QUICK = Behaviour(latency=0.01)
FAULTS = Behaviour(latency=0.02, error_share=0.05, hang_share=0.02, cut_share=0.02, nonsense_share=0.01)


# Faults of single calls


def test_with_many_kinds_of_faults_every_row_ends_done_or_failed_with_a_reason(tmp_path: Path) -> None:
    with serving(FAULTS) as server, engine(Endpoint("e", server.url, "m", concurrency=128), tmp_path) as made:
        outcome = collect(made, rows(2000))
        stats = server.stats()
    assert set(outcome.replies) == set(range(2000))
    assert min(stats.faults[kind] for kind in ("error", "hang", "cut", "nonsense")) > 10
    assert all(one.kind and one.message and one.attempts == 6 for one in outcome.failures.values())
    assert outcome.ends["done"] >= 1998
    assert stats.requests <= 1.15 * 2000


def test_a_hung_call_is_given_up_by_what_the_others_took(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.02, hang_share=0.02)) as server,
        engine(Endpoint("e", server.url, "m", concurrency=32, timeout=300.0), tmp_path) as made,
    ):
        began = time.monotonic()
        assert collect(made, rows(600)).ends == {"done": 600}
        assert server.stats().faults["hang"] >= 5
        assert time.monotonic() - began < 60  # of the 300 s that each might take


def test_the_last_call_of_a_stage_may_hang_too(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.02)) as server,
        engine(Endpoint("e", server.url, "m", concurrency=8, timeout=300.0), tmp_path) as made,
    ):

        def asked() -> Iterator[tuple[int, Request]]:
            for key, request in rows(100):
                if key == 85:
                    server.set(hang_share=0.5)
                yield key, request

        outcome = collect(made, asked())
        assert server.stats().faults["hang"] > 0
    assert outcome.ends == {"done": 100}


@pytest.mark.parametrize(("said", "seconds"), [("2.5", 2.5), ("3", 3.0), ("0", 0.0), ("-1", 0.0), ("soon", None)])
def test_the_wait_that_a_server_asks_for_is_read(said: str, seconds: float | None) -> None:
    assert _retry_after({"retry-after": said}) == seconds


def test_the_wait_may_be_in_milliseconds_or_a_date() -> None:
    assert _retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert _retry_after({"retry-after-ms": "soon", "retry-after": "9"}) == 9.0
    assert _retry_after({}) is None
    assert _retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    dated = {"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert _retry_after(dated) == 30.0
    assert _retry_after({"retry-after": "Wed, 99 Oct 2015 07:28:30 GMT"}) is None
    assert _retry_after({"retry-after": "nan"}) is None
    assert _retry_after({"retry-after": "inf"}) is None


def test_a_503_with_a_wait_pauses_the_lane(tmp_path: Path) -> None:
    said = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 77\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with answering(said) as url, engine(Endpoint("e", url, "m", concurrency=1), tmp_path) as made:
        lane = made.lane("e")

        async def once() -> tuple[object, float]:
            now = time.monotonic()
            ticket = lane.take(now, 10)
            outcome = await lane.call(ticket, b"{}", 0)
            lane.release()
            return outcome, lane.wait(time.monotonic())

        outcome, wait = made.wait_for(once())
    assert isinstance(outcome, Trouble)
    assert (outcome.failure.kind, outcome.again, outcome.wait) == ("server", True, 77.0)
    assert 70 < wait <= 77


# Requests that are refused


def test_a_request_that_is_too_long_fails_alone(tmp_path: Path) -> None:
    requests = dict(rows(200))
    for key in (3, 50, 51, 120):
        requests[key] = asking(f"{key} " + "long " * 400)
    with (
        serving(Behaviour(latency=0.0, context_limit=100)) as server,
        engine(Endpoint("e", server.url, "m"), tmp_path) as made,
    ):
        outcome = collect(made, requests.items())
        assert server.stats().requests == 200
    assert outcome.ends == {"done": 196, "bad-request": 4}
    assert set(outcome.failures) == {3, 50, 51, 120}
    assert all("maximum context length" in one.message for one in outcome.failures.values())
    assert {one.attempts for one in outcome.failures.values()} == {1}


def test_ten_refusals_and_no_reply_stop_the_run(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.0, status_for_all=400)) as server,
        engine(Endpoint("e", server.url, "m"), tmp_path) as made,
    ):
        with pytest.raises(RoleError, match=r"refused the first 10 requests.*every call is refused") as caught:
            collect(made, rows(1000))
        assert server.stats().requests <= 10 + FIRST
    assert "extra fields" in caught.value.remedy


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_key_or_a_model_that_is_refused_stops_the_run_with_the_first_calls(tmp_path: Path, status: int) -> None:
    with (
        serving(Behaviour(latency=0.05, status_for_all=status)) as server,
        engine(Endpoint("e", server.url, "m-1", concurrency=100), tmp_path) as made,
    ):
        with pytest.raises(RoleError, match=f"HTTP {status}: every call is refused") as caught:
            collect(made, rows(1000))
        assert server.stats().requests <= FIRST
        with pytest.raises(RoleError):
            collect(made, rows(10))
        assert server.stats().requests <= FIRST
    assert "endpoints.e" in str(caught.value)
    assert "'m-1'" in str(caught.value)
    assert "base_url" in caught.value.remedy


def test_a_model_that_the_server_does_not_have_is_named(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.0, models=("good",))) as server,
        engine(Endpoint("e", server.url, "bad"), tmp_path) as made,
    ):
        with pytest.raises(RoleError, match="no model 'bad'; it has good"):
            made.reachable(["e"])
        with pytest.raises(RoleError, match="The model `bad` does not exist"):
            collect(made, rows(100))


def test_money_that_has_run_out_stops_the_run(tmp_path: Path) -> None:
    content = b'{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'
    head = f"HTTP/1.1 429 Too Many Requests\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode()
    with (
        answering(head + content) as url,
        engine(Endpoint("e", url, "m"), tmp_path) as made,
        pytest.raises(RoleError, match="exceeded your current quota"),
    ):
        collect(made, rows(100))


def test_an_address_that_is_none_is_named(tmp_path: Path) -> None:
    with (
        engine(Endpoint("e", "localhost:8000/v1", "m"), tmp_path) as made,
        pytest.raises(RoleError, match="localhost:8000/v1"),
    ):
        collect(made, rows(100))


# Rate limits


def test_a_rate_limit_is_learnt_and_kept(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.02, rate_limit=40, rate_window=2.0)) as server,
        engine(Endpoint("e", server.url, "m"), tmp_path) as made,
    ):
        began = time.monotonic()
        assert collect(made, rows(160)).ends == {"done": 160}
        assert server.stats().requests <= 176
        assert time.monotonic() - began < 1.5 * 8.0


def test_a_slow_server_is_not_taken_for_a_hung_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "_HUNG_AT_LEAST", 0.01)
    with (
        serving(Behaviour(latency=0.02)) as server,
        engine(Endpoint("e", server.url, "m", concurrency=16), tmp_path) as made,
    ):
        stream = made.stream(["e"], rows(400))
        outcome = Outcome().take(next(stream) for _ in range(200))
        server.set(latency=0.25)  # twelve times as slow, all of a sudden
        outcome.take(stream)
    assert outcome.ends == {"done": 400}


def test_a_moment_in_which_this_process_stands_still_cuts_no_call(tmp_path: Path) -> None:
    async def stand_still() -> None:
        time.sleep(1.0)  # noqa: ASYNC251 (as a busy machine would)

    with (
        serving(Behaviour(latency=0.1)) as server,
        engine(Endpoint("e", server.url, "m", concurrency=16), tmp_path) as made,
    ):
        stream = made.stream(["e"], rows(200))
        outcome = Outcome().take(next(stream) for _ in range(100))
        assert made.lane("e").gate.slow < 0.3
        made.wait_for(stand_still())
        outcome.take(stream)
        assert server.stats().requests == 200
    assert outcome.ends == {"done": 200}


def test_patience_grows_with_latency_and_with_every_timeout_but_the_first() -> None:
    lane = Lane(Endpoint("e", "", "m", timeout=100.0))
    ticket = lane.take(0.0, 100)
    assert lane.patience_for(ticket) == 100.0
    lane.gate.slow = 2.0
    unsure = lane.patience_for(ticket)
    lane._accepted = 50
    assert 4.0 <= lane.patience_for(ticket) < unsure < 20.0
    grown = []
    for timeouts in range(5):
        ticket.timeouts = timeouts
        grown.append(lane.patience_for(ticket))
    assert grown == sorted(grown)
    assert grown[-1] > 4 * grown[0] or grown[-1] == 100.0
    lane.gate.slow = 0.001
    assert lane.patience_for(lane.take(0.0, 100)) >= 0.25


def test_a_failure_says_how_often_it_was_tried(tmp_path: Path) -> None:
    behaviour = Behaviour(latency=0.0, error_share=1.0)
    with serving(behaviour) as server, engine(Endpoint("e", server.url, "m"), tmp_path) as made:
        (failure,) = collect(made, rows(1)).failures.values()
    assert (failure.kind, failure.attempts) == ("server", 6)
