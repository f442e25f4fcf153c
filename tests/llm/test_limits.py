from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir.llm.limits import DEAD, FIRST, MOST, UNPROVEN, Breaker, Gate, Pace
from tests.llm.told_clock import Limit, Stage

IDEAL = 100.0  # seconds for 2,000 rows at 200 per 10 s


def filled(gate: Gate, now: float = 0.0) -> Gate:
    """As many calls as the limit lets in flight, however they are spread."""
    while gate.wait(now) < math.inf:
        gate.take(now)
    return gate


def answering(gate: Gate, latency: float, calls: int) -> Gate:
    """So many calls answered while the gate is full."""
    for _ in range(calls):
        filled(gate)
        gate.answered(latency)
        gate.release()
    return gate


# The gate


def test_before_the_first_answer_only_a_few_calls_are_sent() -> None:
    assert filled(Gate(256)).in_flight == FIRST
    assert filled(Gate()).in_flight == FIRST
    assert filled(Gate(3)).in_flight == 3


def test_the_number_in_the_recipe_counts_from_the_first_answer_on() -> None:
    gate = filled(Gate(256))
    gate.answered(0.1)
    assert filled(gate).in_flight == 256


def test_a_gate_without_a_number_grows_while_latency_holds() -> None:
    gate = answering(Gate(), 0.1, 200)
    assert 4 * FIRST < gate.limit < 8 * FIRST
    assert answering(gate, 0.1, 20_000).limit == MOST


def test_a_gate_does_not_grow_when_it_is_not_full_or_latency_doubles() -> None:
    idle = Gate()
    for _ in range(100):
        idle.take(0.0)
        idle.answered(0.1)
        idle.release()
    assert idle.limit == FIRST
    slow = answering(Gate(), 0.1, 64)
    answering(slow, 0.3, 64)
    before = slow.limit
    assert answering(slow, 0.3, 100).limit == before


def test_a_gate_shrinks_at_most_once_in_a_round_trip() -> None:
    gate = Gate(100)
    gate.answered(0.1)
    gate.shrink(10.0)
    gate.shrink(10.5)
    assert gate.limit == pytest.approx(70)
    gate.shrink(11.6)
    assert gate.limit == pytest.approx(49)


def test_a_few_hung_calls_do_not_shrink_a_gate_and_many_do() -> None:
    gate = answering(Gate(100), 0.1, 256)
    for _ in range(25):
        gate.timed_out(5.0, 1.0, overtaken=True)
    assert (gate.limit, gate.slow) == (100, 0.1)
    gate.timed_out(5.0, 1.0, overtaken=True)
    assert gate.limit == pytest.approx(70)
    assert gate.slow == 0.1


def test_timeouts_without_any_answer_mean_that_all_calls_take_longer() -> None:
    gate = answering(Gate(100), 0.1, 256)
    for _ in range(5):
        gate.timed_out(5.0, 1.0, overtaken=False)
    assert (gate.limit, gate.slow) == (100, 0.1)
    gate.timed_out(5.0, 1.0, overtaken=False)
    assert gate.limit == pytest.approx(70)
    assert gate.slow == 1.0
    answering(gate, 0.1, 8)
    for _ in range(5):
        gate.timed_out(9.0, 2.0, overtaken=False)
    assert gate.slow == 0.1


def test_what_the_slow_calls_take_is_known_once_all_that_were_in_flight_could_answer() -> None:
    gate = answering(Gate(40), 0.1, 39)
    assert gate.slow == math.inf
    assert answering(gate, 0.1, 1).slow == pytest.approx(0.1)
    gate.forget()
    assert gate.slow == math.inf


def test_a_gate_that_finds_its_limit_spreads_the_calls_and_one_with_a_number_does_not() -> None:
    gate = answering(Gate(), 0.08, 8)
    gate.in_flight = 0
    gate.take(10.0)
    assert 0 < gate.wait(10.0) <= 0.08 / FIRST
    told = answering(Gate(8), 0.08, 8)
    told.in_flight = 0
    told.take(10.0)
    assert told.wait(10.0) <= 0


