from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from support.calling import Outcome, answering, asking, client, collect, endpoint, rows
from support.server import Behaviour, serving
from tapir.domain.errors import RoleError
from tapir.models.api.connection import CallError
from tapir.models.api.facts import check_reachable
from tapir.models.api.limits import FIRST
from tapir.models.api.retry import RetryPolicy, error_kind, is_fatal, is_retryable, retry_after, stated_status

FAULTS = Behaviour(latency=0.01, error_share=0.05, hang_share=0.02, cut_share=0.06, nonsense_share=0.04)


# Faults of single calls


def test_with_many_kinds_of_faults_every_row_ends_done_or_failed_with_a_reason(tmp_path: Path) -> None:
    with serving(FAULTS) as server, client(endpoint(server.url, concurrency=32, timeout=0.5), tmp_path) as made:
        outcome = collect(made, rows(300))
        stats = server.stats()
    assert set(outcome.replies) == set(range(300))
    assert min(stats.faults[kind] for kind in ("error", "hang", "cut", "nonsense")) > 1
    assert all(one.kind and one.message and one.attempts == 6 for one in outcome.failures.values())
    assert outcome.ends["done"] >= 298


def test_a_server_that_becomes_slow_is_waited_for(tmp_path: Path) -> None:
    with serving(Behaviour(latency=0.0)) as server, client(endpoint(server.url, concurrency=16), tmp_path) as made:
        stream = made.stream(["e"], rows(100))
        outcome = Outcome().take(next(stream) for _ in range(60))
        server.set(latency=0.6)
        outcome.take(stream)
        assert server.stats().requests == 100
    assert outcome.ends == {"done": 100}


# Retry policy

DASHSCOPE = (
    '{"error": {"message": "You exceeded your current quota, please check your plan and billing details. For details,'
    ' see: https://help.aliyun.com/model-studio/error-code#token-limit", "code": "insufficient_quota"}}'
)
TOO_LARGE = (
    b"Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 35000. The input or output tokens"
    b" must be reduced in order to run successfully."
)


