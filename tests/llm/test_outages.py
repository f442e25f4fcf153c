from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

from tapir.errors import Interrupted, RoleError
from tapir.llm.endpoint import Endpoint
from tapir.llm.engine import Engine
from tapir.llm.limits import FIRST
from tests.llm.calling import Outcome, Switch, collect, engine, free_port, rows
from tests.server import Behaviour, Server, serving

QUICK = Behaviour(latency=0.01)


def dead(made: Engine, server: Server | None = None) -> RoleError:
    """The error that ends a stage at a dead endpoint, within 20 calls."""
    with pytest.raises(RoleError, match="times in a row") as caught:
        collect(made, rows(1000))
    assert server is None or server.stats().requests <= 20
    assert "server runs" in caught.value.remedy
    return caught.value


def test_an_endpoint_where_nobody_listens_stops_the_run_with_its_cause(tmp_path: Path) -> None:
    with engine(Endpoint("e", f"http://127.0.0.1:{free_port()}/v1", "m", concurrency=64), tmp_path) as made:
        error = dead(made)
        assert made.lane("e").pace._sent <= 20
        with pytest.raises(RoleError, match="cannot be reached"):
            made.reachable(["e"])
    assert "Connect call failed" in str(error)


def test_one_row_is_enough_to_find_that_nobody_listens(tmp_path: Path) -> None:
    with engine(Endpoint("e", f"http://127.0.0.1:{free_port()}/v1", "m"), tmp_path) as made:
        with pytest.raises(RoleError, match="10 times in a row"):
            collect(made, rows(1))
        assert made.lane("e").pace._sent == 10


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [
        (Behaviour(latency=0.0, dead=502), "HTTP 502.*upstream unavailable"),
        (Behaviour(latency=0.0, error_share=1.0), "HTTP 500.*had an error"),
        (Behaviour(latency=0.0, refuse=True), "cut.*disconnected"),
        (Behaviour(latency=0.0, nonsense_share=1.0), "no chat completion|no content"),
    ],
    ids=["dead", "errors", "drops", "nonsense"],
)
def test_an_endpoint_that_only_fails_stops_the_run_with_its_cause(
    tmp_path: Path, behaviour: Behaviour, cause: str
) -> None:
    with serving(behaviour) as server, engine(Endpoint("e", server.url, "m", concurrency=64), tmp_path) as made:
        error = dead(made, server)
    assert re.search(cause, str(error), re.DOTALL)


def test_a_few_rows_that_break_the_server_fail_alone_even_if_they_are_all_that_is_left(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.0, error_share=1.0)) as server,
        engine(Endpoint("e", server.url, "m"), tmp_path) as made,
    ):
        outcome = collect(made, rows(3))
        assert server.stats().requests == 18
    assert outcome.ends == {"server": 3}


@pytest.mark.parametrize("how", [{"refuse": True}, {"dead": 503}], ids=["drops", "503"])
def test_a_run_survives_a_server_that_dies_and_comes_back(tmp_path: Path, how: dict[str, bool]) -> None:
    with (
        serving(Behaviour(latency=0.05)) as server,
        engine(Endpoint("e", server.url, "m", concurrency=64), tmp_path) as made,
    ):
        stream = made.stream(["e"], rows(600))
        outcome = Outcome().take(next(stream) for _ in range(100))
        server.set(**how)
        before = server.stats().requests
        back = threading.Timer(1.0, lambda: server.set(refuse=False, dead=0))
        back.start()
        outcome.take(stream)
        back.join()
        wasted = server.stats().requests - before - 500
    assert outcome.ends == {"done": 600}
    assert wasted < 64 + 64 + 20


def test_a_run_survives_a_server_that_was_restarted(tmp_path: Path) -> None:
    port = free_port()
    with engine(Endpoint("e", f"http://127.0.0.1:{port}/v1", "m", concurrency=64), tmp_path, patience=0.1) as made:
        with serving(Behaviour(latency=0.05), thread=True, port=port):
            stream = made.stream(["e"], rows(400))
            outcome = Outcome().take(next(stream) for _ in range(100))
        time.sleep(0.5)
        with serving(Behaviour(latency=0.05), thread=True, port=port):
            outcome.take(stream)
    assert outcome.ends == {"done": 400}


def test_the_last_rows_wait_for_a_server_that_is_away(tmp_path: Path) -> None:
    port = free_port()
    with engine(Endpoint("e", f"http://127.0.0.1:{port}/v1", "m"), tmp_path) as made:
        with serving(QUICK, thread=True, port=port):
            assert collect(made, rows(20)).ends == {"done": 20}
        back = threading.Event()

        def return_later() -> None:
            time.sleep(1.0)
            with serving(QUICK, thread=True, port=port):
                back.wait(30)

        server = threading.Thread(target=return_later)
        server.start()
        outcome = collect(made, rows(2, start=20))
        assert made.lane("e").pace._sent > 20 + 2 * 6  # more than two rows may be tried
        back.set()
        server.join()
    assert outcome.ends == {"done": 2}


def test_of_two_endpoints_one_may_die_and_the_other_does_all_the_work(tmp_path: Path) -> None:
    with serving(Behaviour(latency=0.02)) as good, serving(Behaviour(latency=0.02)) as bad:
        endpoints = [Endpoint("good", good.url, "m", concurrency=16), Endpoint("bad", bad.url, "m", concurrency=16)]
        with engine(endpoints, tmp_path) as made:
            stream = made.stream(["good", "bad"], rows(600))
            outcome = Outcome().take(next(stream) for _ in range(100))
            before = bad.stats().requests
            bad.set(dead=500)
            outcome.take(stream)
            assert 10 < before < bad.stats().requests < before + 80
    assert outcome.ends == {"done": 600}


def test_of_two_endpoints_one_may_refuse_its_key(tmp_path: Path) -> None:
    with serving(QUICK) as good, serving(Behaviour(latency=0.0, status_for_all=401)) as bad:
        with engine([Endpoint("good", good.url, "m"), Endpoint("bad", bad.url, "m")], tmp_path) as made:
            assert collect(made, rows(200), ["good", "bad"]).ends == {"done": 200}
        assert bad.stats().requests <= FIRST


def test_the_wish_to_stop_is_heard_while_the_endpoint_is_down(tmp_path: Path) -> None:
    stopping = Switch()
    with (
        serving(Behaviour(latency=0.0)) as server,
        engine(Endpoint("e", server.url, "m"), tmp_path, stopping=stopping, patience=1.0) as made,
    ):
        stream = made.stream(["e"], rows(500))
        outcome = Outcome().take(next(stream) for _ in range(50))
        server.set(refuse=True)
        threading.Timer(0.5, setattr, (stopping, "on", True)).start()
        began = time.monotonic()
        with pytest.raises(Interrupted):
            outcome.take(stream)
    assert time.monotonic() - began < 10  # the trials alone would take minutes
