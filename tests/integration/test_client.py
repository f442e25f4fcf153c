from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.calling import PRICES, asking, client, collect, endpoint, rows
from support.server import Behaviour, serving
from tapir.config.endpoints import EndpointConfig
from tapir.domain.completion import Completion
from tapir.domain.errors import RoleError, StoreError
from tapir.models.api.client import ApiClient
from tapir.models.api.ledger import Purpose
from tapir.models.api.protocol import Request, Sampling, body, digest
from tapir.models.api.scheduler import QueuedRequest

QUICK = Behaviour(latency=0.01)


def echo(messages: Sequence[Mapping[str, Any]], _body: Mapping[str, Any]) -> str:
    return f"You said: {messages[-1]['content']}"


# What comes back


def test_every_request_gets_its_own_reply(tmp_path: Path) -> None:
    with serving(QUICK, brain=echo) as server, client(endpoint(server.url), tmp_path) as made:
        replies = collect(made, rows(300)).replies
        assert server.stats().requests == 300
    assert len(replies) == 300
    for key, reply in replies.items():
        assert isinstance(reply, Completion)
        assert reply.text.startswith(f"You said: {key} is")
        assert (reply.finish_reason, reply.model) == ("stop", "m")


@pytest.mark.parametrize("where", ["reasoning", "reasoning_content", "inline"])
def test_reasoning_is_kept_apart_from_the_reply_also_in_the_ledger(tmp_path: Path, where: str) -> None:
    with serving(Behaviour(latency=0.0, reasoning=where)) as server:
        for _ in range(2):
            with client(endpoint(server.url), tmp_path) as made:
                (reply,) = collect(made, rows(1)).replies.values()
            assert isinstance(reply, Completion)
            assert reply.reasoning
            assert "think>" not in reply.text
            assert reply.reasoning not in reply.text
        assert server.stats().requests == 1


def test_logprobs_come_with_the_reply_also_from_the_ledger(tmp_path: Path) -> None:
    request = Request([{"role": "user", "content": "Judge: <score>"}], Sampling(0.0, 99, logprobs=True))
    found = []
    with serving(QUICK) as server:
        for _ in range(2):
            with client(endpoint(server.url), tmp_path) as made:
                (reply,) = collect(made, [(0, request)]).replies.values()
            assert isinstance(reply, Completion)
            found.append(reply)
    assert "".join(one.text for one in found[0].tokens) == found[0].text
    assert len(found[0].tokens[0].alternatives) == 20
    assert found[0] == found[1]


def test_texts_of_a_megabyte_go_there_and_back(tmp_path: Path) -> None:
    text = "Ünïcode 😀 " * 80_000
    with serving(QUICK, brain=echo) as server, client(endpoint(server.url), tmp_path) as made:
        (reply,) = collect(made, [(0, asking(text, max_tokens=10**7))]).replies.values()
    assert isinstance(reply, Completion)
    assert reply.text == f"You said: {text}"


def test_what_a_call_was_made_for_stands_in_the_ledger(tmp_path: Path) -> None:
    request = Request([{"role": "user", "content": "A"}], Sampling(0.0, 9), task="Math")
    with serving(QUICK) as server, client(endpoint(server.url, **PRICES), tmp_path) as made:
        made.enter(2, "judge")
        list(made.stream(["e"], [(0, request)]))
        (spent,) = made.ledger.spent()
        assert spent.purpose == Purpose("run", 2, "judge", "Math")
        assert spent.cost == pytest.approx(made.budget.spent)
        assert made.budget.spent == pytest.approx(endpoint(**PRICES).cost(made.budget.usage))


# Paid once


def test_equal_requests_in_flight_are_sent_once_and_all_get_the_reply(tmp_path: Path) -> None:
    requests = [(key, asking(f"Only {key % 7}")) for key in range(70)]
    with serving(QUICK) as server, client(endpoint(server.url), tmp_path) as made:
        replies = collect(made, requests).replies
        assert server.stats().requests == 7
    assert all(replies[key] == replies[key % 7] for key in range(70))