@settings(deadline=None)
@given(
    st.integers(0, 600),
    st.lists(st.tuples(st.sampled_from(["answer", "timeout", "shrink", "forget"]), st.floats(0, 1e4)), max_size=300),
)
def test_the_limit_of_a_gate_stays_between_one_and_its_most(most: int, events: list[tuple[str, float]]) -> None:
    gate = Gate(most)
    for number, (event, value) in enumerate(events):
        filled(gate, float(number))
        if event == "answer":
            gate.answered(value)
        elif event == "timeout":
            gate.timed_out(number * 2.0, value, overtaken=value > 1)
        elif event == "shrink":
            gate.shrink(number * 2.0)
        else:
            gate.forget()
        gate.in_flight = 0
        assert 1 <= gate.limit <= (most or MOST)


# The pace


def paced(pace: Pace, seconds: float, tokens: int = 0) -> list[float]:
    """When calls are sent if each goes as soon as it may."""
    now, found = 0.0, []
    while now < seconds:
        wait = pace.wait(now)
        if wait > 0:
            now += max(wait, 1e-6)
            continue
        pace.sent(now, tokens)
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
    moments = paced(Pace.per_minute(per_minute, 0), 65)
    assert most_within(moments, window) <= per_minute / 60 * (window + 1) + 1
    assert len(moments) >= per_minute / 60 * 65 - 1


@settings(max_examples=30, deadline=None)
@given(st.integers(600, 100_000), st.integers(1, 500))
def test_a_known_rate_of_tokens_is_kept(per_minute: int, tokens: int) -> None:
    moments = paced(Pace.per_minute(0, per_minute), 10, tokens)
    assert len(moments) * tokens <= per_minute / 60 * 11 + tokens


def test_tokens_that_a_call_took_beyond_what_was_thought_delay_the_next() -> None:
    pace = Pace.per_minute(0, 6000)
    pace.sent(0.0, 200)
    before = pace.wait(0.0)
    pace.correct(100)
    assert pace.wait(0.0) == pytest.approx(before + 1.0)


def test_a_pause_is_as_long_as_the_server_said() -> None:
    pace = Pace()
    pace.limited(1.0, pace.sent(0.0, 0), 7.5)
    assert pace.wait(1.0) == pytest.approx(7.5)


def full(pace: Pace) -> int:
    """100 calls in a second are let through; the place of the next."""
    for number in range(100):
        pace.accepted(pace.sent(0.01 * number, 0))
    return pace.sent(1.0, 0)


@pytest.mark.parametrize(("said", "seconds"), [(8.999, 10.0), (9.0, 9.5), (None, 1.5)], ids=["exact", "whole", "none"])
def test_a_rate_is_learnt_from_what_was_let_through_until_the_moment_that_was_named(
    said: float | None, seconds: float
) -> None:
    pace = Pace()
    pace.limited(1.0, full(pace), said)
    pace.sent(1.0 + pace.wait(1.0), 0)
    assert pace.learnt == pytest.approx(0.98 * 100 / seconds, rel=0.001)


def test_a_server_that_refuses_again_at_once_is_given_room() -> None:
    pace = Pace()
    pace.limited(1.0, full(pace), 8.999)
    pace.accepted(pace.sent(10.0, 0))
    pace.limited(10.1, pace.sent(10.1, 0), 0.01)
    assert pace.wait(10.1) == pytest.approx(10 / pace.learnt)
    assert pace.learnt > 9  # one full window is no sign of a lower rate


