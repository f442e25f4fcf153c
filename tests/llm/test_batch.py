from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.domain.completion import Completion
from tapir.errors import CostLimit, Interrupted, RoleError, Waiting
from tapir.llm import spool
from tapir.llm.batch import batched
from tapir.llm.spool import Place, line_length, portions
from tapir.llm.wire import body
from tests.domain.strategies import properties
from tests.llm.desk import PRICE, QUICK, SLOW, TWICE, Desk, asked, desk, question, texts


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Desk]:
    """A provider whose batches are complete when they are looked at."""
    with desk(QUICK, tmp_path) as found:
        yield found


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Desk]:
    """A provider whose batches are not complete until the test says so."""
    with desk(SLOW, tmp_path) as found:
        yield found


def test_a_run_ends_while_the_provider_works_and_collects_when_it_comes_back(slow: Desk) -> None:
    found, ended = slow.ask(range(10))
    assert (found, type(ended)) == ({}, Waiting)
    assert str(ended).endswith("are not complete: batch_1 (validating, 0 of 10 done); requests in them: 10")
    slow.server.set(batch_seconds=0.0)
    found, ended = slow.ask(range(10))
    assert (set(texts(found)), ended) == (set(range(10)), None)
    assert (slow.provider.lines, slow.states()) == ([10], ["collected"])


def test_waiting_is_an_orderly_end_with_an_exit_code_of_its_own(slow: Desk) -> None:
    _, ended = slow.ask(range(1))
    assert isinstance(ended, Interrupted)
    assert (ended.exit_code, ended.remedy) == (75, "Come back later: the same command collects them.")


def test_a_quick_batch_is_collected_in_the_same_session(quick: Desk) -> None:
    found, ended = quick.ask(range(10), TWICE)
    assert (set(texts(found)), ended) == (set(range(10)), None)


def test_a_batch_gives_what_single_calls_give(quick: Desk) -> None:
    found, _ = quick.ask(range(3), TWICE)
    quick.folder = quick.folder / "another"
    assert texts(quick.ask_one_by_one(range(3))) == texts(found)


def test_replies_of_a_batch_cost_its_share_of_the_price(quick: Desk) -> None:
    with quick.engine() as engine:
        replies = dict(batched(engine, "teacher", asked(range(5)), TWICE))
        full = sum(PRICE.of(one.usage) for one in replies.values() if isinstance(one, Completion))
        assert engine.account.spent == pytest.approx(full / 2)
        assert engine.account.calls == 5
        (spent,) = engine.ledger.spent("run")
        assert spent.cost == pytest.approx(full / 2)
        assert (spent.purpose.task, spent.calls) == ("Math", 5)


def test_single_calls_find_what_a_batch_paid_for(quick: Desk) -> None:
    found, _ = quick.ask(range(5), TWICE)
    assert quick.ask_one_by_one(range(5)) == found
    assert quick.server.stats().requests == 0


def test_a_batch_holds_only_what_no_single_call_paid_for(quick: Desk) -> None:
    first = quick.ask_one_by_one(range(4))
    found, _ = quick.ask(range(6), TWICE)
    assert {number: found[number] for number in first} == first
    assert (set(texts(found)), quick.provider.lines) == (set(range(6)), [2])


def test_what_the_ledger_holds_comes_before_the_run_waits(slow: Desk) -> None:
    first = slow.ask_one_by_one(range(4))
    found, ended = slow.ask(range(6))
    assert (found, type(ended)) == (first, Waiting)


def test_new_requests_make_a_batch_of_their_own_beside_the_open_one(slow: Desk) -> None:
    slow.ask(range(4))
    slow.ask(range(6))
    assert slow.provider.lines == [4, 2]
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(6))[0])) == set(range(6))


def test_equal_requests_are_one_line(quick: Desk) -> None:
    with quick.engine() as engine:
        twice = [("a", question(1)), ("b", question(1)), ("c", question(2))]
        replies = dict(batched(engine, "teacher", twice, TWICE))
    assert replies["a"] == replies["b"] != replies["c"]
    assert quick.provider.lines == [2]


def test_samples_of_one_prompt_are_lines_of_their_own(quick: Desk) -> None:
    with quick.engine() as engine:
        samples = [(number, replace(question(1), sample=number)) for number in range(3)]
        assert len(dict(batched(engine, "teacher", samples, TWICE))) == 3
    assert quick.provider.lines == [3]


def test_a_batch_whose_record_was_lost_is_found_again(slow: Desk) -> None:
    slow.ask(range(10))
    slow.forget_batches()
    slow.ask(reversed(range(10)))
    assert (len(slow.provider.batches), len(slow.provider.uploads), slow.states()) == (1, 1, ["open"])
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(10))[0])) == set(range(10))


def test_a_lost_record_is_found_on_a_later_page_of_the_list(slow: Desk) -> None:
    slow.provider.page = 2
    slow.ask(range(2))
    slow.forget_batches()
    for number in range(3, 8):
        slow.ask([number])
    slow.ask(range(2))
    assert slow.provider.lines == [2, 1, 1, 1, 1, 1]


def test_a_batch_whose_creation_was_not_confirmed_is_not_created_again(slow: Desk) -> None:
    slow.provider.loses_answers = 1
    assert isinstance(slow.ask(range(10))[1], Waiting)
    assert slow.provider.lines == [10]


def test_another_run_does_not_take_a_batch_for_its_own(slow: Desk) -> None:
    slow.ask(range(3), run="one")
    slow.forget_batches()
    slow.ask(range(3), run="two")
    assert slow.provider.lines == [3, 3]


def test_a_server_that_cannot_list_its_batches_still_gets_them(quick: Desk) -> None:
    quick.provider.lists = False
    assert set(texts(quick.ask(range(3), TWICE)[0])) == set(range(3))


