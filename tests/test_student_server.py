"""The student behind a server: how it is asked, started, stopped and left, with a program in the place of vLLM."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.round import Checkpoint
from tapir.errors import Interrupted, RoleError
from tapir.students import server as servers
from tapir.students.load import ModelSettings
from tapir.students.vllm import LOG
from tests import fake_vllm
from tests.fake_vllm import Behaviour, Fake
from tests.serving import NANO, Notes, copy_of_nano, eventually, instructions, runs, student

PARENT = """
import sys, time
from pathlib import Path
from tapir.students.server import ServedModel, Server, ServerSettings
server = Server(ServedModel("a-model"), ServerSettings(sys.argv[1], (), 20, Path(sys.argv[2])))
server.start()
print("started", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return fake_vllm.install(tmp_path / "fake")


def sent(reply: object) -> dict[str, object]:
    """The request that a reply of the fake server repeats."""
    assert isinstance(reply, Completion), reply
    found: dict[str, object] = json.loads(reply.text)
    return found


def after(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def test_every_instruction_has_its_own_answer_as_from_any_other_student(fake: Fake, tmp_path: Path) -> None:
    asked = instructions(50)
    with student(fake.python, tmp_path) as one:
        found = dict(one.answer(NANO, asked))
    assert found.keys() == {one.id for one in asked}
    for instruction in asked:
        reply = found[instruction.id]
        request = {"text": instruction.text, "model": "student", "seed": None, "max_tokens": 32, "temperature": 0.0}
        assert sent(reply) == request
        assert isinstance(reply, Completion)
        assert (reply.model, reply.finish_reason) == ("student", "stop")
        assert reply.usage == Usage(7, 4), "the token that ends an answer is no part of it"


def test_the_server_is_started_here_without_telemetry_and_without_a_key(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "of another server")
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    with student(fake.python, tmp_path, options=("--max-num-seqs", "4")) as one:
        list(one.answer(NANO, instructions(1)))
        (start,) = fake.starts()
        assert os.getpgid(start.pid) != os.getpgid(0), "Ctrl-C in the terminal must not reach it"
    assert start.arguments[:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert after(start.arguments, "--model") == NANO.path
    assert after(start.arguments, "--host") == "127.0.0.1"
    assert start.arguments[-2:] == ["--max-num-seqs", "4"]
    assert start.environment["VLLM_NO_USAGE_STATS"] == start.environment["DO_NOT_TRACK"] == "1"
    assert "VLLM_API_KEY" not in start.environment
    if not servers._accelerated():
        assert start.environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
        assert after(start.arguments, "--dtype") == "float32"


def test_the_recipe_decides_on_type_revision_and_template(fake: Fake, tmp_path: Path) -> None:
    own = (Path(NANO.path) / "chat_template.jinja").read_text("utf-8")
    model = ModelSettings(dtype="bfloat16", chat_template=f"{{# another #}}{own}", revision="v2")
    arguments = servers.ServedModel("a/hub-id", model.dtype, model.chat_template, model.revision).arguments(tmp_path)
    assert after(arguments, "--dtype") == "bfloat16"
    assert after(arguments, "--revision") == after(arguments, "--tokenizer-revision") == "v2"
    assert after(arguments, "--chat-template") == str(tmp_path)
    with student(fake.python, tmp_path, model=model) as one:
        list(one.answer(NANO, instructions(1)))
        (start,) = fake.starts()
        assert Path(after(start.arguments, "--chat-template")).read_text("utf-8") == model.chat_template
        assert "--revision" not in start.arguments, "a folder has none"


def test_chunks_are_asked_together_and_given_whole_in_their_own_order(fake: Fake, tmp_path: Path) -> None:
    fake.behave(Behaviour(together=6))
    chunks = [instructions(4, "first"), [], instructions(4, "second"), instructions(3, "third")]
    with student(fake.python, tmp_path) as one:
        found = dict(one.answer_all(NANO, chunks))
    assert found.keys() == {0, 1, 2, 3}
    for place, chunk in enumerate(chunks):
        assert [name for name, _ in found[place]] == [one.id for one in chunk]
        assert [sent(reply)["text"] for _, reply in found[place]] == [one.text for one in chunk]


def test_chunks_are_taken_as_there_is_room(fake: Fake, tmp_path: Path) -> None:
    endless = (instructions(40, f"chunk {number}") for number in itertools.count())
    with student(fake.python, tmp_path) as one:
        replies = one.answer_all(NANO, endless)
        assert all(len(chunk) == 40 for _, chunk in itertools.islice(replies, 3))
        assert isinstance(replies, Iterator)
        del replies


def test_nothing_is_started_for_nothing(fake: Fake, tmp_path: Path) -> None:
    with student(fake.python, tmp_path) as one:
        assert list(one.answer(NANO, [])) == []
        assert list(one.answer_all(NANO, [[], []])) == [(0, []), (1, [])]
    assert fake.starts() == []


def test_the_same_server_answers_until_another_checkpoint_is_asked(fake: Fake, tmp_path: Path) -> None:
    other = copy_of_nano(tmp_path / "other")
    with student(fake.python, tmp_path) as one:
        for checkpoint in (NANO, NANO, other):
            assert len(list(one.answer(checkpoint, instructions(3)))) == 3
    first, second = fake.starts()
    assert after(first.arguments, "--model") == NANO.path
    assert after(second.arguments, "--model") == other.path
    assert not runs(first.pid)


@pytest.mark.parametrize("kept", [False, True])
def test_while_training_the_server_is_gone_or_kept_as_the_recipe_says(
    fake: Fake, tmp_path: Path, *, kept: bool
) -> None:
    with student(fake.python, tmp_path, while_training="keep" if kept else "stop") as one:
        list(one.answer(NANO, instructions(1)))
        one.rest()
        (start,) = fake.starts()
        assert runs(start.pid) == runs(start.child) == kept
        list(one.answer(NANO, instructions(1)))
        assert len(fake.starts()) == (1 if kept else 2)


def test_nothing_is_left_of_a_server_after_the_session_even_of_one_that_does_not_listen(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_TO_STOP", 0.5)
    fake.behave(Behaviour(stubborn=True))
    with student(fake.python, tmp_path) as one:
        list(one.answer(NANO, instructions(1)))
    (start,) = fake.starts()
    assert not runs(start.pid)
    assert not runs(start.child)


def test_nothing_is_left_of_a_server_when_its_owner_is_killed(fake: Fake, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, fake.python, str(tmp_path / LOG)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        (start,) = fake.starts()
        assert runs(start.pid)
        parent.kill()
    assert eventually(lambda: not runs(start.pid) and not runs(start.child))


def test_training_begins_only_when_the_card_is_free_again(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card(tmp_path, monkeypatch, [300, 70000, 70000, 350])
    watch = Notes()
    with student(fake.python, tmp_path, watch) as one:
        list(one.answer(NANO, instructions(1)))
        one.rest()
        assert (tmp_path / "card").read_text().split() == ["350"]
    assert watch.told == []


def test_memory_that_does_not_come_back_is_told(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card(tmp_path, monkeypatch, [300, 70000])
    monkeypatch.setattr(servers, "_TO_FREE", 0.5)
    watch = Notes()
    with student(fake.python, tmp_path, watch) as one:
        list(one.answer(NANO, instructions(1)))
    assert watch.told == ["69700 MiB of card 0 were not free 0.5 s after the student's server had ended"]


def card(folder: Path, monkeypatch: pytest.MonkeyPatch, taken: list[int]) -> None:
    """An `nvidia-smi` that tells one number after the other, the last one again and again."""
    file = folder / "card"
    file.write_text("\n".join(map(str, taken)) + "\n")
    programs = folder / "bin"
    programs.mkdir()
    script = programs / "nvidia-smi"
    script.write_text(
        f'#!/bin/sh\nhead -n 1 "{file}" | sed "s/^/0, /"\n'
        f'if [ $(wc -l < "{file}") -gt 1 ]; then sed -i 1d "{file}"; fi\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


def test_a_prompt_that_leaves_no_room_for_its_answer_fails_alone(fake: Fake, tmp_path: Path) -> None:
    fake.behave(Behaviour(context=64))
    few, some, many = (Instruction.of("a " * count, Origin("corpus")) for count in (5, 25, 45))
    with student(fake.python, tmp_path) as one:
        found = dict(one.answer(NANO, [many, few, some]))
    assert {sent(found[short.id])["max_tokens"] for short in (few, some)} == {32}
    failure = found[many.id]
    assert isinstance(failure, Failure)
    assert failure.kind == "too long"
    assert "more than the 64" in failure.message
    assert "student.max_new_tokens = 32" in failure.message


def test_a_sampled_answer_has_a_seed_of_its_instruction_and_the_run(fake: Fake, tmp_path: Path) -> None:
    def seeds(seed: int) -> list[object]:
        with student(fake.python, tmp_path, temperature=0.7, seed=seed) as one:
            found = dict(one.answer(NANO, instructions(5)))
        return [sent(found[one.id])["seed"] for one in instructions(5)]

    first = seeds(1)
    assert len(set(first)) == 5
    assert all(isinstance(one, int) for one in first)
    assert seeds(1) == first
    assert not set(seeds(2)) & set(first)


def test_calls_to_this_machine_pass_by_the_proxy(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.org")
    with student(fake.python, tmp_path) as one:
        assert all(isinstance(reply, Completion) for _, reply in one.answer(NANO, instructions(3)))
    assert os.environ["no_proxy"] == "example.org,127.0.0.1"


def test_a_student_without_a_chat_template_is_told_before_anything_is_started(fake: Fake, tmp_path: Path) -> None:
    bare = copy_of_nano(tmp_path / "bare", "chat_template.jinja")
    with (
        student(fake.python, tmp_path) as one,
        pytest.raises(RoleError, match="no chat template") as caught,
    ):
        list(one.answer(bare, instructions(1)))
    assert "student.chat_template" in caught.value.remedy
    assert fake.starts() == []


def test_a_python_that_is_not_there_or_has_no_vllm_is_told_with_how_to_make_one(tmp_path: Path) -> None:
    for python, words in ((str(tmp_path / "nowhere"), "cannot be run"), (sys.executable, "without vLLM")):
        with student(python, tmp_path) as one, pytest.raises(RoleError, match=words) as caught:
            list(one.answer(NANO, instructions(1)))
        assert f"student.python = {python!r}" in str(caught.value)
        assert "make vllm" in caught.value.remedy
        assert "pip install vllm" in caught.value.remedy


@pytest.mark.parametrize("option", ["--port", "--api-key=secret"])
def test_what_only_we_can_set_is_no_option(fake: Fake, option: str) -> None:
    with pytest.raises(RoleError, match=r"student\.options"):
        servers.check(fake.python, ["--enforce-eager", option])


def test_a_server_that_ends_while_starting_is_one_error_with_its_last_words(fake: Fake, tmp_path: Path) -> None:
    fake.behave(Behaviour(says="error: unrecognized arguments: --nonsense", ends=2))
    with student(fake.python, tmp_path) as one, pytest.raises(RoleError, match="ended while it was starting") as caught:
        list(one.answer(NANO, instructions(1)))
    assert "unrecognized arguments: --nonsense" in str(caught.value)
    assert "exit status 2" in str(caught.value)
    assert str(tmp_path / LOG) in str(caught.value)
    for key in ("student.options", "student.python", "student.start_timeout"):
        assert key in caught.value.remedy


def test_a_server_that_is_never_healthy_is_one_error_and_nothing_is_left_of_it(fake: Fake, tmp_path: Path) -> None:
    fake.behave(Behaviour(says="loading weights", healthy=False))
    with (
        student(fake.python, tmp_path, start_timeout=1.5) as one,
        pytest.raises(RoleError, match=r"not healthy after 1\.5 s") as caught,
    ):
        list(one.answer(NANO, instructions(1)))
    assert "loading weights" in str(caught.value)
    (start,) = fake.starts()
    assert not runs(start.pid)
    assert not runs(start.child)


def test_the_user_can_stop_while_the_server_starts(fake: Fake, tmp_path: Path) -> None:
    fake.behave(Behaviour(healthy=False))
    watch = Notes()
    watch.stop()
    with student(fake.python, tmp_path, watch) as one, pytest.raises(Interrupted):
        list(one.answer(NANO, instructions(1)))
    assert not any(runs(start.pid) for start in fake.starts())


def test_the_last_lines_of_this_start_are_shown_and_what_may_have_caused_them(tmp_path: Path, fake: Fake) -> None:
    (tmp_path / LOG).write_text("of an earlier session\n")
    cause = "ERROR [core.py:9] ValueError: no memory for the cache"
    fake.behave(Behaviour(says="\n".join([cause, *(f"line {number}" for number in range(100))]), ends=1))
    with student(fake.python, tmp_path) as one, pytest.raises(RoleError) as caught:
        list(one.answer(NANO, instructions(1)))
    assert f"{cause}\n    ...\n" in str(caught.value)
    assert "line 99\n    the server ended with exit status 1" in str(caught.value)
    assert "line 50" not in str(caught.value)
    assert "earlier session" not in str(caught.value)
    assert (tmp_path / LOG).read_text().startswith("of an earlier session\nERROR")


def test_a_signal_is_named_where_it_ended_the_server(fake: Fake, tmp_path: Path) -> None:
    with student(fake.python, tmp_path) as one:
        list(one.answer(NANO, instructions(1)))
        (start,) = fake.starts()
        os.kill(start.pid, signal.SIGKILL)
        assert eventually(lambda: "the server ended with SIGKILL" in (tmp_path / LOG).read_text())
        assert eventually(lambda: not runs(start.child)), "its other processes end with it"


def test_a_folder_that_holds_no_student_is_told_by_name(fake: Fake, tmp_path: Path) -> None:
    with student(fake.python, tmp_path) as one, pytest.raises(RoleError, match="no student can be loaded"):
        list(one.answer(Checkpoint(str(tmp_path / "nothing"), 0), instructions(1)))
    assert fake.starts() == []