def test_a_learnt_rate_is_tried_a_little_faster_after_a_while_and_ever_more_rarely() -> None:
    pace = Pace()
    pace.limited(1.0, full(pace), 8.999)
    pace.sent(10.0, 0)
    learnt = pace.learnt
    pace.accepted(pace.sent(39.0, 0))
    assert pace.learnt == learnt
    for moment in range(50, 70):
        pace.accepted(pace.sent(float(moment), 0))
    assert pace.learnt == pytest.approx(1.05 * learnt)
    pace.limited(70.0, pace.sent(70.0, 0), 0.5)
    pace.sent(70.5, 0)
    assert pace.learnt <= learnt
    after = pace.learnt
    pace.sent(70.5 + 45.0, 0)
    assert pace.learnt == after


def test_calls_that_were_on_their_way_when_a_429_came_teach_nothing_more() -> None:
    pace = Pace()
    places = [pace.sent(0.01 * number, 0) for number in range(110)]
    for number, place in enumerate(places[100:]):
        pace.limited(1.1 + number / 1000, place, 8.9)
    pace.sent(10.0, 0)
    assert pace.learnt == pytest.approx(10, rel=0.03)


def test_a_server_that_names_no_moment_is_asked_with_single_calls() -> None:
    pace = Pace()
    places = [pace.sent(0.01 * number, 0) for number in range(101)]
    pace.limited(1.0, places[100], None)
    pauses = []
    now = 1.0
    for _ in range(4):
        pauses.append(pace.wait(now))
        now += pauses[-1]
        place = pace.sent(now, 0)
        assert pace.wait(now) > 0.5
        pace.limited(now, place, None)
    assert pauses == sorted(pauses)
    now += pace.wait(now)
    pace.accepted(pace.sent(now, 0))
    assert pace.wait(now) < 0.5


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


# The breaker


def failing(breaker: Breaker, times: int, *, now: float = 0.0, unreachable: bool = True) -> Breaker:
    for number in range(times):
        breaker.failed(now + number, now + number, number, unreachable=unreachable)
    return breaker


def proven() -> Breaker:
    breaker = Breaker()
    breaker.answered(0.0)
    return breaker


def test_an_endpoint_that_never_answered_is_given_up_after_ten_failures() -> None:
    assert not failing(Breaker(), UNPROVEN - 1).dead
    assert failing(Breaker(), UNPROVEN).dead


def test_an_endpoint_that_has_answered_is_given_up_after_twenty_failures_in_a_row() -> None:
    breaker = proven()
    assert not failing(breaker, DEAD - 1).dead
    breaker.answered(50.0)
    assert not failing(breaker, DEAD - 1, now=100).dead
    breaker.answered(90.0)  # it was sent before the failures: it says nothing about now
    assert failing(breaker, 1, now=200).dead


def test_calls_in_flight_when_an_endpoint_broke_down_count_once() -> None:
    breaker = proven()
    for number in range(100):
        breaker.failed(10.0 + number / 100, 9.0, number, unreachable=True)
    assert breaker.failures == 1
    for number in range(100):  # sent while the first ones failed, before anybody was careful
        breaker.failed(12.0 + number / 100, 11.5, number, unreachable=True)
    assert breaker.careful
    assert not breaker.dead
    assert breaker.failures < 10


def test_after_some_failures_trials_are_further_and_further_apart() -> None:
    breaker, now, waits = proven(), 0.0, list[float]()
    for number in range(DEAD):
        breaker.failed(now, now, number)
        waits.append(breaker.wait(now))
        now += max(0.0, waits[-1]) + 0.01
    assert waits[:4] == [0, 0, 0, 0]
    assert waits[4:9] == pytest.approx([0.5, 1, 2, 4, 8])
    assert waits[-1] == pytest.approx(10)
    assert now > 60


def test_one_request_that_always_fails_is_no_proof_against_the_endpoint() -> None:
    breaker = Breaker()
    for now in range(50):
        breaker.failed(float(now), float(now), 7)
    assert not breaker.dead
    for request in range(3):
        breaker.failed(100.0 + request, 100.0 + request, request)
    assert breaker.dead
