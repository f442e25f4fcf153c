from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir.domain.completion import Completion, Failure
from tapir.errors import RoleError, Waiting
from tapir.llm.batch import batched
from tests.llm.desk import OFTEN, QUICK, SLOW, TWICE, Desk, desk, question, texts

KEY = "sk-very-secret"


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


def test_lines_that_failed_are_handed_in_again(quick: Desk) -> None:
    quick.server.set(error_share=0.3, nonsense_share=0.1, hang_share=0.1, cut_share=0.1)
    found, ended = quick.ask(range(60), OFTEN)
    assert (set(found), ended) == (set(range(60)), None)
    first, second, third = quick.provider.lines
    failures = [one for one in found.values() if isinstance(one, Failure)]
    assert 60 == first > second > third > len(failures)
    assert {one.attempts for one in failures} <= {3}
    assert quick.server.stats().repeats == 0


def test_a_request_is_given_up_after_three_batches_however_many_sessions_that_takes(quick: Desk) -> None:
    quick.server.set(error_share=1.0)
    ends = [quick.ask(range(3)) for _ in range(3)]
    assert [type(ended) for _, ended in ends] == [Waiting] * 3
    found, ended = quick.ask(range(3))
    assert ended is None
    assert set(found.values()) == {
        Failure("server", "HTTP 500: The server had an error while processing your request", 3)
    }
    assert (quick.provider.lines, quick.states()) == ([3, 3, 3], ["collected"] * 3)


def test_a_request_the_model_cannot_take_is_given_up_at_once(quick: Desk) -> None:
    quick.server.set(context_limit=100)
    with quick.engine() as engine:
        long = (2, question(2, " word" * 500))
        replies = dict(batched(engine, "teacher", [(1, question(1)), long], OFTEN))
    failure = replies[2]
    assert isinstance(replies[1], Completion)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.attempts, quick.provider.lines) == ("bad-request", 1, [2])


def test_a_batch_with_nothing_but_refused_requests_is_an_error_of_the_recipe(quick: Desk) -> None:
    quick.server.set(context_limit=1)
    _, ended = quick.ask(range(20), OFTEN)
    assert isinstance(ended, RoleError)
    assert "batch_1" in str(ended)
    assert "maximum context length is 1 tokens" in str(ended)
    quick.server.set(context_limit=0)
    assert set(texts(quick.ask(range(20), OFTEN)[0])) == set(range(20))


def test_what_an_expired_batch_brought_is_kept_and_the_rest_handed_in_again(slow: Desk) -> None:
    slow.ask(range(10))
    slow.provider.expire(slow.provider.batches[0], worked_on=6)
    slow.server.set(batch_seconds=0.0)
    found, ended = slow.ask(range(10), TWICE)
    assert (set(texts(found)), ended) == (set(range(10)), None)
    assert (slow.provider.lines, slow.states()) == ([10, 4], ["failed", "collected"])


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_a_batch_that_brought_nothing_is_an_error_with_the_providers_words(slow: Desk, status: str) -> None:
    slow.ask(range(3))
    batch = slow.provider.batches[0]
    batch.status, batch.errors = status, [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]
    _, ended = slow.ask(range(3))
    assert isinstance(ended, RoleError)
    assert f"batch batch_1 at {slow.server.url} ({status}) brought nothing: Enqueued token limit" in str(ended)
    assert slow.states() == ["failed"]
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(3), TWICE)[0])) == set(range(3))


def test_a_batch_whose_files_are_gone_is_complained_of_before_it_is_paid_again(slow: Desk) -> None:
    slow.ask(range(3))
    slow.provider.expire(slow.provider.batches[0], worked_on=3)
    slow.provider.batches[0].status = "completed"
    slow.provider._batches.files.clear()
    _, ended = slow.ask(range(3))
    assert isinstance(ended, RoleError)
    assert "brought nothing: its files are empty or gone" in str(ended)
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(3), TWICE)[0])) == set(range(3))


def test_other_batches_are_collected_before_one_that_failed_is_complained_of(slow: Desk) -> None:
    slow.ask(range(3))
    slow.ask(range(6))
    slow.provider.batches[0].status = "failed"
    slow.server.set(batch_seconds=0.0)
    found, ended = slow.ask(range(6))
    assert (set(texts(found)), type(ended)) == ({3, 4, 5}, RoleError)


def test_a_batch_the_server_has_forgotten_is_complained_of_and_then_handed_in_again(slow: Desk) -> None:
    slow.ask(range(3))
    slow.provider.forget()
    _, ended = slow.ask(range(3))
    assert isinstance(ended, RoleError)
    assert "the server does not know it: HTTP 404" in str(ended)
    slow.server.set(batch_seconds=0.0)
    assert set(texts(slow.ask(range(3), TWICE)[0])) == set(range(3))


def test_a_batch_that_was_hidden_for_a_time_is_not_paid_again(slow: Desk) -> None:
    slow.ask(range(3))
    kept = dict(slow.provider._batches.batches)
    slow.provider.forget()
    slow.ask(range(3))
    slow.provider._batches.batches.update(kept)
    assert isinstance(slow.ask(range(3))[1], Waiting)
    assert (slow.provider.lines, slow.states()) == ([3], ["open"])


def test_a_server_without_batches_says_so_with_the_remedy(quick: Desk) -> None:
    quick.server.set(supports_batch=False)
    _, ended = quick.ask(range(3))
    assert isinstance(ended, RoleError)
    assert "batch = false" in ended.remedy


def test_a_server_that_does_not_answer_loses_no_batch(slow: Desk) -> None:
    slow.ask(range(3))
    slow.server.set(dead=503)
    assert isinstance(slow.ask(range(3))[1], RoleError)
    slow.server.set(dead=0, batch_seconds=0.0)
    assert set(texts(slow.ask(range(3))[0])) == set(range(3))
    assert slow.provider.lines == [3]


def test_the_key_is_nowhere_but_in_the_header(slow: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    slow.server.set(require_key=KEY, echo_key=True)
    ends = [slow.ask(range(3), key="TEACHER_KEY")[1]]
    slow.provider.batches[0].errors = [{"message": f"no money for {KEY}"}]
    slow.provider.batches[0].status = "failed"
    ends.append(slow.ask(range(3), key="TEACHER_KEY")[1])
    slow.server.set(supports_batch=False)
    ends.append(slow.ask(range(3), key="TEACHER_KEY")[1])
    assert [type(ended) for ended in ends] == [Waiting, RoleError, RoleError]
    assert all(KEY not in f"{ended} {ended.remedy}" for ended in ends if ended)
    assert "no money for [key]" in str(ends[1])
    assert KEY.encode() not in b"".join(slow.provider.uploads)
    assert all(KEY.encode() not in path.read_bytes() for path in slow.folder.iterdir())


def test_the_key_is_not_in_the_failure_of_a_line(quick: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    quick.provider.echo = KEY
    quick.server.set(error_share=1.0)
    found, _ = quick.ask([1], OFTEN, key="TEACHER_KEY")
    assert found == {1: Failure("server", "HTTP 500: failed for [key]", 3)}