def test_a_creation_that_can_neither_be_confirmed_nor_listed_is_not_repeated(slow: Desk) -> None:
    slow.provider.lists, slow.provider.loses_answers = False, 1
    _, ended = slow.ask(range(3))
    assert isinstance(ended, RoleError)
    assert "HTTP 502: bad gateway" in str(ended)
    assert slow.provider.lines == [3]


def test_a_stop_ends_the_wait_at_once_and_loses_nothing(slow: Desk) -> None:
    timer = threading.Timer(0.3, slow.stop.set)
    timer.start()
    with slow.engine() as engine:
        engine.lane("teacher").patience = 1.0
        with pytest.raises(Interrupted) as caught:
            list(batched(engine, "teacher", asked(range(3)), [3600.0]))
    timer.join()
    assert not isinstance(caught.value, Waiting)
    slow.stop.clear()
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(3))[0])) == set(range(3))
    assert slow.provider.lines == [3]


def test_nothing_is_handed_in_after_a_stop(slow: Desk) -> None:
    slow.stop.set()
    assert type(slow.ask(range(3))[1]) is Interrupted
    assert slow.provider.uploads == []


def test_a_batch_that_might_pass_the_limit_is_not_handed_in(quick: Desk) -> None:
    _, ended = quick.ask(range(10), TWICE, max_cost=0.1)
    assert isinstance(ended, CostLimit)
    assert "next batch of 10 requests" in str(ended)
    assert quick.provider.uploads == []
    assert set(texts(quick.ask(range(10), TWICE, max_cost=100.0)[0])) == set(range(10))


def test_what_is_under_way_counts_against_the_limit(slow: Desk) -> None:
    slow.ask(range(5))
    with slow.engine() as engine:
        sent = body(engine.lane("teacher").endpoint, question(1))
        each = engine.account.worst(engine.lane("teacher").endpoint, sent, 64)
    _, ended = slow.ask(range(10), max_cost=8 * each)
    assert isinstance(ended, Waiting)
    assert str(ended).endswith("requests in them: 5; not handed in yet, as they might pass calls.max_cost: 5")
    assert slow.provider.lines == [5]
    slow.server.set(batch_seconds=0.0)
    found, ended = slow.ask(range(10), TWICE, max_cost=100 * each)
    assert (set(texts(found)), ended) == (set(range(10)), None)


def test_many_requests_are_several_batches(slow: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MOST_LINES", 3)
    _, ended = slow.ask(range(20))
    assert slow.provider.lines == [3, 3, 3, 3, 3, 3, 2]
    assert str(ended).endswith(" and 2 more; requests in them: 20")
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(20))[0])) == set(range(20))


def test_a_run_killed_between_two_batches_hands_in_only_the_second(slow: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MOST_LINES", 5)
    slow.ask(range(10))
    with sqlite3.connect(slow.folder / "ledger.sqlite") as database:
        database.executescript("DELETE FROM batches WHERE id='batch_2'; DELETE FROM batched WHERE batch='batch_2';")
    database.close()
    del slow.provider._batches.batches["batch_2"]
    slow.ask(range(10))
    assert slow.provider.lines == [5, 5]


def test_a_run_that_stops_while_it_collects_goes_on_where_it_was(quick: Desk) -> None:
    quick.ask(range(600))
    with quick.engine() as engine:
        some = batched(engine, "teacher", asked(range(600)), TWICE)
        first = {next(some)[0] for _ in range(300)}
        some.close()  # type: ignore[attr-defined]
    rest = sorted(set(range(600)) - first)
    found, ended = quick.ask(rest, TWICE)
    assert (sorted(texts(found)), ended) == (rest, None)
    assert (quick.provider.lines, quick.states()) == ([600], ["collected"])


def test_a_batch_that_another_run_shares_stays_open_for_it(slow: Desk) -> None:
    slow.ask([1, 2], run="one")
    slow.ask([2, 3], run="two")
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask([2, 3], run="two")[0])) == {2, 3}
    assert set(texts(slow.ask([1, 2], run="one")[0])) == {1, 2}
    assert (slow.provider.lines, slow.states()) == ([2, 1], ["collected", "collected"])


def test_characters_that_some_take_for_line_breaks_do_not_break_a_line(quick: Desk) -> None:
    with quick.engine() as engine:
        odd = [("odd", question(1, "\u2028and\u2029so\x85on\x0b\x1c\r\n"))]
        assert isinstance(dict(batched(engine, "teacher", odd, TWICE))["odd"], Completion)
    sent = json.loads(json.dumps(quick.provider.batches[0].lines[0]["body"]))
    assert sent["messages"][0]["content"] == "Number 1\u2028and\u2029so\x85on\x0b\x1c\r\n"


def test_nothing_but_the_ledger_is_left_in_the_folder(slow: Desk) -> None:
    slow.ask(range(3))
    assert {path.name.partition(".sqlite")[0] for path in slow.folder.iterdir()} == {"ledger"}


@properties
@given(st.lists(st.integers(0, 400), max_size=60), st.integers(1, 9), st.integers(500, 2000))
def test_portions_hold_every_request_once_in_its_order(lengths: list[int], lines: int, size: int) -> None:
    requests = [(number.to_bytes(16, "big"), Place(0, length)) for number, length in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "MOST_LINES", lines)
        patch.setattr(spool, "MOST_BYTES", size)
        found = list(portions(requests))
    assert [one for portion in found for one in portion] == requests
    assert all(1 <= len(portion) <= lines for portion in found)
    assert all(len(portion) == 1 or sum(line_length(*one) for one in portion) <= size for portion in found)