def test_a_reply_is_paid_once_across_runs_that_share_a_ledger(tmp_path: Path) -> None:
    with serving(QUICK) as server:
        paid = endpoint(server.url, **PRICES)
        with client(paid, tmp_path, run="one") as made:
            first = collect(made, rows(50)).replies
        with client(paid, tmp_path, run="two") as made:
            second = collect(made, rows(60)).replies
            assert (made.budget.calls, made.budget.reused) == (10, 50)
            assert {one.purpose.run: one.calls for one in made.ledger.spent()} == {"one": 50, "two": 10}
        assert server.stats().requests == 60
    assert all(second[key] == first[key] for key in first)


def test_a_failure_is_not_kept_so_that_another_run_may_try_again(tmp_path: Path) -> None:
    with serving(Behaviour(latency=0.0, context_limit=50)) as server:
        paid = endpoint(server.url)
        requests = [(0, asking("short")), (1, asking("long " * 100))]
        with client(paid, tmp_path) as made:
            assert collect(made, requests).ends == {"done": 1, "bad-request": 1}
        server.set(context_limit=0)
        with client(paid, tmp_path) as made:
            assert collect(made, requests).ends == {"done": 2}


# How the work is done


def test_requests_are_taken_as_there_is_room_for_them(tmp_path: Path) -> None:
    taken = 0

    def endless() -> Iterator[tuple[int, Request]]:
        nonlocal taken
        for key, request in rows(10**6):
            taken += 1
            yield key, request

    with (
        serving(QUICK) as server,
        client(endpoint(server.url, concurrency=16), tmp_path) as made,
        closing(made.stream(["e"], endless())) as stream,  # type: ignore[type-var]
    ):
        most = 0
        for done, _ in enumerate(stream, start=1):
            most = max(most, taken - done)
            if done == 500:
                break
    assert most <= 64


def test_several_endpoints_reach_their_limits_together(tmp_path: Path) -> None:
    with serving(Behaviour(latency=0.05)) as server:
        four = {name: endpoint(server.url, concurrency=40) for name in "abcd"}
        with client(four, tmp_path) as made:
            taken = iter(rows(1_000))
            for each in made.endpoints.values():
                each.concurrency.limit = 40.0  # as after its first reply
            with closing(made.stream([*four], taken)) as stream:  # type: ignore[type-var]
                next(stream)
                assert next(taken)[0] >= 2 * 4 * 40
                assert [each.concurrency.limit for each in made.endpoints.values()] == [40.0] * 4


def test_a_body_is_made_once_for_all_endpoints_that_send_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    def counted(config: EndpointConfig, request: Request) -> bytes:
        sent.append(config.model)
        return body(config, request)

    monkeypatch.setattr("tapir.models.api.client.body", counted)
    named = {
        **{f"a{number}": endpoint(f"http://localhost:{number}/v1", "a", concurrency=number) for number in range(1, 6)},
        "b": endpoint(model="b"),
        "thinks": endpoint(model="a", thinking_tokens=100),
        "more": endpoint(model="a", extra={"top_k": 1}),
    }
    with client(named, tmp_path) as made:
        (_, request), (_, other) = made.prepare([*made.endpoints.values()], [*rows(2)])
    assert sorted(sent) == ["a"] * 6 + ["b"] * 2
    assert isinstance(request, QueuedRequest)
    assert isinstance(other, QueuedRequest)
    assert [id(one) for one in request.bodies[:5]] == [id(request.bodies[0])] * 5
    assert len({*request.digests}) == 4
    assert list(request.bodies) == [
        body(each, asking("0 is the number of this row. <score>")) for each in named.values()
    ]
    assert list(request.digests) == [digest(each, 0) for each in request.bodies]


