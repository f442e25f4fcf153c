from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from pathlib import Path

import pytest

from support.calling import Outcome, client, collect, endpoint, free_port, rows
from support.server import Behaviour, Server, serving
from tapir.domain.errors import Interrupted, RoleError
from tapir.models.api.client import ApiClient
from tapir.models.api.facts import check_reachable
from tapir.models.api.limits import FIRST

QUICK = Behaviour(latency=0.01)


def dead(made: ApiClient, server: Server | None = None) -> RoleError:
    """The error that ends a stage at a dead endpoint, within 20 calls."""
    with pytest.raises(RoleError, match="times in a row") as caught:
        collect(made, rows(1000))
    assert server is None or server.stats().requests <= 20
    assert "server runs" in caught.value.remedy
    return caught.value


def test_an_endpoint_where_nobody_listens_stops_the_run_with_its_cause(tmp_path: Path) -> None:
    with client(endpoint(f"http://127.0.0.1:{free_port()}/v1", concurrency=64), tmp_path) as made:
        error = dead(made)
        assert made.endpoints["e"].rate._sent <= 20
        with pytest.raises(RoleError, match="cannot be reached"):
            check_reachable(made)
    assert "Connect call failed" in str(error)


def test_one_row_is_enough_to_find_that_nobody_listens(tmp_path: Path) -> None:
    with client(endpoint(f"http://127.0.0.1:{free_port()}/v1"), tmp_path, pause_factor=0.005) as made:
        with pytest.raises(RoleError, match="10 times in a row"):
            collect(made, rows(1))
        assert made.endpoints["e"].rate._sent == 10


def test_a_host_that_takes_no_connection_in_time_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapir.models.api.connection._CONNECT", 0.05)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as stack:
        for _ in range(4):  # more than its queue holds: the system drops the next attempts
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0.0)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        with client(endpoint(url), tmp_path, pause_factor=0.005) as made:
            with pytest.raises(RoleError, match="cannot be reached"):
                check_reachable(made)
            with pytest.raises(RoleError, match=r"10 times in a row, last: no connection within 0\.05 s"):
                collect(made, rows(1))


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
    with serving(behaviour) as server, client(endpoint(server.url, concurrency=64), tmp_path) as made:
        error = dead(made, server)
    assert re.search(cause, str(error), re.DOTALL)


def test_a_few_rows_that_break_the_server_fail_alone_even_if_they_are_all_that_is_left(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.0, error_share=1.0)) as server,
        client(endpoint(server.url), tmp_path, pause_factor=0.005) as made,
    ):
        outcome = collect(made, rows(3))
        assert server.stats().requests == 18
    assert outcome.ends == {"server": 3}


@pytest.mark.parametrize("how", [{"refuse": True}, {"dead": 503}], ids=["drops", "503"])
def test_a_run_survives_a_server_that_dies_and_comes_back(tmp_path: Path, how: dict[str, bool]) -> None:
    with (
        serving(Behaviour(latency=0.02)) as server,
        client(endpoint(server.url, concurrency=64), tmp_path) as made,
    ):
        stream = made.stream(["e"], rows(400))
        outcome = Outcome().take(next(stream) for _ in range(100))
        server.set(**how)
        before = server.stats().requests
        back = threading.Timer(0.3, lambda: server.set(refuse=False, dead=0))
        back.start()
        outcome.take(stream)
        back.join()
        wasted = server.stats().requests - before - 300
    assert outcome.ends == {"done": 400}
    assert wasted < 64 + 64 + 20


def test_a_run_survives_a_server_that_was_restarted(tmp_path: Path) -> None:
    port = free_port()
    with client(endpoint(f"http://127.0.0.1:{port}/v1", concurrency=64), tmp_path, pause_factor=0.1) as made:
        with serving(QUICK, port=port):
            stream = made.stream(["e"], rows(300))
            outcome = Outcome().take(next(stream) for _ in range(100))
        with serving(QUICK, port=port):
            outcome.take(stream)
    assert outcome.ends == {"done": 300}


def test_the_last_rows_wait_for_a_server_that_is_away(tmp_path: Path) -> None:
    port = free_port()
    with client(endpoint(f"http://127.0.0.1:{port}/v1"), tmp_path, pause_factor=0.005) as made:
        with serving(QUICK, port=port):
            assert collect(made, rows(20)).ends == {"done": 20}
        rate, done = made.endpoints["e"].rate, threading.Event()

        def return_later() -> None:
            while rate._sent <= 20 + 2 * 6:  # more than two rows may be tried
                time.sleep(0.001)
            with serving(QUICK, port=port):
                done.wait(30)

        server = threading.Thread(target=return_later)
        server.start()
        outcome = collect(made, rows(2, start=20))
        done.set()
        server.join()
    assert outcome.ends == {"done": 2}


def test_of_two_endpoints_one_may_die_and_the_other_does_all_the_work(tmp_path: Path) -> None:
    with serving(Behaviour(latency=0.02)) as good, serving(Behaviour(latency=0.02)) as bad:
        endpoints = {"good": endpoint(good.url, concurrency=16), "bad": endpoint(bad.url, concurrency=16)}
        with client(endpoints, tmp_path) as made:
            stream = made.stream(["good", "bad"], rows(500))
            outcome = Outcome().take(next(stream) for _ in range(100))
            before = bad.stats().requests
            bad.set(dead=500)
            outcome.take(stream)
            assert 10 < before < bad.stats().requests < before + 80
    assert outcome.ends == {"done": 500}


def test_of_two_endpoints_one_may_refuse_its_key(tmp_path: Path) -> None:
    with serving(QUICK) as good, serving(Behaviour(latency=0.0, status_for_all=401)) as bad:
        with client({"good": endpoint(good.url), "bad": endpoint(bad.url)}, tmp_path) as made:
            assert collect(made, rows(200), ["good", "bad"]).ends == {"done": 200}
        assert bad.stats().requests <= FIRST


def test_a_request_to_stop_is_honoured_while_the_endpoint_is_down(tmp_path: Path) -> None:
    stopping = threading.Event()
    with (
        serving(Behaviour(latency=0.0)) as server,
        client(endpoint(server.url), tmp_path, stopping=stopping.is_set, pause_factor=1.0) as made,
    ):
        stream = made.stream(["e"], rows(500))
        outcome = Outcome().take(next(stream) for _ in range(50))
        server.set(refuse=True)
        threading.Timer(0.2, stopping.set).start()
        began = time.monotonic()
        with pytest.raises(Interrupted):
            outcome.take(stream)
    assert time.monotonic() - began < 10  # the trials alone would take minutes
