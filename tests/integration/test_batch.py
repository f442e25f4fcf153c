"""Calls through the batch API: submit, stop, collect; and what may go wrong with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.batches import OFTEN, QUICK, SLOW, TWICE, Provider, provider, question, questions, texts
from tapir.domain.completion import Completion, Failure
from tapir.domain.errors import CostLimit, Interrupted, RoleError, StoreFull, Waiting
from tapir.models.api import batch as module
from tapir.models.api.batch import portions, stream_batches
from tapir.models.api.batch_api import line_length
from tapir.models.api.protocol import body

KEY = "sk-very-secret"


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Provider]:
    """A provider whose batches are complete when they are looked at."""
    with provider(QUICK, tmp_path) as made:
        yield made


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Provider]:
    """A provider whose batches are not complete until the test says so."""
    with provider(SLOW, tmp_path) as made:
        yield made


def test_a_run_ends_while_the_provider_works_and_collects_when_it_comes_back(slow: Provider) -> None:
    found, ended = slow.ask(range(10))
    assert (found, type(ended)) == ({}, Waiting)
    assert isinstance(ended, Interrupted)
    assert (ended.exit_code, ended.remedy) == (75, "Come back later: the same command collects them.")
    assert {path.name.partition(".sqlite")[0] for path in slow.folder.iterdir()} == {"ledger"}
    assert str(ended).endswith("are not complete: batch_1 (validating, 0 of 10 done); requests in them: 10")
    slow.server.set(batch_seconds=0.0)
    found, ended = slow.ask(range(10))
    assert (set(texts(found)), ended) == (set(range(10)), None)
    assert (slow.lines, slow.states()) == ([10], ["collected"])


def test_replies_of_a_batch_cost_its_share_of_the_price(quick: Provider) -> None:
    with quick.client() as client:
        replies = dict(stream_batches(client, "teacher", questions(range(5)), TWICE))
        single = client.endpoints["teacher"].config.model_copy(update={"batch": False})
        full = sum(single.cost(one.usage) for one in replies.values() if isinstance(one, Completion))
        assert client.budget.spent == pytest.approx(full / 2)
        assert client.budget.calls == 5
        (spent,) = client.ledger.spent("run")
        assert spent.cost == pytest.approx(full / 2)
        assert (spent.purpose.task, spent.calls) == ("Math", 5)


def test_a_batch_holds_only_what_no_single_call_paid_for(quick: Provider) -> None:
    first = quick.ask_one_by_one(range(4))
    found, _ = quick.ask(range(6), TWICE)
    assert {number: found[number] for number in first} == first
    assert (set(texts(found)), quick.lines) == (set(range(6)), [2])


def test_a_single_call_finds_the_reply_that_a_batch_paid_for(quick: Provider) -> None:
    found, _ = quick.ask(range(5), TWICE)
    assert quick.ask_one_by_one(range(5)) == found
    assert quick.server.stats().requests == 0


def test_equal_requests_are_one_line_and_samples_of_one_prompt_are_lines_of_their_own(quick: Provider) -> None:
    with quick.client() as client:
        twice = [("a", question(1)), ("b", question(1)), ("c", replace(question(1), sample=1))]
        replies = dict(stream_batches(client, "teacher", twice, TWICE))
    assert replies["a"] is replies["b"] is not replies["c"]
    assert quick.lines == [2]


def test_a_disk_that_is_full_before_a_batch_is_submitted_is_named_and_nothing_is_sent(
    quick: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: open("/dev/full", "w+b"))  # noqa: PTH123, SIM115
    _, ended = quick.ask(range(3))
    assert isinstance(ended, StoreFull)
    assert quick.fake.uploads == []


def test_a_batch_whose_record_was_lost_is_found_again(slow: Provider) -> None:
    slow.ask(range(10))
    slow.forget_batches()
    slow.ask(reversed(range(10)))
    assert (len(slow.fake.batches), len(slow.fake.uploads), slow.states()) == (1, 1, ["open"])
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(10))[0])) == set(range(10))


def test_a_lost_record_is_found_on_a_later_page_of_the_list(slow: Provider) -> None:
    slow.fake.batches_per_page = 2
    slow.ask(range(2))
    slow.forget_batches()
    for number in range(3, 8):
        slow.ask([number])
    slow.ask(range(2))
    assert slow.lines == [2, 1, 1, 1, 1, 1]


def test_a_batch_whose_creation_was_not_confirmed_is_not_created_again(slow: Provider) -> None:
    slow.fake.lost_answers = 1
    assert isinstance(slow.ask(range(10))[1], Waiting)
    assert slow.lines == [10]


def test_another_run_does_not_take_a_batch_for_its_own(slow: Provider) -> None:
    slow.ask(range(3), run="one")
    slow.forget_batches()
    slow.ask(range(3), run="two")
    assert slow.lines == [3, 3]


def test_a_server_may_not_list_its_batches_but_an_unconfirmed_creation_is_then_not_repeated(slow: Provider) -> None:
    slow.fake.lists_batches = False
    assert isinstance(slow.ask(range(5))[1], Waiting)
    slow.fake.lost_answers = 1
    _, ended = slow.ask(range(5, 8))
    assert isinstance(ended, RoleError)
    assert "HTTP 502: bad gateway" in str(ended)
    assert slow.lines == [5, 3]


def test_a_stop_submits_nothing_or_ends_the_wait_at_once_and_loses_nothing(slow: Provider) -> None:
    slow.stop.set()
    assert type(slow.ask(range(3))[1]) is Interrupted
    assert slow.fake.uploads == []
    slow.stop.clear()
    timer = threading.Timer(0.3, slow.stop.set)
    timer.start()
    with slow.client() as client:
        client.endpoints["teacher"].pause_factor = 1.0
        with pytest.raises(Interrupted) as caught:
            list(stream_batches(client, "teacher", questions(range(3)), [3600.0]))
    timer.join()
    assert not isinstance(caught.value, Waiting)
    slow.stop.clear()
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(3))[0])) == set(range(3))
    assert slow.lines == [3]


def test_a_batch_that_might_pass_the_limit_is_not_submitted(quick: Provider) -> None:
    _, ended = quick.ask(range(10), TWICE, max_cost=0.1)
    assert isinstance(ended, CostLimit)
    assert "next batch of 10 requests" in str(ended)
    assert quick.fake.uploads == []
    assert set(texts(quick.ask(range(10), TWICE, max_cost=100.0)[0])) == set(range(10))


def most(made: Provider) -> float:
    """The money that a question in a batch costs at most: half of what a single call does."""
    with made.client() as client:
        config = client.endpoints["teacher"].config
        return client.budget.worst_case(config, body(config, question(1)), 64) / 2


def test_a_batch_is_submitted_where_its_own_price_fits_into_the_limit(quick: Provider) -> None:
    each = most(quick)
    _, ended = quick.ask(range(10), TWICE, max_cost=9.9 * each)
    assert f"next batch of 10 requests may cost {10 * each:.4f};" in str(ended)
    found, ended = quick.ask(range(10), TWICE, max_cost=10.1 * each)
    assert (set(texts(found)), ended) == (set(range(10)), None)


def test_open_batches_count_against_the_limit(slow: Provider) -> None:
    slow.ask(range(5))
    each = most(slow)
    _, ended = slow.ask(range(10), max_cost=8 * each)
    assert isinstance(ended, Waiting)
    assert str(ended).endswith("requests in them: 5; not submitted yet, as they might pass calls.max_cost: 5")
    assert slow.lines == [5]
    slow.server.set(batch_seconds=0.0)
    found, ended = slow.ask(range(10), TWICE, max_cost=100 * each)
    assert (set(texts(found)), ended) == (set(range(10)), None)


def test_many_requests_are_several_batches(slow: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 3)
    _, ended = slow.ask(range(20))
    assert slow.lines == [3, 3, 3, 3, 3, 3, 2]
    assert str(ended).endswith(" and 2 more; requests in them: 20")
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(20))[0])) == set(range(20))


def test_a_run_killed_between_two_batches_submits_only_the_second(
    slow: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 5)
    slow.ask(range(10))
    slow.forget_batches("batch_2")
    del slow.fake.batches["batch_2"]
    slow.ask(range(10))
    assert slow.lines == [5, 5]


def test_a_run_that_stops_while_it_collects_goes_on_where_it_was(quick: Provider) -> None:
    quick.ask(range(600))
    with quick.client() as client:
        some = stream_batches(client, "teacher", questions(range(600)), TWICE)
        first = {next(some)[0] for _ in range(300)}
        some.close()  # type: ignore[attr-defined]
    rest = sorted(set(range(600)) - first)
    found, ended = quick.ask(rest, TWICE)
    assert (sorted(texts(found)), ended) == (rest, None)
    assert (quick.lines, quick.states()) == ([600], ["collected"])


def test_a_batch_that_another_run_shares_stays_open_for_it(slow: Provider) -> None:
    slow.ask([1, 2], run="one")
    slow.ask([2, 3], run="two")
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask([2, 3], run="two")[0])) == {2, 3}
    assert set(texts(slow.ask([1, 2], run="one")[0])) == {1, 2}
    assert (slow.lines, slow.states()) == ([2, 1], ["collected", "collected"])


def test_every_line_has_its_own_body_with_the_characters_that_some_take_for_line_breaks(quick: Provider) -> None:
    asked = {number: question(number, "\u2028and\u2029so\x85on\x0b\x1c\r\n" * (number % 7)) for number in range(300)}
    with quick.client() as client:
        assert dict(stream_batches(client, "teacher", asked.items(), TWICE)).keys() == asked.keys()
    sent = [line["body"]["messages"][0]["content"] for line in quick.fake.batches["batch_1"].lines]
    assert sorted(sent) == sorted(request.messages[0]["content"] for request in asked.values())


@given(st.lists(st.integers(0, 400), max_size=60), st.integers(1, 9), st.integers(500, 2000))
def test_portions_hold_every_request_once_in_its_order(lengths: list[int], lines: int, size: int) -> None:
    requests = [(number.to_bytes(16, "big"), length) for number, length in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_LINES", lines)
        patch.setattr(module, "MOST_BYTES", size)
        found = list(portions(requests))
    assert [one for portion in found for one in portion] == requests
    assert all(1 <= len(portion) <= lines for portion in found)
    assert all(len(portion) == 1 or sum(line_length(*one) for one in portion) <= size for portion in found)


# Failures


def test_lines_that_failed_are_submitted_again(quick: Provider) -> None:
    quick.server.set(error_share=0.3, nonsense_share=0.1, hang_share=0.1, cut_share=0.1)
    found, ended = quick.ask(range(60), OFTEN)
    assert (set(found), ended) == (set(range(60)), None)
    first, second, third = quick.lines
    failures = [one for one in found.values() if isinstance(one, Failure)]
    assert 60 == first > second > third > len(failures)
    assert {one.attempts for one in failures} <= {3}
    assert quick.server.stats().repeats == 0


@pytest.mark.parametrize("status", [b"501", b"530"])
def test_a_line_with_any_status_of_a_server_error_is_submitted_again(slow: Provider, status: bytes) -> None:
    slow.ask(range(3))
    slow.server.set(error_share=1.0)
    slow.expire(worked_on=3)
    slow.fake.batches["batch_1"].status = "completed"
    name, content = slow.fake.files.popitem()  # the errors
    slow.fake.files[name] = content.replace(b'"status_code": 500', b'"status_code": ' + status)
    slow.server.set(error_share=0.0, batch_seconds=0.0)
    found, ended = slow.ask(range(3), TWICE)
    assert (set(texts(found)), ended, slow.lines) == ({0, 1, 2}, None, [3, 3])


def test_a_request_is_given_up_after_three_batches_however_many_sessions_that_takes(quick: Provider) -> None:
    quick.server.set(error_share=1.0)
    ends = [quick.ask(range(3)) for _ in range(3)]
    assert [type(ended) for _, ended in ends] == [Waiting] * 3
    found, ended = quick.ask(range(3))
    assert ended is None
    assert set(found.values()) == {
        Failure("server", "HTTP 500: The server had an error while processing your request", 3)
    }
    assert (quick.lines, quick.states()) == ([3, 3, 3], ["collected"] * 3)


def test_a_request_the_model_cannot_take_is_given_up_at_once(quick: Provider) -> None:
    quick.server.set(context_limit=100)
    with quick.client() as client:
        long = (2, question(2, " word" * 500))
        replies = dict(stream_batches(client, "teacher", [(1, question(1)), long], OFTEN))
    failure = replies[2]
    assert isinstance(replies[1], Completion)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.attempts, quick.lines) == ("bad-request", 1, [2])


def test_a_batch_with_nothing_but_refused_requests_is_an_error_of_the_recipe(quick: Provider) -> None:
    quick.server.set(context_limit=1)
    _, ended = quick.ask(range(20), OFTEN)
    assert isinstance(ended, RoleError)
    assert "batch_1" in str(ended)
    assert "maximum context length is 1 tokens" in str(ended)
    quick.server.set(context_limit=0)
    assert set(texts(quick.ask(range(20), OFTEN)[0])) == set(range(20))


def test_what_an_expired_batch_brought_is_kept_and_the_rest_submitted_again(slow: Provider) -> None:
    slow.ask(range(10))
    slow.expire(worked_on=6)
    slow.server.set(batch_seconds=0.0)
    found, ended = slow.ask(range(10), TWICE)
    assert (set(texts(found)), ended) == (set(range(10)), None)
    assert (slow.lines, slow.states()) == ([10, 4], ["failed", "collected"])


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_a_batch_that_brought_nothing_is_an_error_with_the_providers_words(slow: Provider, status: str) -> None:
    slow.ask(range(3))
    batch = slow.fake.batches["batch_1"]
    batch.status, batch.errors = status, [{"code": "invalid_file", "message": "The file cannot be read"}]
    _, ended = slow.ask(range(3))
    assert isinstance(ended, RoleError)
    assert f"batch batch_1 at {slow.server.url} ({status}) brought nothing: The file cannot be read" in str(ended)
    assert slow.states() == ["failed"]
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(3), TWICE)[0])) == set(range(3))


def test_an_expired_batch_that_answered_nothing_is_submitted_anew(slow: Provider) -> None:
    slow.ask(range(3))
    slow.server.set(hang_share=1.0)
    slow.expire(worked_on=3)  # a line for each request, in the file of errors
    assert isinstance(slow.ask(range(3))[1], RoleError)
    slow.server.set(hang_share=0.0, batch_seconds=0.0)
    found, ended = slow.ask(range(3), TWICE)
    assert (set(texts(found)), ended, slow.lines) == ({0, 1, 2}, None, [3, 3])


FULL = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]


def fail_full(made: Provider, *batches: str) -> None:
    for name in batches:
        made.fake.batches[name].status, made.fake.batches[name].errors = "failed", FULL


def test_a_full_queue_is_waited_for_while_other_batches_are_open(
    slow: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 3)
    slow.ask(range(6))
    fail_full(slow, "batch_2")
    _, ended = slow.ask(range(6))
    assert isinstance(ended, Waiting)
    assert str(ended).endswith("requests in them: 3; not submitted yet, as the provider queues no more tokens: 3")
    slow.server.set(batch_seconds=0.0)
    assert (set(texts(slow.ask(range(6), TWICE)[0])), slow.lines) == (set(range(6)), [3, 3, 3])


def test_a_batch_that_is_too_large_for_an_empty_queue_is_halved_until_one_request_is(slow: Provider) -> None:
    slow.ask(range(4))
    fail_full(slow, "batch_1")
    _, ended = slow.ask(range(4))
    assert (type(ended), slow.lines) == (Waiting, [4, 2])
    slow.server.set(batch_seconds=0.0)
    assert (set(texts(slow.ask(range(4), TWICE)[0])), slow.lines) == (set(range(4)), [4, 2, 2])
    slow.server.set(batch_seconds=3600.0)
    slow.ask([9])
    fail_full(slow, "batch_4")
    _, ended = slow.ask([9])
    assert "brought nothing: Enqueued token limit reached" in str(ended)


def test_a_batch_whose_files_are_gone_is_reported_before_it_is_paid_again(slow: Provider) -> None:
    slow.ask(range(3))
    slow.expire(worked_on=3)
    slow.fake.batches["batch_1"].status = "completed"
    slow.fake.files.clear()
    _, ended = slow.ask(range(3))
    assert isinstance(ended, RoleError)
    assert "brought nothing: its files are empty or gone" in str(ended)
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(3), TWICE)[0])) == set(range(3))


def test_other_batches_are_collected_before_one_that_failed_is_reported(slow: Provider) -> None:
    slow.ask(range(3))
    slow.ask(range(6))
    slow.fake.batches["batch_1"].status = "failed"
    slow.server.set(batch_seconds=0.0)
    found, ended = slow.ask(range(6))
    assert (set(texts(found)), type(ended)) == ({3, 4, 5}, RoleError)


def test_a_batch_the_server_has_forgotten_is_reported_and_then_submitted_again(slow: Provider) -> None:
    slow.ask(range(3))
    slow.fake.batches.clear()
    _, ended = slow.ask(range(3))
    assert isinstance(ended, RoleError)
    assert "the server does not know it: HTTP 404" in str(ended)
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(3), TWICE)[0])) == set(range(3))


def test_a_batch_that_was_hidden_for_a_time_is_not_paid_again(slow: Provider) -> None:
    slow.ask(range(3))
    kept = dict(slow.fake.batches)
    slow.fake.batches.clear()
    slow.ask(range(3))
    slow.fake.batches.update(kept)
    assert isinstance(slow.ask(range(3))[1], Waiting)
    assert (slow.lines, slow.states()) == ([3], ["open"])


def test_a_server_without_batches_says_so_with_the_remedy(quick: Provider) -> None:
    quick.server.set(supports_batch=False)
    _, ended = quick.ask(range(3))
    assert isinstance(ended, RoleError)
    assert "batch = false" in ended.remedy


def test_a_server_that_does_not_answer_loses_no_batch(slow: Provider) -> None:
    slow.ask(range(3))
    slow.server.set(dead=503)
    assert isinstance(slow.ask(range(3))[1], RoleError)
    slow.server.set(dead=0, batch_seconds=0.0)
    assert set(texts(slow.ask(range(3))[0])) == set(range(3))
    assert slow.lines == [3]


def test_the_key_is_nowhere_but_in_the_header(slow: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    slow.server.set(require_key=KEY, echo_key=True)
    ends = [slow.ask(range(3), key="TEACHER_KEY")[1]]
    slow.fake.batches["batch_1"].errors = [{"message": f"no money for {KEY}"}]
    slow.fake.batches["batch_1"].status = "failed"
    ends.append(slow.ask(range(3), key="TEACHER_KEY")[1])
    slow.server.set(supports_batch=False)
    ends.append(slow.ask(range(3), key="TEACHER_KEY")[1])
    assert [type(ended) for ended in ends] == [Waiting, RoleError, RoleError]
    assert all(KEY not in f"{ended} {ended.remedy}" for ended in ends if ended)
    assert "no money for [key]" in str(ends[1])
    assert KEY.encode() not in b"".join(slow.fake.uploads)
    assert all(KEY.encode() not in path.read_bytes() for path in slow.folder.iterdir())


def test_the_key_is_not_in_the_failure_of_a_line(quick: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    quick.fake.echo = KEY
    quick.server.set(error_share=1.0)
    found, _ = quick.ask([1], OFTEN, key="TEACHER_KEY")
    assert found == {1: Failure("server", "HTTP 500: failed for [key]", 3)}