def test_no_more_calls_are_in_flight_than_the_recipe_says_and_connections_are_used_again(tmp_path: Path) -> None:
    with serving(Behaviour(latency=0.02)) as server, client(endpoint(server.url, concurrency=12), tmp_path) as made:
        collect(made, rows(300))
        assert server.stats().in_flight_max == 12
        assert server.stats().connections <= 14


def test_a_client_works_where_a_loop_runs_already(tmp_path: Path) -> None:
    async def notebook() -> int:
        with serving(QUICK) as server, client(endpoint(server.url), tmp_path) as made:
            return collect(made, rows(20)).ends["done"]

    assert asyncio.run(notebook()) == 20


def test_the_reply_of_either_endpoint_is_found_in_the_ledger(tmp_path: Path) -> None:
    with serving(QUICK) as one, serving(QUICK) as two:
        endpoints = {"a": endpoint(one.url, "m-one"), "b": endpoint(two.url, "m-two")}
        for _ in range(2):
            with client(endpoints, tmp_path) as made:
                assert collect(made, rows(40), ["a", "b"]).ends == {"done": 40}
        assert one.stats().requests + two.stats().requests == 40


# Endings


def tasks_of(made: ApiClient) -> set[str]:
    """Names of the coroutines that the client's loop still has to do."""

    async def look() -> set[str]:
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        return {str(one.get_coro()) for one in others}

    return made.wait_for(look())


def test_a_stream_that_is_left_early_leaves_nothing_behind_and_the_client_goes_on(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.05)) as server,
        client(endpoint(server.url, concurrency=20, **PRICES), tmp_path, max_cost=100.0) as made,
    ):
        for _ in range(3):
            for done, _ in enumerate(made.stream(["e"], rows(500)), start=1):
                if done == 10:
                    break
            gc.collect()
            assert made.endpoints["e"].concurrency.in_flight == 0
            assert made.budget.reserved == pytest.approx(0)
            assert tasks_of(made) == set()
        assert server.stats().in_flight == 0
        assert collect(made, rows(100)).ends == {"done": 100}


def test_a_stream_that_is_closed_before_its_calls_began_leaves_nothing_behind(tmp_path: Path) -> None:
    def stumbling() -> Iterator[tuple[int, Request]]:
        yield from rows(5)
        raise LookupError("no more rows")

    with serving(QUICK) as server, client(endpoint(server.url, **PRICES), tmp_path) as made:
        for _ in range(5):
            with pytest.raises(LookupError):
                collect(made, stumbling())
        assert (made.endpoints["e"].concurrency.in_flight, made.budget.reserved) == (0, 0)
        assert collect(made, rows(10)).ends == {"done": 10}


def test_a_client_that_is_closed_twice_or_cannot_begin_leaves_no_thread(tmp_path: Path) -> None:
    with serving(QUICK) as server:
        before = set(threading.enumerate())
        with client(endpoint(server.url), tmp_path / "good") as made:
            collect(made, rows(10))
            made.close()
            assert set(threading.enumerate()) == before
        with pytest.raises(RoleError, match="NO_SUCH_KEY"), client(endpoint(key="NO_SUCH_KEY"), tmp_path):
            pass
        (tmp_path / "ledger.sqlite").write_text("This is no ledger. " * 100)
        with pytest.raises(StoreError), client(endpoint(), tmp_path):
            pass
        assert set(threading.enumerate()) == before


def test_a_ledger_that_cannot_be_written_stops_the_stage_with_its_reason(tmp_path: Path) -> None:
    with serving(QUICK) as server, client(endpoint(server.url), tmp_path) as made:
        made.writing_ledger.close()
        with pytest.raises(StoreError, match="ledger"):
            collect(made, rows(10))


def test_an_unexpected_error_stops_the_stage_instead_of_hanging_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Completion:
        raise ArithmeticError("two and two")

    monkeypatch.setattr("tapir.models.api.connection.read_reply", broken)
    with (
        serving(QUICK) as server,
        client(endpoint(server.url), tmp_path) as made,
        pytest.raises(RoleError, match="two and two"),
    ):
        collect(made, rows(10))
