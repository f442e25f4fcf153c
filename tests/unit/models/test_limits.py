from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fake_clock import Limit, Stage
from tapir.models.api.limits import DEAD, FIRST, MOST, UNPROVEN, CircuitBreaker, ConcurrencyLimit, RateLimit

IDEAL = 100.0  # seconds for 2,000 rows at 200 per 10 s


def filled(limit: ConcurrencyLimit, now: float = 0.0) -> ConcurrencyLimit:
    """As many calls as the limit lets in flight, however they are spread."""
    while limit.wait(now) < math.inf:
        limit.acquire(now)
    return limit


def answering(limit: ConcurrencyLimit, latency: float, calls: int) -> ConcurrencyLimit:
    """So many calls answered while the limit is full."""
    for _ in range(calls):
        filled(limit)
        limit.record_success(latency)
        limit.release()
    return limit


# The limit


def test_before_the_first_answer_only_a_few_calls_are_sent() -> None:
    assert filled(ConcurrencyLimit(256)).in_flight == FIRST
    assert filled(ConcurrencyLimit()).in_flight == FIRST
    assert filled(ConcurrencyLimit(3)).in_flight == 3


def test_the_number_in_the_recipe_counts_from_the_first_answer_on() -> None:
    limit = filled(ConcurrencyLimit(256))
    limit.record_success(0.1)
    assert filled(limit).in_flight == 256


def test_a_limit_without_a_number_grows_while_latency_holds() -> None:
    limit = answering(ConcurrencyLimit(), 0.1, 200)
    assert 4 * FIRST < limit.limit < 8 * FIRST
    assert answering(limit, 0.1, 20_000).limit == MOST


def test_a_limit_does_not_grow_when_it_is_not_full_or_latency_doubles() -> None:
    idle = ConcurrencyLimit()
    for _ in range(100):
        idle.acquire(0.0)
        idle.record_success(0.1)
        idle.release()
    assert idle.limit == FIRST
    slow = answering(ConcurrencyLimit(), 0.1, 64)
    answering(slow, 0.3, 64)
    before = slow.limit
    assert answering(slow, 0.3, 100).limit == before


def test_a_limit_shrinks_at_most_once_in_a_round_trip() -> None:
    limit = ConcurrencyLimit(100)
    limit.record_success(0.1)
    limit.shrink(10.0)
    limit.shrink(10.5)
    assert limit.limit == pytest.approx(70)
    limit.shrink(11.6)
    assert limit.limit == pytest.approx(49)


def test_a_few_timeouts_do_not_shrink_a_limit_and_many_do() -> None:
    limit = answering(ConcurrencyLimit(100), 0.1, 256)
    for _ in range(25):
        limit.record_timeout(5.0)
    assert limit.limit == 100
    limit.record_timeout(5.0)
    assert limit.limit == pytest.approx(70)


def test_a_limit_that_adapts_spreads_the_calls_and_a_fixed_one_does_not() -> None:
    limit = answering(ConcurrencyLimit(), 0.08, 8)
    limit.in_flight = 0
    limit.acquire(10.0)
    assert 0 < limit.wait(10.0) <= 0.08 / FIRST
    told = answering(ConcurrencyLimit(8), 0.08, 8)
    told.in_flight = 0
    told.acquire(10.0)
    assert told.wait(10.0) <= 0


@given(
    st.integers(0, 600),
    st.lists(st.tuples(st.sampled_from(["answer", "timeout", "shrink", "reset"]), st.floats(0, 1e4)), max_size=300),
)
def test_a_limit_stays_between_one_and_its_maximum(most: int, events: list[tuple[str, float]]) -> None:
    limit = ConcurrencyLimit(most)
    for number, (event, value) in enumerate(events):
        filled(limit, float(number))
        if event == "answer":
            limit.record_success(value)
        elif event == "timeout":
            limit.record_timeout(number * 2.0)
        elif event == "shrink":
            limit.shrink(number * 2.0)
        else:
            limit.reset()
        limit.in_flight = 0
        assert 1 <= limit.limit <= (most or MOST)


# Rate


@pytest.mark.parametrize("seconds", [2.5, 7.0])
def test_the_wait_after_a_429_is_the_retry_after_of_the_server(seconds: float) -> None:
    rate = RateLimit()
    rate.record_429(1.0, rate.acquire(0.0, 0), seconds)
    assert rate.wait(1.0) == pytest.approx(seconds)
    assert rate.wait(1.0 + seconds) <= 0


