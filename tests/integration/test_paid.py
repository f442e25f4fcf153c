"""What was paid for is kept and counted: batches without a record, disks that are full, ledgers that were moved."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.batches import OFTEN, PRICES, QUICK, SLOW, TWICE, Provider, provider, questions, texts
from support.calling import PRICES as PRICED
from support.calling import Outcome, client, endpoint, rows
from support.scripted import Watcher
from support.server import Behaviour, Server, serving
from tapir.config.endpoints import CallsConfig, EndpointConfig
from tapir.data.files import write_json
from tapir.data.run.store import RunStore
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.errors import CostLimit, RoleError, StoreError, StoreFull, Waiting
from tapir.models.api import batch as batch_module
from tapir.models.api import ledger as ledger_module
from tapir.models.api.ledger import Entry, Ledger, Purpose, merge_ledgers
from tapir.models.api.protocol import Message, Request, Sampling
from tapir.models.api.session import ApiSession
from tapir.runs.progress import open_calls


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Provider]:
    """A provider whose batches are not complete until the test says so."""
    with provider(SLOW, tmp_path) as made:
        yield made


def spent(made: Provider) -> tuple[int, int]:
    """Calls that were billed, and that may have been."""
    with made.client() as opened:
        counts = [sum(row.calls for row in opened.ledger.spent("run", possibly=each)) for each in (False, True)]
    return counts[0], counts[1]


def killed(monkeypatch: pytest.MonkeyPatch, made: Provider, pauses: tuple[float, ...] = ()) -> None:
    """Ask, and die after the batch was created and before its id is known."""
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "name_batch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made.ask(range(10), pauses)


# Batches


def test_a_second_batch_whose_record_was_lost_is_found_again(slow: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    slow.ask(range(10))
    slow.expire(worked_on=6)
    killed(monkeypatch, slow)
    slow.ask(range(10))
    assert slow.lines == [10, 4]
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(10), OFTEN)[0])) == set(range(10))
    assert (spent(slow), slow.lines) == ((10, 0), [10, 4])


def test_a_second_batch_is_found_by_its_content_where_the_ledger_knows_nothing_of_it(slow: Provider) -> None:
    slow.ask(range(10))
    slow.expire(worked_on=6)
    slow.ask(range(10))
    slow.forget_batches("batch_2")
    slow.ask(range(10))
    assert slow.lines == [10, 4]


def test_half_a_batch_whose_record_was_lost_is_found_again(slow: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    slow.ask(range(10))
    full = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]
    slow.fake.batches["batch_1"].status, slow.fake.batches["batch_1"].errors = "failed", full
    killed(monkeypatch, slow)
    slow.ask(range(10))
    assert slow.lines == [10, 5, 5]
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(10), OFTEN)[0])) == set(range(10))
    assert (spent(slow), slow.lines) == ((10, 0), [10, 5, 5])


def test_a_batch_that_fails_whole_is_not_taken_for_the_one_that_follows_it(slow: Provider) -> None:
    slow.server.set(error_share=1.0, batch_seconds=0.0)
    found, ended = slow.ask(range(3), OFTEN)
    assert (ended, slow.lines, {one.attempts for one in found.values()}) == (None, [3, 3, 3], {3})  # type: ignore[union-attr]


def calls_of(server: Server, folder: Path, *, batch: bool, **more: Any) -> ApiSession:
    settings = {"base_url": server.url, "model": "fake", "batch": batch, "concurrency": 4, **PRICES, **more}
    calls = ApiSession({"one": EndpointConfig(**settings)}, pause_factor=0.01)
    calls.open(folder, "run", Watcher())
    return calls


def test_open_batches_are_collected_where_batch_is_switched_off(
    slow: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "PAUSES", ())
    monkeypatch.setattr(batch_module.stream_batches, "__defaults__", ((),))
    with closing(calls_of(slow.server, slow.folder, batch=True)) as calls, pytest.raises(Waiting):
        list(calls.stream(("one",), questions(range(10))))
    with closing(calls_of(slow.server, slow.folder, batch=False)) as calls:
        with pytest.raises(Waiting) as caught:
            list(calls.stream(("one",), questions(range(12))))
        assert "cancel them there" in caught.value.remedy
        slow.expire(worked_on=6)
        assert set(texts(dict(calls.stream(("one",), questions(range(12)))))) == set(range(12))
    assert (slow.lines, slow.server.stats().requests, spent(slow)) == ([10], 6, (12, 0))


@pytest.mark.parametrize("batch", [True, False])
def test_an_open_batch_of_another_address_is_a_refusal_that_names_it_and_may_have_been_billed(
    slow: Provider, monkeypatch: pytest.MonkeyPatch, *, batch: bool
) -> None:
    monkeypatch.setattr(batch_module.stream_batches, "__defaults__", ((),))
    with closing(calls_of(slow.server, slow.folder, batch=True)) as calls, pytest.raises(Waiting):
        list(calls.stream(("one",), questions(range(10))))
    with serving(QUICK) as other:
        with closing(calls_of(other, slow.folder, batch=batch)) as calls:
            with pytest.raises(RoleError, match="batch_1") as caught:
                list(calls.stream(("one",), questions(range(10))))
            assert "endpoints.one.base_url" in caught.value.remedy
        assert (spent(slow), other.stats().requests) == ((0, 10), 0)
    with closing(calls_of(slow.server, slow.folder, batch=True)) as calls, pytest.raises(Waiting):
        list(calls.stream(("one",), questions(range(10))))
    assert slow.lines == [10]  # found again, once the address is set back


def test_open_batches_are_merged_with_their_ledger(slow: Provider) -> None:
    slow.ask(range(10))
    (slow.folder / "all").mkdir()
    merge_ledgers(slow.folder / "all" / "ledger.sqlite", [slow.folder / "ledger.sqlite"])
    slow.fake.lists_batches = False
    slow.server.set(batch_seconds=0.0)
    found, _ = replace(slow, folder=slow.folder / "all").ask(range(10), TWICE)
    assert (set(texts(found)), slow.lines) == (set(range(10)), [10])


def test_a_complete_batch_whose_output_is_gone_may_have_been_billed(slow: Provider) -> None:
    slow.ask(range(10))
    slow.expire(worked_on=10)
    slow.fake.batches["batch_1"].status = "completed"
    slow.fake.files.clear()
    assert isinstance(slow.ask(range(10))[1], RoleError)
    assert spent(slow) == (0, 10)
    with closing(sqlite3.connect(slow.folder / "ledger.sqlite")) as database:
        assert database.execute("SELECT DISTINCT batch, billed FROM failures").fetchall() == [("batch_1", 0)]
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(10), OFTEN)[0])) == set(range(10))
    assert spent(slow) == (10, 10)


# A ledger that cannot be written


def test_what_a_full_disk_keeps_from_the_ledger_is_kept_beside_it(tmp_path: Path) -> None:
    with serving(Behaviour(latency=0.02)) as server:
        with client(endpoint(server.url, concurrency=16, **PRICED), tmp_path) as made:
            pages = made.writing_ledger._database.execute("PRAGMA page_count").fetchone()[0]
            made.writing_ledger._database.execute(f"PRAGMA max_page_count = {pages + 10}")
            outcome = Outcome()
            with pytest.raises(StoreFull):
                outcome.take(made.stream(["e"], rows(600)))
            assert len(outcome.replies) == made.budget.calls == server.stats().requests < 600
        with client(endpoint(server.url, concurrency=16, **PRICED), tmp_path) as made:
            assert sum(row.calls for row in made.ledger.spent("run")) == server.stats().requests
            assert made.budget.spent == pytest.approx(sum(row.cost for row in made.ledger.spent("run")))
            assert Outcome().take(made.stream(["e"], rows(600))).ends == {"done": 600}
        assert server.stats().requests == 600
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.sqlite"]


def test_what_a_locked_ledger_does_not_take_is_kept_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_BUSY", 0.3)
    with serving(Behaviour(latency=0.02)) as server:
        with client(endpoint(server.url, concurrency=16, **PRICED), tmp_path) as made:
            with closing(sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(StoreError, match="locked") as caught:
                    list(made.stream(["e"], rows(3000)))
                other.execute("ROLLBACK")
            assert "Wait for the process" in caught.value.remedy
        with client(endpoint(server.url, concurrency=16, **PRICED), tmp_path) as made:
            assert sum(row.calls for row in made.ledger.spent("run")) == server.stats().requests > 0


def test_room_is_kept_on_the_disk_until_it_is_needed(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger")) as ledger:
        ledger.keep_room("run")
        assert os.fstat(ledger._spare.fileno()).st_blocks * 512 > 1 << 20
        ledger.add_beside([Entry(b"1", "m", b"{}", Failure("timeout", ""), 0.5, Purpose("run"), Usage(1, 1))])
        assert ledger._spare.closed
    with closing(Ledger(tmp_path / "ledger")) as ledger:
        ledger.keep_room("run")
        assert [row.cost for row in ledger.spent(possibly=True)] == [0.5]
    assert [path.name for path in tmp_path.iterdir()] == ["ledger"]


def test_a_full_disk_is_named_where_the_ledger_cannot_even_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    monkeypatch.setattr(Ledger, "_migrate", lambda _: (_ for _ in ()).throw(error))
    with pytest.raises(StoreError, match="cannot be used") as caught:
        Ledger(tmp_path / "ledger")
    assert not isinstance(caught.value, StoreFull)
    monkeypatch.setattr("os.statvfs", lambda _: type("Full", (), {"f_bavail": 0}))
    with pytest.raises(StoreFull):
        Ledger(tmp_path / "ledger")


# A ledger that is another one


def session(folder: Path, server: Server, count: int, max_cost: float = 0.0, ledger: str = "") -> list[dict[str, Any]]:
    """Make calls as a run does; return its spending.json."""
    calls = ApiSession(
        {"e": endpoint(server.url, concurrency=4, **PRICED)}, CallsConfig(max_cost=max_cost, ledger=ledger)
    )
    with open_calls(calls, RunStore(folder), Watcher()):
        calls.enter(1, "judge")
        list(calls.stream(("e",), rows(count)))
    return list(json.loads((folder / "spending.json").read_text()))


def test_money_that_the_ledger_does_not_know_of_any_more_is_still_spent(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"run": "abc"})
    with serving(Behaviour(latency=0.0, models=("m",))) as server:
        (before,) = session(tmp_path, server, 20)
        for path in tmp_path.glob("ledger.sqlite*"):
            path.rename(tmp_path / f"old-{path.name}")
        with pytest.raises(CostLimit):
            session(tmp_path, server, 20, max_cost=before["cost"])
        (after,) = session(tmp_path, server, 30)
        assert (after["calls"], after["stage"], after["round"]) == (50, "judge", 1)
        assert after["cost"] > 2 * before["cost"]
        assert session(tmp_path, server, 30) == [after]
        other = str(tmp_path / "other.sqlite")
        assert session(tmp_path, server, 10, ledger=other)[0]["calls"] == 60
        merge_ledgers(Path(other), [tmp_path / "ledger.sqlite", tmp_path / "old-ledger.sqlite"])
        (merged,) = session(tmp_path, server, 30, ledger=other)
        assert (merged["calls"], merged["cost"]) == (60, pytest.approx(after["cost"], rel=0.3))


# What a server says of itself


def test_a_resumed_run_gives_a_thought_the_room_it_had(tmp_path: Path) -> None:
    thinks = Behaviour(latency=0.0, reasoning="reasoning_content", thoughts=700, length_limit=2000)
    asked = [Request([Message(role="user", content=f"Question {n}")], Sampling(0.0, 64)) for n in range(8)]
    for number, limit in enumerate((True, True, False)):
        with serving(replace(thinks, tells_limit=limit)) as server:
            with closing(calls_of(server, tmp_path, batch=False, json_schema=False)) as calls:
                replies = dict(calls.stream(("one",), enumerate(asked)))
            assert all(isinstance(reply, Completion) and reply.text for reply in replies.values())
            assert server.stats().requests == (0 if number else 16)