def test_the_backoff_grows_up_to_half_a_minute_and_attempts_end() -> None:
    policy = RetryPolicy(attempts=3)
    for attempts, longest in ((1, 0.5), (2, 1.5), (3, 4.5), (9, 30.0)):
        assert longest / 2 <= policy.backoff_seconds(attempts) <= longest
    assert [policy.allows(attempts) for attempts in (1, 2, 3)] == [True, True, False]
    assert not policy.allows(1, rate_limited=50)
    assert [error_kind(status) for status in (429, 503, 400)] == ["rate-limit", "server", "bad-request"]
    assert {error_kind(status) for status in (424, 498, 500, 525, 530, 598)} == {"server"}
    assert {error_kind(status) for status in (408, 499, 504, 524)} == {"timeout"}
    assert {error_kind(status) for status in (301, 413, 422)} == {"bad-request"}
    assert [is_retryable(error_kind(status)) for status in (429, 503, 400)] == [True, True, False]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1m30s"}, 90.0),
        ({"retry-after": "\udcff"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1445412510", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"retry-after-ms": "1445412510000", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"retry-after": "1445412510"}, 0.0),
        ({}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 99 Oct 2015 07:28:30 GMT"}, None),
    ],
    ids=str,
)
def test_the_wait_that_a_server_asks_for_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("content", "seconds"),
    [
        (b"Please try again in 1h12m.", 4320.0),
        (b"Please retry in 34.07s", 34.07),
        (b"Rate limit reached, try again in 850ms", 0.85),
        (b'{"retryDelay": "21s"}', 21.0),
        (b"Your limit resets after 2 hours 5 minutes", 7500.0),
        (b"Try again later.", None),
        (b"The upstream timed out; waited 300 seconds", None),
        (b"You get access again in 1 month", None),
        (b"Bad request: 3s", None),
    ],
)
def test_the_wait_that_a_server_asks_for_is_read_from_its_words_too(content: bytes, seconds: float | None) -> None:
    assert retry_after({}, content) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        ("You exceeded your current quota, please check your plan and billing details.", True),
        ("insufficient_quota", True),
        ("Your credit balance is too low to access the API.", True),
        ("Insufficient Balance", True),
        ("Key limit exceeded (total limit)", True),
        ("You have no credits left", True),
        ("You have reached your specified API usage limits. You will regain access on 2026-04-01.", True),
        ("Account x is suspended, possibly due to reaching the monthly spending limit", True),
        ("Credit limit exceeded, please upgrade your plan", True),
        ("Access denied, please make sure your account is in good standing. Arrearage", True),
        ("\u60a8\u7684\u8d26\u6237\u5df2\u6b20\u8d39", True),
        ("AccountOverdueError: your account has an overdue balance", True),
        ("Your input was flagged. No credits were charged.", False),
        ("Context too long: My library book is overdue. What now?", False),
        ('{"detail": [{"msg": "too long", "input": "What are insufficient funds?"}]}', False),
        ("Quota exceeded for requests per day; please retry in 3600s", False),
        ("Rate limit reached on tokens per day (TPD)", False),
        ("You exceeded your current quota. Please retry in 34.07s", False),
        ("Too many requests", False),
        (DASHSCOPE, False),
        ("Throttling.AllocationQuota: Allocated quota exceeded, please increase your quota limit.", False),
        ("Quota exceeded for aiplatform/online_prediction_requests_per_base_model with base model: gemini-2.5", False),
        ('{"error": {"message": "no JSON", "failed_generation": "You have insufficient funds."}}', False),
        ('{"error": {"message": "flagged", "metadata": {"flagged_input": "Payment required"}}}', False),
        ('{"error": {"message": "\\u4f59\\u989d\\u4e0d\\u8db3"}}', True),
    ],
)
def test_out_of_quota_is_known_by_the_servers_words_and_a_rate_limit_is_none(words: str, *, ends: bool) -> None:
    assert is_fatal(429, words.encode()) is ends


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        ("API key expired. Please renew the API key.", True),
        ("API key not valid. Please pass a valid API key.", True),
        ("This organization has been disabled.", True),
        ("The organization of the text is unclear", False),
        ("messages.0: unexpected field", False),
    ],
)
def test_a_bad_request_about_the_key_or_its_owner_is_a_refused_key(words: str, *, ends: bool) -> None:
    assert is_fatal(400, json.dumps({"error": {"message": words}}).encode()) is ends


def test_a_request_that_no_wait_makes_smaller_is_a_bad_one() -> None:
    assert error_kind(429, TOO_LARGE) == "bad-request"
    assert not is_fatal(429, TOO_LARGE)


def test_the_moment_that_a_router_names_beside_its_words_is_read() -> None:
    error = {"error": {"message": "free-models-per-min", "metadata": {"headers": {"X-RateLimit-Reset": "%d"}}}}
    content = (json.dumps(error) % 1445412510000).encode()
    assert retry_after({"date": "Wed, 21 Oct 2015 07:28:00 GMT"}, content) == 30.0


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ({"error": {"message": "away", "code": 502}}, 502),
        ({"error": {"message": "no", "code": "429"}}, 429),
        ({"error": {"message": "You have insufficient_quota"}}, 402),
        ({"error": {"message": "You have insufficient_quota", "code": 429}}, 429),
        ({"error": {"message": "away", "code": "bad_gateway"}}, None),
        ({"error": {"message": "away", "code": 7}}, None),
        ({"error": None, "choices": []}, None),
        ({"message": "insufficient_quota"}, 402),
        ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, 402),
        ({"code": 429, "message": "slowly"}, 429),
        ({"choices": [{"message": {"content": None, "refusal": "It has insufficient funds."}}]}, None),
        ([], None),
        ([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}], 429),
        ({"error": {"message": "Rate limit exceeded", "type": "rate_limit_error"}}, 429),
        ({"error": "Too many concurrent requests"}, 429),
        ({"choices": [{"message": {"content": "About the rate limit"}}]}, None),
        ({"error": {"message": "slowly", "code": 1302, "status": 429}}, 429),
    ],
)
def test_an_error_inside_a_reply_names_a_status_or_none(content: object, status: int | None) -> None:
    assert stated_status(json.dumps(content).encode()) == status