def paced(rate: RateLimit, seconds: float, tokens: int = 0) -> list[float]:
    """When calls are sent if each goes as soon as it may."""
    now, found = 0.0, []
    while now < seconds:
        wait = rate.wait(now)
        if wait > 0:
            now += max(wait, 1e-6)
            continue
        rate.acquire(now, tokens)
        found.append(now)
    return found


def most_within(moments: list[float], window: float) -> int:
    first, most = 0, 0
    for last, moment in enumerate(moments):
        while moments[first] <= moment - window:
            first += 1
        most = max(most, last - first + 1)
    return most


@settings(max_examples=30, deadline=None)
@given(st.integers(6, 3000), st.floats(1, 60))
def test_a_known_rate_is_never_exceeded_by_more_than_a_seconds_worth(per_minute: int, window: float) -> None:
    moments = paced(RateLimit.per_minute(per_minute, 0), 65)
    assert most_within(moments, window) <= per_minute / 60 * (window + 1) + 1
    assert len(moments) >= per_minute / 60 * 65 - 1


@settings(max_examples=30, deadline=None)
@given(st.integers(600, 100_000), st.integers(1, 500))
def test_a_known_rate_of_tokens_is_kept(per_minute: int, tokens: int) -> None:
    moments = paced(RateLimit.per_minute(0, per_minute), 10, tokens)
    assert len(moments) * tokens <= per_minute / 60 * 11 + tokens


def test_tokens_that_a_call_took_beyond_what_was_thought_delay_the_next() -> None:
    rate = RateLimit.per_minute(0, 6000)
    rate.acquire(0.0, 200)
    before = rate.wait(0.0)
    rate.correct(100)
    assert rate.wait(0.0) == pytest.approx(before + 1.0)


def full(rate: RateLimit) -> int:
    """100 calls in a second are let through; the place of the next."""
    for number in range(100):
        rate.record_success(rate.acquire(0.01 * number, 0))
    return rate.acquire(1.0, 0)


@pytest.mark.parametrize(("said", "seconds"), [(8.999, 10.0), (9.0, 9.5), (None, 1.5)], ids=["exact", "whole", "none"])
def test_a_rate_is_learnt_from_what_was_let_through_until_the_moment_that_was_named(
    said: float | None, seconds: float
) -> None:
    rate = RateLimit()
    rate.record_429(1.0, full(rate), said)
    rate.acquire(1.0 + rate.wait(1.0), 0)
    assert rate.learnt == pytest.approx(0.98 * 100 / seconds, rel=0.001)


def test_a_server_that_refuses_again_at_once_is_given_room() -> None:
    rate = RateLimit()
    rate.record_429(1.0, full(rate), 8.999)
    rate.record_success(rate.acquire(10.0, 0))
    rate.record_429(10.1, rate.acquire(10.1, 0), 0.01)
    assert rate.wait(10.1) == pytest.approx(10 / rate.learnt)
    assert rate.learnt > 9  # one full window is no sign of a lower rate


def test_a_learnt_rate_is_tried_a_little_faster_after_a_while_and_ever_more_rarely() -> None:
    rate = RateLimit()
    rate.record_429(1.0, full(rate), 8.999)
    rate.acquire(10.0, 0)
    learnt = rate.learnt
    rate.record_success(rate.acquire(39.0, 0))
    assert rate.learnt == learnt
    for moment in range(50, 70):
        rate.record_success(rate.acquire(float(moment), 0))
    assert rate.learnt == pytest.approx(1.05 * learnt)
    rate.record_429(70.0, rate.acquire(70.0, 0), 0.5)
    rate.acquire(70.5, 0)
    assert rate.learnt <= learnt
    after = rate.learnt
    rate.acquire(70.5 + 45.0, 0)
    assert rate.learnt == after


def test_calls_that_were_on_their_way_when_a_429_came_teach_nothing_more() -> None:
    rate = RateLimit()
    places = [rate.acquire(0.01 * number, 0) for number in range(110)]
    for number, place in enumerate(places[100:]):
        rate.record_429(1.1 + number / 1000, place, 8.9)
    rate.acquire(10.0, 0)
    assert rate.learnt == pytest.approx(10, rel=0.03)


def test_a_server_that_names_no_moment_is_asked_with_single_calls() -> None:
    rate = RateLimit()
    places = [rate.acquire(0.01 * number, 0) for number in range(101)]
    rate.record_429(1.0, places[100], None)
    pauses = []
    now = 1.0
    for _ in range(4):
        pauses.append(rate.wait(now))
        now += pauses[-1]
        place = rate.acquire(now, 0)
        assert rate.wait(now) > 0.5
        rate.record_429(now, place, None)
    assert pauses == sorted(pauses)
    now += rate.wait(now)
    rate.record_success(rate.acquire(now, 0))
    assert rate.wait(now) < 0.5


