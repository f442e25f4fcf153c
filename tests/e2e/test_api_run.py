"""Shipped recipes from the command line to the report, with teacher, judge and tagger behind a (fake) API."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from support import alpaca, small, small_model
from support.server import Behaviour, Server, Stats, serving
from tapir.data.run.rows import CorpusRow, DropRow, EvaluationRow, JudgementRow, MixtureRow
from tapir.data.run.store import RunStore

pytestmark = pytest.mark.slow
KILLS = 4
REFUSE_OTHERS = Behaviour(latency=0.01, models=alpaca.MODELS, require_key=alpaca.KEY)
BEHAVIOURS = {
    "alpaca-local": Behaviour(latency=0.01, models=("the-only-one",)),
    "smollm2": Behaviour(latency=0.01, models=("the-only-one",)),
}


@dataclass(frozen=True)
class ApiRun:
    """A finished run of a recipe, what it printed, and what the server saw."""

    recipe: str
    folder: Path
    command: list[str]
    output: str
    stats: Stats


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model.make(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return alpaca.corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory, student: Path, corpus: Path) -> Callable[[str], ApiRun]:
    """Run a recipe to its end, each once."""

    @cache
    def run(recipe: str) -> ApiRun:
        with serving(BEHAVIOURS.get(recipe, REFUSE_OTHERS)) as server:
            folder = tmp_path_factory.mktemp(recipe) / "run"
            command = alpaca.command(recipe, folder, corpus, student, server)
            result = alpaca.run(command)
            assert result.returncode == 0, result.stdout + result.stderr
            return ApiRun(recipe, folder, command, result.stdout + result.stderr, server.stats())

    return run


@pytest.fixture(scope="module", params=["alpaca-api", "alpaca-local", "paper", "smollm2"])
def finished(request: pytest.FixtureRequest, run_of: Callable[[str], ApiRun]) -> ApiRun:
    return run_of(request.param)


def test_every_shipped_recipe_runs_to_its_report_with_every_row_in_the_corpus_or_dropped(finished: ApiRun) -> None:
    store = RunStore(finished.folder)
    assert (finished.folder / "report.html").stat().st_size > 100_000
    for number in (1, 2):
        mixture = store.read(f"round-{number}/mixture", MixtureRow)
        assert len(mixture) == 24
        assert (store.round(number) / "checkpoint" / "model.safetensors").exists()
    held = {row.id for row in store.read("round-0/evaluation", EvaluationRow)}
    assert len(held) == 8
    assert not held & {row.id for row in store.each("corpus", CorpusRow)}
    kept, drops = store.read("corpus", CorpusRow), store.read("drops", DropRow)
    assert len(kept) + len(drops) == 63
    reasons = [row.reason for row in drops]
    assert reasons.count("instruction is not text") == 1
    assert reasons.count("empty response") == 1
    assert reasons.count("in an evaluation set") >= 8
    assert any(row.reason == "instruction is not text" and "row 61" in row.detail for row in drops)


def test_both_orders_are_judged_and_what_is_paid_is_in_the_ledger(finished: ApiRun) -> None:
    store = RunStore(finished.folder)
    orders = {row.order for row in store.each("round-0/judgements", JudgementRow) if row.unscored is None}
    assert orders == {"student-first", "reference-first"}
    spending = json.loads((finished.folder / "spending.json").read_text())
    assert sum(one["calls"] for one in spending) == finished.stats.by_status["200"]
    assert sum(one["prompt_tokens"] for one in spending) == finished.stats.prompt_tokens
    assert sum(one["completion_tokens"] for one in spending) == finished.stats.completion_tokens
    assert {"label", "judge", "canary", "evaluate", "refine"} <= {one["stage"] for one in spending}
    assert (sum(one["cost"] for one in spending) > 0) == (finished.recipe not in BEHAVIOURS)


def test_the_key_is_nowhere(finished: ApiRun) -> None:
    assert alpaca.KEY not in finished.output
    for path in finished.folder.rglob("*"):
        if path.is_file():
            assert alpaca.KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("recipe", ["alpaca-api", "smollm2"])
def test_running_it_again_calls_nobody(
    recipe: str, run_of: Callable[[str], ApiRun], student: Path, corpus: Path
) -> None:
    finished = run_of(recipe)
    before = small.outcome(finished.folder)
    with serving(BEHAVIOURS.get(finished.recipe, Behaviour(models=alpaca.MODELS))) as server:
        result = alpaca.run(alpaca.command(finished.recipe, finished.folder, corpus, student, server))
        assert result.returncode == 0, result.stdout + result.stderr
        assert server.stats().requests == 0
    assert small.outcome(finished.folder) == before


def test_killed_again_and_again_it_ends_in_the_same_bytes_and_pays_nothing_twice(
    tmp_path: Path, run_of: Callable[[str], ApiRun], student: Path, corpus: Path
) -> None:
    rng, whole = random.Random(5), run_of("alpaca-api")
    calls = whole.stats.requests
    with serving(Behaviour(latency=0.2, jitter=0.8, models=alpaca.MODELS)) as server:
        command = alpaca.command("alpaca-api", tmp_path / "killed", corpus, student, server)
        in_flight = 0
        for _ in range(KILLS):
            in_flight += _killed(command, server, rng.uniform(0, 3))
        ended = alpaca.run(command)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        stats = server.stats()
    assert calls <= stats.requests <= calls + in_flight + 2 * KILLS  # a call may begin between the look and the kill
    assert small.outcome(tmp_path / "killed") == small.outcome(whole.folder)


def test_ctrl_c_makes_no_new_call_and_keeps_what_is_in_flight(tmp_path: Path, student: Path, corpus: Path) -> None:
    with serving(Behaviour(latency=1.0, models=alpaca.MODELS)) as server:
        command = alpaca.command("alpaca-api", tmp_path / "run", corpus, student, server)
        with subprocess.Popen(
            command, env=alpaca.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            _wait_for_calls(server, 30)
            process.send_signal(signal.SIGINT)
            seen = server.stats().requests
            output = "".join(process.communicate(timeout=60))
        assert process.returncode == 130, output
        stats = server.stats()
    assert stats.requests <= seen + 2  # sent while the signal was on its way
    assert stats.by_status == {"200": stats.requests}
    ledger = subprocess.run(
        [*command[:3], "ledger", "export", str(tmp_path / "run" / "ledger.sqlite")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(ledger.stdout.splitlines()) == stats.requests


def test_max_cost_stops_in_order_before_it_is_passed_and_a_higher_one_goes_on(
    tmp_path: Path, student: Path, corpus: Path
) -> None:
    folder = tmp_path / "run"
    with serving(REFUSE_OTHERS) as server:
        stopped = alpaca.run(alpaca.command("alpaca-api", folder, corpus, student, server, "calls.max_cost=0.03"))
        assert stopped.returncode == 3, stopped.stdout + stopped.stderr
        assert "calls.max_cost = 0.03 would be passed" in stopped.stderr
        spent = sum(one["cost"] for one in json.loads((folder / "spending.json").read_text()))
        assert 0.01 < spent <= 0.03
        resumed = alpaca.run([*stopped.args[:3], "resume", str(folder), "--set", "calls.max_cost=5"])
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        assert server.stats().repeats == 0


def test_a_missing_key_is_said_and_a_good_recipe_is_called_good(tmp_path: Path, student: Path, corpus: Path) -> None:
    with serving(Behaviour()) as server:
        _, *rest = alpaca.command("alpaca-api", tmp_path / "run", corpus, student, server)
        sets = rest[rest.index("--set") :]
        command = [sys.executable, "-m", "tapir.cli.main", "check", "alpaca-api", *sets]
        good = alpaca.run(command)
        without = {name: value for name, value in alpaca.environment().items() if name != "OPENAI_API_KEY"}
        missing = subprocess.run(command, capture_output=True, text=True, env=without, check=False)
        assert server.stats().requests == 0
    assert good.returncode == 0, good.stderr
    assert "1 rows dropped: instruction is not text" in good.stdout
    assert "held-out: 8 held-out instructions" in good.stdout
    assert missing.returncode == 1
    assert "OPENAI_API_KEY is not set" in missing.stderr


def _killed(command: list[str], server: Server, after: float) -> int:
    """Start the run and kill it so many seconds after it has begun to call; the calls that were in flight."""
    seen = server.stats().requests
    with subprocess.Popen(command, env=alpaca.environment(), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and server.stats().requests == seen:
            time.sleep(0.05)
        time.sleep(after)
        in_flight = server.stats().in_flight
        process.send_signal(signal.SIGKILL)
    return in_flight


def _wait_for_calls(server: Server, count: int) -> None:
    for _ in range(600):
        if server.stats().requests >= count:
            return
        time.sleep(0.1)
    raise AssertionError(f"the server saw {server.stats().requests} calls only")
