"""The student's server crashes, hangs, refuses: no answer is lost, and none is a failure because of it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest

from support import fake_vllm
from support.fake_vllm import Behaviour, Fake
from support.recording import RecordingProgress
from support.serving import NANO, eventually, instructions, runs, student
from tapir.domain.completion import Completion, Failure
from tapir.domain.errors import Interrupted, RoleError
from tapir.domain.roles import Reply
from tapir.domain.round import Checkpoint
from tapir.models.local import vllm_server
from tapir.models.local.vllm import LOG
from tapir.models.local.vllm_server import Server, Watchdog

WELL = Behaviour()


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return fake_vllm.install(tmp_path / "fake")


@pytest.mark.parametrize(
    ("ill", "reported"),
    [
        (Behaviour(replies=30), "ended"),
        (Behaviour(replies=0), "ended"),
        (Behaviour(replies=30, then="hang"), "gave no reply for 1 s (student.reply_timeout)"),
        (Behaviour(replies=30, then="unwell"), ""),
    ],
    ids=["crash", "crash at once", "hang", "unwell"],
)
def test_a_server_is_started_once_more_and_no_answer_is_lost_or_a_failure(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ill: Behaviour, reported: str
) -> None:
    monkeypatch.setattr(vllm_server, "_HEALTH_EVERY", 0.2)
    fake.behave(ill, WELL)
    progress = RecordingProgress()
    asked = instructions(120)
    with student(fake.python, tmp_path, progress, reply_timeout=1.0 if ill.then == "hang" else 20.0) as answers:
        replies = list(answers.answer(NANO, asked))
    assert sorted(name for name, _ in replies) == sorted(one.id for one in asked)
    assert all(isinstance(reply, Completion) for _, reply in replies)
    assert len(fake.starts()) == 2
    assert not any(runs(start.pid) or runs(start.child) for start in fake.starts())
    (note,) = progress.notes
    assert f"the student's vLLM server {reported}" in note
    assert "started once more" in note
    if ill.then == "crash":
        assert "the engine core died" in note
        assert "SIGKILL" in note


def test_a_second_crash_ends_the_run_which_can_be_resumed(fake: Fake, tmp_path: Path) -> None:
    fake.behave(Behaviour(replies=30), Behaviour(replies=10), WELL)
    asked = instructions(120)
    given: list[Reply] = []
    with student(fake.python, tmp_path) as answers:
        with pytest.raises(RoleError, match="for the second time") as caught:
            given.extend(answers.answer(NANO, asked))
        assert "the engine core died" in str(caught.value)
        assert str(tmp_path / LOG) in str(caught.value)
        assert "tapir resume" in caught.value.remedy
        assert len(fake.starts()) == 2
        answers.open(tmp_path, RecordingProgress())  # another session
        assert len(list(answers.answer(NANO, asked))) == 120
    assert len(fake.starts()) == 3
    assert len(given) == len({name for name, _ in given}), "given before the crash, each once"
    assert 30 <= len(given) <= 40
    assert all(isinstance(reply, Completion) for _, reply in given)


def test_a_server_that_died_while_nobody_asked_is_started_once_more(fake: Fake, tmp_path: Path) -> None:
    progress = RecordingProgress()
    with student(fake.python, tmp_path, progress, while_training="keep") as answers:
        list(answers.answer(NANO, instructions(3)))
        (start,) = fake.starts()
        os.kill(start.pid, signal.SIGKILL)
        server = answers._server
        assert server is not None
        assert eventually(lambda: not server.alive)
        answers.rest()
        assert len(list(answers.answer(NANO, instructions(3)))) == 3
    (note,) = progress.notes
    assert "while no reply was pending" in note
    assert "the server ended with SIGKILL" in note
    assert not runs(start.child)


def test_a_request_that_the_server_always_fails_on_is_a_failure_of_its_own(fake: Fake, tmp_path: Path) -> None:
    fake.behave(Behaviour(broken="poison"))
    asked = [*instructions(30), *instructions(1, "poison")]
    progress = RecordingProgress()
    with student(fake.python, tmp_path, progress) as answers:
        found = dict(answers.answer(NANO, asked))
    failure = found.pop(asked[-1].id)
    assert isinstance(failure, Failure)
    assert failure.kind == "server"
    assert all(isinstance(reply, Completion) for reply in found.values())
    assert len(found) == 30
    assert progress.notes == []


def test_the_user_stops_in_order_in_the_middle(fake: Fake, tmp_path: Path) -> None:
    progress = RecordingProgress()
    given: list[Reply] = []
    with student(fake.python, tmp_path, progress) as answers:
        replies = answers.answer(NANO, instructions(4000))
        given.extend(islice(replies, 20))
        progress.stop()
        with pytest.raises(Interrupted):
            given.extend(replies)
    assert 20 <= len(given) < 4000
    assert len(fake.starts()) == 1
    assert progress.notes == []


def test_a_user_who_stops_does_not_wait_for_long_answers(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "_STOP_GRACE", 0.2)
    fake.behave(Behaviour(replies=20, then="hang"))
    progress = RecordingProgress()
    given: list[Reply] = []
    with student(fake.python, tmp_path, progress, reply_timeout=1000.0) as answers:
        replies = answers.answer(NANO, instructions(40))
        given.extend(islice(replies, 20))
        progress.stop()
        with pytest.raises(Interrupted):
            given.extend(replies)
    assert len(given) == 20
    assert progress.notes == []


def adapter(folder: Path, rank: int, base: str = NANO.path) -> Checkpoint:
    """A folder that looks like an adapter from outside."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((Path(NANO.path) / name).read_bytes())
    described = {"base_model_name_or_path": base, "r": rank, "rank_pattern": {}, "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(described))
    return Checkpoint(str(folder), 1)


def models(replies: object) -> set[str]:
    """What the server was asked for."""
    return {json.loads(reply.text)["model"] for _, reply in replies}  # type: ignore[attr-defined]


def test_adapters_of_a_base_are_loaded_into_the_server_that_runs(fake: Fake, tmp_path: Path) -> None:
    first, second = adapter(tmp_path / "one", 4), adapter(tmp_path / "two", 3)
    progress = RecordingProgress()
    with student(fake.python, tmp_path, progress, while_training="keep") as answers:
        asked = [models(answers.answer(first, instructions(3)))]
        answers.rest()
        asked += [models(answers.answer(checkpoint, instructions(3))) for checkpoint in (second, NANO)]
    assert asked == [{"student-1"}, {"student-2"}, {"student"}]
    (start,) = fake.starts()
    assert start.arguments[start.arguments.index("--model") + 1] == NANO.path
    assert "--enable-lora" in start.arguments
    assert start.arguments[start.arguments.index("--max-lora-rank") + 1] == "8"
    assert "--lora-modules" not in start.arguments
    assert progress.notes == []


def test_an_adapter_of_a_larger_rank_or_another_base_needs_another_server(fake: Fake, tmp_path: Path) -> None:
    with student(fake.python, tmp_path) as answers:
        for number, (rank, base) in enumerate([(4, NANO.path), (64, NANO.path), (64, "another/base")]):
            list(answers.answer(adapter(tmp_path / str(number), rank, base), instructions(1)))
    ranks = [start.arguments[start.arguments.index("--max-lora-rank") + 1] for start in fake.starts()]
    assert ranks == ["8", "64", "64"]


def test_a_server_that_refuses_an_adapter_is_started_with_it(fake: Fake, tmp_path: Path) -> None:
    fake.behave(Behaviour(adapters=False))
    progress = RecordingProgress()
    checkpoints = [adapter(tmp_path / "one", 4), adapter(tmp_path / "two", 4)]
    with student(fake.python, tmp_path, progress, while_training="keep") as answers:
        asked = [models(answers.answer(checkpoint, instructions(3))) for checkpoint in checkpoints]
    assert asked == [{"student-1"}, {"student-2"}]
    modules = [start.arguments[start.arguments.index("--lora-modules") + 1] for start in fake.starts()[1:]]
    assert modules == [f"student-{place}={one.path}" for place, one in enumerate(checkpoints, start=1)]
    (note,) = progress.notes
    assert "HTTP 400" in note
    assert "no adapters here" in note


def test_an_adapter_that_is_none_for_a_server_is_told(fake: Fake, tmp_path: Path) -> None:
    other = adapter(tmp_path / "other", 4)
    file = Path(other.path) / "adapter_config.json"
    file.write_text(json.dumps({"base_model_name_or_path": NANO.path, "peft_type": "IA3"}))
    with student(fake.python, tmp_path) as answers, pytest.raises(RoleError, match="vLLM cannot load") as caught:
        list(answers.answer(other, instructions(1)))
    assert "student.kind" in caught.value.remedy


class Patient(Server):
    """A server that a watchdog looks after."""

    alive = True

    def __init__(self, health: Iterable[int]) -> None:
        self.health = iter(health)
        self.checks = 0
        self.killed = threading.Event()

    def healthy(self) -> bool:
        self.checks += 1
        return bool(next(self.health))

    def kill(self) -> None:
        self.killed.set()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "_POLL", 0.01)
    monkeypatch.setattr(vllm_server, "_HEALTH_EVERY", 0.01)


@pytest.mark.usefixtures("quick")
def test_a_watchdog_ends_a_server_that_is_unhealthy_but_forgives_a_moment() -> None:
    patient = Patient(itertools.chain([0, 0, 1] * 5, itertools.repeat(0)))
    with Watchdog(patient, 100) as watchdog:
        assert patient.killed.wait(10)
        assert watchdog.lost == "was not healthy any more"
    assert patient.checks == 18


@pytest.mark.usefixtures("quick")
def test_silence_counts_only_while_a_reply_is_waited_for() -> None:
    patient = Patient(itertools.repeat(1))
    with Watchdog(patient, 0.2) as watchdog:
        assert eventually(lambda: patient.checks > 30)
        assert watchdog.lost == ""
        with watchdog.waiting():
            assert patient.killed.wait(10)
        assert "no reply for 0.2 s" in watchdog.lost