def test_a_503_with_a_wait_pauses_the_endpoint(tmp_path: Path) -> None:
    said = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 77\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with answering(said) as url, client(endpoint(url, concurrency=1), tmp_path) as made:
        connection = made.endpoints["e"]

        async def once() -> tuple[object, float]:
            outcome = await connection.call(connection.acquire(time.monotonic(), 10), b"{}")
            connection.concurrency.release()
            return outcome, connection.wait(time.monotonic())

        outcome, wait = made.wait_for(once())
    assert isinstance(outcome, CallError)
    assert (outcome.failure.kind, outcome.retryable, outcome.retry_after) == ("server", True, 77.0)
    assert 60 < wait <= 77


def test_a_rate_limit_is_learnt_and_kept(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.01, rate_limit=20, rate_window=0.5)) as server,
        client(endpoint(server.url), tmp_path) as made,
    ):
        assert collect(made, rows(60)).ends == {"done": 60}
        assert server.stats().requests <= 90


# Requests that are refused


def test_a_request_that_is_too_long_fails_alone(tmp_path: Path) -> None:
    requests = dict(rows(200))
    for key in (3, 50, 51, 120):
        requests[key] = asking(f"{key} " + "long " * 400)
    with serving(Behaviour(latency=0.0, context_limit=100)) as server, client(endpoint(server.url), tmp_path) as made:
        outcome = collect(made, requests.items())
        assert server.stats().requests == 200
    assert outcome.ends == {"done": 196, "bad-request": 4}
    assert set(outcome.failures) == {3, 50, 51, 120}
    assert all("maximum context length" in one.message for one in outcome.failures.values())
    assert {one.attempts for one in outcome.failures.values()} == {1}


def test_ten_refusals_and_no_reply_stop_the_run(tmp_path: Path) -> None:
    with serving(Behaviour(latency=0.0, status_for_all=400)) as server, client(endpoint(server.url), tmp_path) as made:
        with pytest.raises(RoleError, match=r"refused the first 10 requests.*every call is refused") as caught:
            collect(made, rows(1000))
        assert server.stats().requests <= 10 + FIRST
    assert "extra fields" in caught.value.remedy


@pytest.mark.parametrize("status", [401, 402, 403, 404, 407, 410])
def test_a_key_or_a_model_that_is_refused_stops_the_run_with_the_first_calls(tmp_path: Path, status: int) -> None:
    with (
        serving(Behaviour(latency=0.05, status_for_all=status)) as server,
        client(endpoint(server.url, "m-1", concurrency=100), tmp_path) as made,
    ):
        for _ in range(2):
            with pytest.raises(RoleError, match=f"HTTP {status}: every call is refused") as caught:
                collect(made, rows(1000))
            assert server.stats().requests <= FIRST
    assert "endpoints.e" in str(caught.value)
    assert "'m-1'" in str(caught.value)
    assert "base_url" in caught.value.remedy


def test_a_model_that_the_server_does_not_have_is_named(tmp_path: Path) -> None:
    with (
        serving(Behaviour(latency=0.0, models=("good",))) as server,
        client(endpoint(server.url, "bad"), tmp_path) as made,
    ):
        with pytest.raises(RoleError, match="no model 'bad'; it has good"):
            check_reachable(made)
        with pytest.raises(RoleError, match="The model `bad` does not exist"):
            collect(made, rows(100))


def test_an_invalid_address_is_named(tmp_path: Path) -> None:
    unchecked = endpoint().model_copy(update={"base_url": "localhost:8000/v1"})
    with client(unchecked, tmp_path) as made, pytest.raises(RoleError, match="localhost:8000/v1"):
        collect(made, rows(100))
