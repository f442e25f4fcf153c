from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapir.domain.completion import Usage
from tapir.errors import CostLimit, Interrupted
from tapir.llm.account import Account
from tapir.llm.endpoint import Endpoint
from tapir.llm.ledger import Ledger
from tapir.llm.wire import body
from tests.fake_openai import tokens
from tests.llm.calling import PRICE, Outcome, Switch, asking, collect, engine, rows
from tests.server import Behaviour, Server, serving

QUICK = Behaviour(latency=0.01)
_ROOT = Path(__file__).resolve().parents[2]
ROWS, IN_FLIGHT, KILLS = 2000, 32, 10


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
    command = [sys.executable, "-m", "tests.llm.stage", server.url, str(folder), str(ROWS), str(IN_FLIGHT)]
    return subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE)


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


def test_a_stage_killed_ten_times_repeats_no_finished_call(tmp_path: Path) -> None:
    rng, watched, lost = random.Random(7), Watched(), 0
    with serving(Behaviour(latency=0.05, jitter=0.5), thread=True, brain=watched) as server:
        for _ in range(KILLS):
            began = len(watched.arrived)
            known = on_disk(tmp_path)
            with stage(server, tmp_path) as process:
                goal = min(began + rng.randrange(1, 250), ROWS - 50)
                while len(watched.arrived) < goal:
                    time.sleep(0.001)
                time.sleep(rng.uniform(0.0, 0.05))
                process.send_signal(signal.SIGKILL)
            settled(server)
            kept = on_disk(tmp_path)
            assert known.isdisjoint(watched.arrived[began:])
            assert kept >= set(finished(tmp_path)) | known
            in_flight = set(watched.arrived) - kept
            assert len(in_flight) <= 2 * IN_FLIGHT  # those on their way, and those about to be written
            lost += len(in_flight)
        before = on_disk(tmp_path)
        began = len(watched.arrived)
        with stage(server, tmp_path) as process:
            process.communicate()
        assert process.returncode == 0
    assert before.isdisjoint(watched.arrived[began:])
    assert Counter(finished(tmp_path)).keys() == on_disk(tmp_path) == set(range(ROWS))
    assert len(watched.arrived) <= ROWS + lost
    assert lost > 0


def test_the_first_ctrl_c_sends_nothing_more_and_keeps_what_is_in_flight(tmp_path: Path) -> None:
    with serving(Behaviour(latency=0.8)) as server:
        with stage(server, tmp_path) as process:
            assert process.stdout is not None
            while server.stats().requests < 3 * IN_FLIGHT:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            said = os.read(process.stdout.fileno(), 1000)
            time.sleep(0.2)  # what was handed to the network before arrives
            before = server.stats()
            process.communicate()
        assert b"stopping in order" in said
        assert process.returncode == Interrupted.exit_code
        after = server.stats()
    assert before.in_flight > 0
    assert after.requests == before.requests
    assert after.by_status == {"200": after.requests}
    assert len(on_disk(tmp_path)) == after.requests
    assert set(finished(tmp_path)) == on_disk(tmp_path)


# Stops and money


def test_after_the_wish_to_stop_nothing_is_sent_and_what_is_in_flight_is_kept(tmp_path: Path) -> None:
    stopping = Switch()
    with (
        serving(Behaviour(latency=0.1)) as server,
        engine(Endpoint("e", server.url, "m", concurrency=32), tmp_path, stopping=stopping) as made,
    ):
        stream = made.stream(["e"], rows(1000))
        outcome = Outcome().take(islice(stream, 100))
        stopping.on = True
        time.sleep(0.05)
        before = server.stats().requests
        with pytest.raises(Interrupted):
            outcome.take(stream)
        assert server.stats().requests == before == len(outcome.replies)
        assert sum(one.calls for one in made.ledger.spent()) == before
    assert before < 200


def ceiling(calls: int) -> float:
    """The money that so many calls of `rows` cost at most."""
    return calls * PRICE.of(Usage(300, 64))


def test_money_is_never_passed_and_a_higher_limit_goes_on(tmp_path: Path) -> None:
    with serving(Behaviour(latency=0.02)) as server:
        endpoint = Endpoint("e", server.url, "m", concurrency=64, price=PRICE)
        for limit in (ceiling(40), ceiling(120)):
            with engine(endpoint, tmp_path, max_cost=limit) as made:
                with pytest.raises(CostLimit, match=f"max_cost = {limit:g}") as caught:
                    collect(made, rows(2000))
                assert 0.5 * limit < made.account.spent <= limit
                assert made.account.spent == pytest.approx(sum(one.cost for one in made.ledger.spent()))
                assert made.account.reserved == pytest.approx(0)
                assert "--set" in caught.value.remedy
                assert caught.value.exit_code == 3
        with engine(endpoint, tmp_path, max_cost=ceiling(400)) as made:
            assert collect(made, rows(400)).ends == {"done": 400}
        assert server.stats().requests == 400
        assert server.stats().repeats == 0


def test_money_holds_also_where_the_server_does_not_count_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapir.llm.wire._counted", lambda _: None)
    with (
        serving(Behaviour(latency=0.01)) as server,
        engine(Endpoint("e", server.url, "m", price=PRICE), tmp_path, max_cost=ceiling(30)) as made,
    ):
        with pytest.raises(CostLimit):
            collect(made, rows(1000))
        assert 0 < made.account.spent <= ceiling(30)


def test_what_another_run_spent_is_not_this_runs_money(tmp_path: Path) -> None:
    with serving(QUICK) as server:
        endpoint = Endpoint("e", server.url, "m", price=PRICE)
        with engine(endpoint, tmp_path, run="rich") as made:
            collect(made, rows(100))
        with engine(endpoint, tmp_path, run="poor", max_cost=ceiling(40)) as made:
            assert collect(made, rows(110)).ends == {"done": 110}


@settings(deadline=None)
@given(st.text(st.characters(), max_size=300) | st.text("1?! ", max_size=900), st.integers(1, 5000))
@example("?" * 900, 1)
def test_no_call_costs_more_than_was_reserved_for_it(text: str, max_tokens: int) -> None:
    endpoint = Endpoint("e", "", "m", price=PRICE)
    request = asking(text, max_tokens)
    worst = Account().worst(endpoint, body(endpoint, request), max_tokens)
    prompt = tokens.count_prompt([("user", text)])
    assert PRICE.of(Usage(prompt, max_tokens)) <= worst


def test_a_call_that_nobody_pays_for_is_always_allowed() -> None:
    assert Account(0.0, spent=5.0).allows(100.0)
    assert Account(1.0).allows(1.0)
    assert not Account(1.0, spent=0.5, reserved=0.4).allows(0.2)
