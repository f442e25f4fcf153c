from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support import fake_model
from support.calling import PRICES, Outcome, asking, client, collect, endpoint, rows
from support.paths import ROOT
from support.server import Behaviour, Server, serving
from tapir.domain.completion import Usage
from tapir.domain.errors import CostLimit, Interrupted
from tapir.models.api.ledger import Ledger
from tapir.models.api.protocol import body
from tapir.models.api.scheduler import Budget

QUICK = Behaviour(latency=0.01)
ROWS, IN_FLIGHT = 150, 32


# Killed


class Watched:
    """A server that remembers the row of every request, in order of arrival."""

    def __init__(self) -> None:
        self.arrived: list[int] = []

    def __call__(self, messages: Sequence[Mapping[str, Any]], _body: Mapping[str, Any]) -> str:
        self.arrived.append(int(messages[-1]["content"].split()[0]))
        return "Well done."


def stage(server: Server, folder: Path) -> subprocess.Popen[bytes]:
    """A process that works on all rows and writes down each that is finished."""
    command = [sys.executable, "-m", "support.stage", server.url, str(folder), str(ROWS), str(IN_FLIGHT)]
    return subprocess.Popen(command, cwd=ROOT)


def finished(folder: Path) -> list[int]:
    path = folder / "finished.txt"
    return [int(one) for one in path.read_text().split()] if path.exists() else []


def on_disk(folder: Path) -> set[int]:
    """The rows whose replies are in the ledger."""
    if not (folder / "ledger.sqlite").exists():
        return set()
    with contextlib.closing(Ledger(folder / "ledger.sqlite")) as ledger:
        return {int(json.loads(one[1])["messages"][0]["content"].split()[0]) for one in ledger.export()}


def settled(server: Server) -> None:
    """Wait until the server has noticed that its client is gone."""
    while server.stats().in_flight:
        time.sleep(0.01)


def test_a_killed_stage_goes_on_and_repeats_no_call_that_was_finished(tmp_path: Path) -> None:
    watched = Watched()
    with serving(Behaviour(latency=0.05, jitter=0.5), brain=watched) as server:
        with stage(server, tmp_path) as process:
            while len(finished(tmp_path)) < ROWS // 3:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        settled(server)
        kept, began = on_disk(tmp_path), len(watched.arrived)
        assert kept >= set(finished(tmp_path))
        lost = set(watched.arrived) - kept
        assert 0 < len(lost) <= 2 * IN_FLIGHT  # those on their way, and those about to be written
        with stage(server, tmp_path) as process:
            process.communicate()
        assert process.returncode == 0
    assert kept.isdisjoint(watched.arrived[began:])
    assert set(finished(tmp_path)) == on_disk(tmp_path) == set(range(ROWS))
    assert len(watched.arrived) <= ROWS + len(lost)


# Stops and money


def test_after_a_request_to_stop_nothing_is_sent_and_calls_in_flight_are_kept(tmp_path: Path) -> None:
    stopping = threading.Event()
    with (
        serving(Behaviour(latency=0.1)) as server,
        client(endpoint(server.url, concurrency=32), tmp_path, stopping=stopping.is_set) as made,
    ):
        stream = made.stream(["e"], rows(1000))
        outcome = Outcome().take(islice(stream, 100))
        stopping.set()
        time.sleep(0.05)
        before = server.stats().requests
        with pytest.raises(Interrupted):
            outcome.take(stream)
        assert server.stats().requests == before == len(outcome.replies)
        assert sum(one.calls for one in made.ledger.spent()) == before
    assert before < 200


def ceiling(calls: int) -> float:
    """The money that so many calls of `rows` cost at most."""
    return calls * endpoint(**PRICES).cost(Usage(300, 64))


def test_money_is_never_passed_and_a_higher_limit_goes_on(tmp_path: Path) -> None:
    with serving(Behaviour(latency=0.02)) as server:
        paid = endpoint(server.url, concurrency=64, **PRICES)
        for limit in (ceiling(40), ceiling(120)):
            with client(paid, tmp_path, max_cost=limit) as made:
                with pytest.raises(CostLimit, match=f"max_cost = {limit:g}") as caught:
                    collect(made, rows(2000))
                assert 0.5 * limit < made.budget.spent <= limit
                assert made.budget.spent == pytest.approx(sum(one.cost for one in made.ledger.spent()))
                assert made.budget.reserved == pytest.approx(0)
                assert "--set" in caught.value.remedy
                assert caught.value.exit_code == 3
        with client(paid, tmp_path, max_cost=ceiling(400)) as made:
            assert collect(made, rows(400)).ends == {"done": 400}
        assert server.stats().requests == 400
        assert server.stats().repeats == 0


def test_what_another_run_spent_is_not_this_runs_money(tmp_path: Path) -> None:
    with serving(QUICK) as server:
        paid = endpoint(server.url, **PRICES)
        with client(paid, tmp_path, run="rich") as made:
            collect(made, rows(100))
        with client(paid, tmp_path, run="poor", max_cost=ceiling(40)) as made:
            assert collect(made, rows(110)).ends == {"done": 110}


@given(st.text(st.characters(), max_size=300) | st.text("1?! ", max_size=900), st.integers(1, 5000))
@example("?" * 900, 1)
def test_no_call_costs_more_than_was_reserved_for_it(text: str, max_tokens: int) -> None:
    paid = endpoint(**PRICES)
    request = asking(text, max_tokens)
    worst_case = Budget().worst_case(paid, body(paid, request), max_tokens)
    prompt = fake_model.count_prompt(request.messages)
    assert paid.cost(Usage(prompt, max_tokens)) <= worst_case


def test_a_budget_allows_what_fits_and_anything_where_there_is_no_limit() -> None:
    assert Budget(0.0, spent=5.0).allows(100.0)
    assert Budget(1.0).allows(1.0)
    assert not Budget(1.0, spent=0.5, reserved=0.4).allows(0.2)