@pytest.mark.parametrize("latency", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("said", ["float", "integer"])
@pytest.mark.parametrize("sliding", [False, True], ids=["fixed", "sliding"])
def test_2000_rows_at_200_per_10_seconds_meet_few_429s_and_lose_little_time(
    *, sliding: bool, said: str, latency: float
) -> None:
    stage = Stage(2000, Limit(sliding=sliding, said=said, latency=latency)).run()
    assert len(stage.accepted) == 2000
    assert stage.sent <= 2020
    assert stage.now - 1000 <= 1.1 * IDEAL


@pytest.mark.parametrize(
    ("limit", "most_sent", "slower"),
    [
        (Limit(said="date"), 2020, 1.1),
        (Limit(said="date", sliding=True), 2020, 1.1),
        (Limit(said="none"), 2020, 1.15),
        (Limit(said="none", sliding=True), 2020, 1.15),
        (Limit(after_latency=True), 2100, 1.1),
        (Limit(after_latency=True, sliding=True), 2100, 1.1),
        (Limit(said="none", after_latency=True), 2100, 1.15),
        (Limit(said="integer", requests=600, window=30.0), 2040, 1.1),
        (Limit(said="float", requests=20, window=1.0), 2040, 1.1),
    ],
    ids=str,
)
def test_other_servers_cost_a_little_more(limit: Limit, most_sent: int, slower: float) -> None:
    stage = Stage(2000, limit).run()
    assert stage.sent <= most_sent
    assert stage.now - 1000 <= slower * IDEAL


@settings(max_examples=20, deadline=None)
@given(
    st.integers(10, 400),
    st.floats(1, 30),
    st.booleans(),
    st.sampled_from(["float", "integer", "date", "none"]),
    st.floats(0.01, 3),
)
def test_no_rate_limit_stops_a_stage(requests: int, window: float, sliding: Any, said: str, latency: float) -> None:
    stage = Stage(600, Limit(requests, window, sliding=sliding, said=said, latency=latency)).run()
    assert len(stage.accepted) == 600
    assert stage.refused <= 300


# Circuit breaker


def failing(breaker: CircuitBreaker, times: int, *, now: float = 0.0, unreachable: bool = True) -> CircuitBreaker:
    for number in range(times):
        breaker.record_failure(now + number, now + number, number, unreachable=unreachable)
    return breaker


def proven() -> CircuitBreaker:
    breaker = CircuitBreaker()
    breaker.record_success(0.0)
    return breaker


def test_an_endpoint_that_never_answered_is_given_up_after_ten_failures() -> None:
    assert not failing(CircuitBreaker(), UNPROVEN - 1).dead
    assert failing(CircuitBreaker(), UNPROVEN).dead


def test_an_endpoint_that_has_answered_is_given_up_after_twenty_failures_in_a_row() -> None:
    breaker = proven()
    assert not failing(breaker, DEAD - 1).dead
    breaker.record_success(50.0)
    assert not failing(breaker, DEAD - 1, now=100).dead
    breaker.record_success(90.0)  # it was sent before the failures: it says nothing about now
    assert failing(breaker, 1, now=200).dead


def test_calls_in_flight_when_an_endpoint_broke_down_count_once() -> None:
    breaker = proven()
    for number in range(100):
        breaker.record_failure(10.0 + number / 100, 9.0, number, unreachable=True)
    assert breaker.failures == 1
    for number in range(100):  # sent while the first ones failed, before anybody was careful
        breaker.record_failure(12.0 + number / 100, 11.5, number, unreachable=True)
    assert breaker.half_open
    assert not breaker.dead
    assert breaker.failures < 10


def test_after_some_failures_trials_are_further_and_further_apart() -> None:
    breaker, now, waits = proven(), 0.0, list[float]()
    for number in range(DEAD):
        breaker.record_failure(now, now, number)
        waits.append(breaker.wait(now))
        now += max(0.0, waits[-1]) + 0.01
    assert waits[:4] == [0, 0, 0, 0]
    assert waits[4:9] == pytest.approx([0.5, 1, 2, 4, 8])
    assert waits[-1] == pytest.approx(10)
    assert now > 60


def test_one_request_that_always_fails_is_no_proof_against_the_endpoint() -> None:
    breaker = CircuitBreaker()
    for now in range(50):
        breaker.record_failure(float(now), float(now), 7)
    assert not breaker.dead
    for request in range(3):
        breaker.record_failure(100.0 + request, 100.0 + request, request)
    assert breaker.dead
