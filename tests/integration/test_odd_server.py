"""What odd servers send, and what it costs: money, refusals, quota, and endings that nobody knows."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.batches import QUICK as QUICK_BATCHES
from support.batches import TWICE, provider, questions
from support.calling import PRICES, answering, asking, client, collect, endpoint, rows
from support.fake_replies import BILLED
from support.server import Behaviour, Server, serving
from tapir.config.endpoints import EndpointConfig
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.errors import CostLimit, Interrupted, RoleError
from tapir.models.api import connection
from tapir.models.api.batch import stream_batches
from tapir.models.api.client import ApiClient
from tapir.models.api.connection import EndpointClient
from tapir.models.api.ledger import Ledger
from tapir.models.api.limits import FIRST
from tapir.models.api.usage import count_prompt

QUICK = Behaviour(latency=0.0)


def bill(server: Server, config: EndpointConfig) -> float:
    """What the provider wants for what it sent."""
    stats = server.stats()
    return config.cost(Usage(stats.prompt_tokens, stats.completion_tokens), batched=config.batch)


def in_ledger(made: ApiClient, *, possibly: bool = False) -> float:
    return sum(one.cost for one in made.ledger.spent("run", possibly=possibly))


def at_most(number: int = 0) -> float:
    """What a call of `rows` that ended without a word may have cost."""
    return endpoint(**PRICES).cost(Usage(count_prompt(dict(rows(1, number))[number].messages), 64))


# Money


@pytest.mark.parametrize("how", ["whole", "streamed"])
@pytest.mark.parametrize("odd", ["", *BILLED])
def test_what_a_provider_bills_is_what_is_counted(tmp_path: Path, odd: str, how: str) -> None:
    with serving(replace(QUICK, odd=odd)) as server:
        paid = endpoint(server.url, stream=how == "streamed", **PRICES)
        with client(paid, tmp_path) as made:
            with suppress(RoleError):  # where every reply is a failure
                collect(made, rows(30))
            assert server.stats().requests >= 10
            assert bill(server, paid) <= made.budget.spent + 1e-9 <= 1.1 * bill(server, paid)
            assert in_ledger(made) == pytest.approx(made.budget.spent)
            assert made.budget.possible == 0


@pytest.mark.parametrize("odd", ["xai", "xai-details", "zero-usage", "filtered", "filtered-no-usage", "empty"])
def test_the_limit_is_passed_by_no_more_than_the_calls_in_flight(tmp_path: Path, odd: str) -> None:
    with serving(Behaviour(latency=0.01, odd=odd)) as server:
        paid = endpoint(server.url, concurrency=4, **PRICES)
        limit = 12 * at_most()
        for turn in range(2):
            with client(paid, tmp_path, max_cost=limit) as made, pytest.raises((CostLimit, RoleError)):
                collect(made, rows(400, start=400 * turn))
        stats = server.stats()
        call = bill(server, paid) / stats.requests
        assert bill(server, paid) <= limit + 4 * 1.5 * call
        assert stats.requests < 400


def test_a_refusal_that_was_paid_for_is_not_asked_for_again(tmp_path: Path) -> None:
    with serving(replace(QUICK, odd="filtered")) as server:
        for _ in range(2):
            with client(endpoint(server.url, **PRICES), tmp_path) as made:
                assert collect(made, rows(9)).ends == {"refused": 9}
        assert server.stats().requests == 9
    assert (made.budget.calls, made.budget.reused) == (0, 9)


@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(latency=0.0, hang_share=1.0), replace(QUICK, cut_share=1.0), replace(QUICK, odd="empty-no-usage")],
    ids=["hang", "cut", "empty"],
)
def test_what_may_have_been_billed_is_counted_apart_and_survives_a_resume(tmp_path: Path, behaviour: Behaviour) -> None:
    with serving(behaviour) as server:
        paid = endpoint(server.url, timeout=0.1, **PRICES)
        with client(paid, tmp_path) as made:
            assert set(collect(made, rows(2)).ends) <= {"timeout", "cut", "malformed"}
            assert made.budget.spent == 0
        with client(paid, tmp_path, max_cost=20 * at_most()) as made:
            assert made.budget.possible == pytest.approx(12 * at_most()) == in_ledger(made, possibly=True)
            assert bill(server, paid) <= made.budget.possible + 1e-9
            with pytest.raises(
                CostLimit, match=r"0\.0000 is spent, 0\.\d+ more may have been billed and the next call"
            ):
                collect(made, rows(20))


def test_calls_that_are_left_in_flight_may_have_been_billed(tmp_path: Path) -> None:
    with (
        serving(replace(QUICK, hang_share=0.5)) as server,
        client(endpoint(server.url, concurrency=16, **PRICES), tmp_path) as made,
    ):
        for _ in made.stream(["e"], rows(100)):
            break
        gc.collect()  # the stream is closed with it
        left = server.stats().faults["hang"]
        assert made.budget.possible >= left * 0.9 * at_most() > 0
        assert made.budget.possible == pytest.approx(in_ledger(made, possibly=True))


def test_calls_that_end_without_a_word_after_their_endpoint_was_given_up_may_have_been_billed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send(one: EndpointClient, *_: object, **__: object) -> object:
        if one.concurrency.in_flight == 4 and one not in refused:
            refused.append(one)
            given_up.set()  # before the others go on
            return connection._Response(402, {}, b"Payment required")
        await given_up.wait()
        return connection.CallError(Failure("timeout", "no reply"))

    refused: list[EndpointClient] = []
    given_up = asyncio.Event()
    monkeypatch.setattr(EndpointClient, "_send", send)
    with client(endpoint(concurrency=4, **PRICES), tmp_path) as made:
        with pytest.raises(RoleError, match="Payment required"):
            collect(made, rows(4))
        assert made.budget.possible == pytest.approx(3 * at_most()) == in_ledger(made, possibly=True)


@pytest.mark.parametrize("odd", ["filtered", "empty", "empty-no-usage", "or-error", "xai"])
def test_lines_of_a_batch_are_charged_once_also_when_they_are_collected_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    close = Ledger.close_batch

    def killed(*_: object) -> None:
        raise Interrupted("killed")

    with provider(replace(QUICK_BATCHES, odd=odd), tmp_path) as made:
        monkeypatch.setattr(Ledger, "close_batch", killed)
        for _ in range(2):
            made.ask(range(6), TWICE)
        monkeypatch.setattr(Ledger, "close_batch", close)
        with made.client() as opened:
            replies = dict(stream_batches(opened, "teacher", questions(range(6)), (0.0,) * 8))
            paid = opened.endpoints["teacher"].config
            assert len(replies) == 6
            wanted, spent, possible = bill(made.server, paid), opened.budget.spent, opened.budget.possible
            assert (spent, possible) == pytest.approx((in_ledger(opened), in_ledger(opened, possibly=True)))
            assert spent == (0 if odd == "empty-no-usage" else pytest.approx(wanted))
            assert wanted <= spent + possible + 1e-9 <= 1.5 * wanted


# Words of servers


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ("no-temperature", "'temperature' does not support 0.0"),
        ("max-completion", "Use 'max_completion_tokens'"),
        ("quota429", "exceeded your current quota, please check your plan"),
        ("redirect", "HTTP 308"),
    ],
)
def test_what_every_request_would_meet_stops_the_run_in_the_servers_words_and_a_mended_one_goes_on(
    tmp_path: Path, odd: str, said: str
) -> None:
    with serving(replace(QUICK, odd=odd)) as server:
        for _ in range(2):
            with client(endpoint(server.url, **PRICES), tmp_path) as made, pytest.raises(RoleError, match=said):
                collect(made, rows(100))
        assert server.stats().requests <= 2 * (10 + FIRST)
        server.set(odd="")
        with client(endpoint(server.url, **PRICES), tmp_path) as made:
            assert collect(made, rows(100)).ends == {"done": 100}


@pytest.mark.parametrize(
    ("error", "end"),
    [
        ('{"message": "Insufficient credits", "code": 402}', "Insufficient credits"),
        ('{"message": "You have insufficient_quota"}', "insufficient_quota"),
        ('{"message": "no key", "code": "401"}', "no key"),
    ],
)
def test_an_error_in_place_of_a_reply_counts_as_the_status_it_names(tmp_path: Path, error: str, end: str) -> None:
    content = f'{{"error": {error}}}'
    for said in (content, f"data: {content}\n\n"):
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(said)}\r\nConnection: close\r\n\r\n"
        with answering((head + said).encode()) as url:
            config = endpoint(url, stream=said != content, **PRICES)
            with client(config, tmp_path) as made, pytest.raises(RoleError, match=f"cannot be used.*{end}"):
                collect(made, rows(50))
            assert (made.budget.spent, made.budget.possible) == (0, 0)


@pytest.mark.parametrize(
    ("odd", "ends", "requests"),
    [("or-error", {"done": 60}, 89), ("azure-filter", {"bad-request": 12, "done": 48}, 60)],
)
def test_faults_of_a_server_are_tried_again_and_prompts_that_it_filters_are_not(
    tmp_path: Path, odd: str, ends: dict[str, int], requests: int
) -> None:
    with serving(replace(QUICK, odd=odd)) as server, client(endpoint(server.url), tmp_path) as made:
        assert collect(made, rows(60)).ends == ends
        assert server.stats().requests == requests


def test_an_end_that_nobody_knows_is_named_once(tmp_path: Path) -> None:
    notes: list[str] = []
    with (
        serving(replace(QUICK, odd="unknown-end")) as server,
        client(endpoint(server.url), tmp_path, note=notes.append) as made,
    ):
        for start in (0, 40):
            assert collect(made, rows(40, start)).ends == {"done": 40}
    assert notes == ["endpoints.e: replies end with 'quantum_flux', which is unknown; it is taken for a normal end"]


@pytest.mark.parametrize("odd", ["parts", "eos_token"])
@pytest.mark.parametrize("how", ["whole", "streamed"])
def test_a_reply_in_parts_or_with_another_word_for_its_end_is_the_reply(tmp_path: Path, odd: str, how: str) -> None:
    said: list[Any] = []
    for mode in ("", odd):
        with (
            serving(replace(QUICK, odd=mode)) as server,
            client(endpoint(server.url, stream=how == "streamed"), tmp_path / mode) as made,
        ):
            (reply,) = collect(made, [(0, asking("Tell me about rivers.", 999))]).replies.values()
        assert isinstance(reply, Completion)
        assert reply.reasoning == ("hm" if mode == "parts" else "")
        said.append((reply.text, reply.finish_reason, reply.unknown_finish))
    assert said[0] == said[1]


def test_what_an_endpoint_billed_before_it_was_given_up_is_no_refusal_of_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b'{"error": {"message": "Payment required"}, "usage": {"prompt_tokens": 9, "completion_tokens": 0}}'

    async def out_of_credit(*_: object, **__: object) -> object:
        return connection._Response(402, {}, body)

    with serving(QUICK) as server, client(endpoint(server.url, **PRICES), tmp_path) as made:
        with monkeypatch.context() as patch:
            patch.setattr(EndpointClient, "_send", out_of_credit)
            with pytest.raises(RoleError, match="Payment required"):
                collect(made, rows(3))
        assert in_ledger(made) > 0
    with serving(QUICK) as server, client(endpoint(server.url, **PRICES), tmp_path) as made:
        assert collect(made, rows(3)).ends == {"done": 3}
