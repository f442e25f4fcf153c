"""The student behind a server: requests, start, stop and errors, with a program in the place of vLLM."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import fake_vllm
from support.fake_vllm import Behaviour, Fake
from support.recording import RecordingProgress
from support.serving import NANO, copy_of_nano, eventually, instructions, runs, student
from tapir.config.student import VllmStudentConfig
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.errors import Interrupted, RoleError
from tapir.domain.instruction import Instruction, Origin, Turn
from tapir.domain.round import Checkpoint
from tapir.models.local import vllm_server
from tapir.models.local.loading import ModelSettings, load_tokenizer
from tapir.models.local.vllm import LOG
from tapir.models.local.vllm_server import ServedModel

TALK = Instruction("talk", "Second?", Origin("evaluation"), (Turn("user", "First?"), Turn("assistant", "So.")))
PARENT = """
import sys, time
from pathlib import Path
from tapir.config.student import VllmStudentConfig
from tapir.models.local.loading import ModelSettings
from tapir.models.local.vllm_server import ServedModel, Server
model = ServedModel("a-model", ModelSettings(dtype="float32"))
Server(model, VllmStudentConfig(python=sys.argv[1]), Path(sys.argv[2]))
print("started", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return fake_vllm.install(tmp_path / "fake")


def request_of(reply: object) -> dict[str, object]:
    """The request that a reply of the fake server repeats."""
    assert isinstance(reply, Completion), reply
    request: dict[str, object] = json.loads(reply.text)
    return request


def after(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def test_every_instruction_has_its_own_answer_as_from_any_other_student(fake: Fake, tmp_path: Path) -> None:
    asked = [*instructions(50), TALK]
    with student(fake.python, tmp_path) as answers:
        replies = dict(answers.answer(NANO, asked))
    assert replies.keys() == {instruction.id for instruction in asked}
    for instruction in asked:
        reply = replies[instruction.id]
        settings = {"model": "student", "seed": None, "max_tokens": 32, "temperature": 0.0}
        turns = len(instruction.messages)
        assert request_of(reply) == {"text": instruction.text, "turns": turns, **settings}
        assert isinstance(reply, Completion)
        assert (reply.model, reply.finish_reason) == ("student", "stop")
        assert reply.usage == Usage(7, 4), "the token that ends an answer is no part of it"


def test_the_server_is_started_here_without_telemetry_and_without_a_key(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "of another server")
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    with student(fake.python, tmp_path, options=("--max-num-seqs", "4")) as answers:
        list(answers.answer(NANO, instructions(1)))
        (start,) = fake.starts()
        assert os.getpgid(start.pid) != os.getpgid(0), "Ctrl-C in the terminal must not reach it"
    assert start.arguments[:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert after(start.arguments, "--model") == NANO.path
    assert after(start.arguments, "--host") == "127.0.0.1"
    assert start.arguments[-2:] == ["--max-num-seqs", "4"]
    assert start.environment["VLLM_NO_USAGE_STATS"] == start.environment["DO_NOT_TRACK"] == "1"
    assert "VLLM_API_KEY" not in start.environment
    if not vllm_server._has_accelerator():
        assert start.environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
        assert after(start.arguments, "--dtype") == "float32"


def test_the_recipe_decides_on_type_revision_and_template(fake: Fake, tmp_path: Path) -> None:
    own = (Path(NANO.path) / "chat_template.jinja").read_text("utf-8")
    model = ModelSettings(dtype="bfloat16", chat_template=f"{{# another #}}{own}", revision="v2")
    arguments = ServedModel("a/hub-id", model).arguments(tmp_path)
    assert after(arguments, "--dtype") == "bfloat16"
    assert after(arguments, "--revision") == after(arguments, "--tokenizer-revision") == "v2"
    assert after(arguments, "--chat-template") == str(tmp_path)
    with student(fake.python, tmp_path, model=model) as answers:
        list(answers.answer(NANO, instructions(1)))
        (start,) = fake.starts()
        assert Path(after(start.arguments, "--chat-template")).read_text("utf-8") == model.chat_template
        assert "--revision" not in start.arguments, "a folder has none"


def test_chunks_are_requested_together_as_there_is_room_and_given_whole_in_their_own_order(
    fake: Fake, tmp_path: Path
) -> None:
    fake.behave(Behaviour(together=6))
    chunks = [instructions(4, "first"), [], instructions(4, "second"), instructions(3, "third")]
    with student(fake.python, tmp_path) as answers:
        replies = dict(answers.answer_all(NANO, chunks))
        assert replies.keys() == {0, 1, 2, 3}
        for place, chunk in enumerate(chunks):
            assert [name for name, _ in replies[place]] == [instruction.id for instruction in chunk]
            texts = [request_of(reply)["text"] for _, reply in replies[place]]
            assert texts == [instruction.text for instruction in chunk]
        endless = answers.answer_all(NANO, (instructions(40, f"chunk {number}") for number in itertools.count()))
        assert all(len(chunk) == 40 for _, chunk in itertools.islice(endless, 3))
        del endless


def test_nothing_is_started_for_nothing(fake: Fake, tmp_path: Path) -> None:
    with student(fake.python, tmp_path) as answers:
        assert list(answers.answer(NANO, [])) == []
        assert list(answers.answer_all(NANO, [[], []])) == [(0, []), (1, [])]
    assert fake.starts() == []


def test_the_same_server_answers_until_another_checkpoint_does(fake: Fake, tmp_path: Path) -> None:
    other = copy_of_nano(tmp_path / "other")
    with student(fake.python, tmp_path) as answers:
        for checkpoint in (NANO, NANO, other):
            assert len(list(answers.answer(checkpoint, instructions(3)))) == 3
    first, second = fake.starts()
    assert after(first.arguments, "--model") == NANO.path
    assert after(second.arguments, "--model") == other.path
    assert not runs(first.pid)


@pytest.mark.parametrize("keep", [False, True])
def test_while_training_the_server_is_gone_or_kept(fake: Fake, tmp_path: Path, *, keep: bool) -> None:
    with student(fake.python, tmp_path, while_training="keep" if keep else "stop") as answers:
        list(answers.answer(NANO, instructions(1)))
        answers.rest()
        (start,) = fake.starts()
        assert runs(start.pid) == runs(start.child) == keep
        list(answers.answer(NANO, instructions(1)))
        assert len(fake.starts()) == (1 if keep else 2)


def test_nothing_is_left_of_a_server_after_the_session_even_of_one_that_ignores_sigterm(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "_TO_STOP", 0.5)
    fake.behave(Behaviour(stubborn=True))
    with student(fake.python, tmp_path) as answers:
        list(answers.answer(NANO, instructions(1)))
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


def card(folder: Path, monkeypatch: pytest.MonkeyPatch, used: list[int]) -> None:
    """An `nvidia-smi` that prints one number after the other, the last one again and again."""
    file = folder / "card"
    file.write_text("\n".join(map(str, used)) + "\n")
    script = folder / "bin" / "nvidia-smi"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\nhead -n 1 "{file}" | sed "s/^/0, /"\n'
        f'if [ $(wc -l < "{file}") -gt 1 ]; then sed -i 1d "{file}"; fi\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")


LEFT = "69700 MiB of card 0 were not free 0.5 s after the student's server had ended"


@pytest.mark.parametrize(("used", "notes"), [([300, 70000, 70000, 350], []), ([300, 70000], [LEFT])])
def test_a_rest_ends_when_the_card_is_free_again_or_says_what_is_not(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: list[int], notes: list[str]
) -> None:
    card(tmp_path, monkeypatch, used)
    monkeypatch.setattr(vllm_server, "_TO_FREE", 0.5)
    progress = RecordingProgress()
    with student(fake.python, tmp_path, progress) as answers:
        list(answers.answer(NANO, instructions(1)))
        answers.rest()
        assert (tmp_path / "card").read_text().split() == [str(used[-1])]
    assert progress.notes == notes


def test_a_prompt_that_leaves_no_room_for_its_answer_fails_alone(fake: Fake, tmp_path: Path) -> None:
    short, middle, long = (Instruction.of("a " * count, Origin("corpus")) for count in (5, 25, 26))
    tokenizer = load_tokenizer(NANO)
    context = 32 + len(tokenizer.apply_chat_template(middle.messages, add_generation_prompt=True, return_dict=False))
    fake.behave(Behaviour(context=context))
    with student(fake.python, tmp_path) as answers:
        replies = dict(answers.answer(NANO, [long, short, middle]))
    assert {request_of(replies[item.id])["max_tokens"] for item in (short, middle)} == {32}
    failure = replies[long.id]
    assert isinstance(failure, Failure)
    assert failure.kind == "too long"
    assert f"more than the {context} the student can read" in failure.message
    assert "student.max_new_tokens = 32" in failure.message


def test_a_prompt_that_the_template_refuses_fails_alone(fake: Fake, tmp_path: Path) -> None:
    own = (Path(NANO.path) / "chat_template.jinja").read_text("utf-8")
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompts') }}{% endif %}"
    refused = [
        Instruction(text, text, Origin("evaluation"), (Turn("system", "Be brief."),)) for text in ("a", "a" * 99)
    ]
    fake.behave(Behaviour(context=120))
    with student(fake.python, tmp_path, model=ModelSettings(chat_template=refusing + own)) as answers:
        replies = dict(answers.answer(NANO, [*refused, *instructions(1)]))
    failure = Failure("template", "the chat template refuses it: no system prompts")
    assert [replies[each.id] for each in refused] == [failure, failure]
    assert isinstance(replies[instructions(1)[0].id], Completion)


def test_a_sampled_answer_has_a_seed_of_its_instruction_and_the_run(fake: Fake, tmp_path: Path) -> None:
    def seeds(seed: int) -> list[object]:
        with student(fake.python, tmp_path, temperature=0.7, seed=seed) as answers:
            replies = dict(answers.answer(NANO, instructions(5)))
        return [request_of(replies[item.id])["seed"] for item in instructions(5)]

    first = seeds(1)
    assert len(set(first)) == 5
    assert all(isinstance(seed, int) for seed in first)
    assert seeds(1) == first
    assert not set(seeds(2)) & set(first)


def test_calls_to_this_machine_bypass_the_proxy(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.org")
    with student(fake.python, tmp_path) as answers:
        assert all(isinstance(reply, Completion) for _, reply in answers.answer(NANO, instructions(3)))
    assert os.environ["no_proxy"] == "example.org,127.0.0.1"


def test_what_cannot_be_loaded_is_reported_before_anything_is_started(fake: Fake, tmp_path: Path) -> None:
    bare = copy_of_nano(tmp_path / "bare", "chat_template.jinja")
    nothing = Checkpoint(str(tmp_path / "nothing"), 0)
    for checkpoint, words in ((bare, "no chat template"), (nothing, "no student can be loaded")):
        with student(fake.python, tmp_path) as answers, pytest.raises(RoleError, match=words):
            list(answers.answer(checkpoint, instructions(1)))
    assert fake.starts() == []


def test_a_python_that_is_not_there_or_has_no_vllm_is_reported_with_how_to_make_one(tmp_path: Path) -> None:
    for python, words in ((str(tmp_path / "nowhere"), "cannot be run"), (sys.executable, "without vLLM")):
        with pytest.raises(RoleError, match=words) as caught:
            vllm_server.check(VllmStudentConfig(python=python))
        assert f"student.python = {python!r}" in str(caught.value)
        assert "make vllm" in caught.value.remedy
        assert "pip install vllm" in caught.value.remedy


def test_a_python_in_the_home_folder_is_found(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path(fake.python).parent))
    with student(f"~/{Path(fake.python).name}", tmp_path) as answers:
        assert len(list(answers.answer(NANO, instructions(1)))) == 1


@pytest.mark.parametrize("option", ["--port", "--api-key=secret"])
def test_what_only_we_can_set_is_no_option(fake: Fake, option: str) -> None:
    with pytest.raises(RoleError, match=r"student\.options"):
        vllm_server.check(VllmStudentConfig(python=fake.python, options=("--enforce-eager", option)))


def test_a_server_that_ends_while_starting_is_an_error_with_its_last_lines_and_their_cause(
    tmp_path: Path, fake: Fake
) -> None:
    (tmp_path / LOG).write_text("of an earlier session\n")
    cause = "ERROR [core.py:9] ValueError: no memory for the cache"
    fake.behave(Behaviour(says="\n".join([cause, *(f"line {number}" for number in range(9000))]), ends=2))
    with (
        student(fake.python, tmp_path) as answers,
        pytest.raises(RoleError, match="ended while it was starting") as caught,
    ):
        list(answers.answer(NANO, instructions(1)))
    assert f"{cause}\n    ...\n" in str(caught.value)
    assert "line 8999\n    the server ended with exit status 2" in str(caught.value)
    assert "line 50" not in str(caught.value)
    assert "earlier session" not in str(caught.value)
    assert str(tmp_path / LOG) in str(caught.value)
    assert (tmp_path / LOG).read_text().startswith("of an earlier session\nERROR")
    for key in ("student.options", "student.python", "student.start_timeout"):
        assert key in caught.value.remedy


def test_a_server_that_is_never_healthy_is_an_error_and_nothing_is_left_of_it(fake: Fake, tmp_path: Path) -> None:
    fake.behave(Behaviour(says="loading weights", healthy=False))
    with (
        student(fake.python, tmp_path, start_timeout=1.5) as answers,
        pytest.raises(RoleError, match=r"not healthy after 1\.5 s") as caught,
    ):
        list(answers.answer(NANO, instructions(1)))
    assert "loading weights" in str(caught.value)
    (start,) = fake.starts()
    assert not runs(start.pid)
    assert not runs(start.child)


def test_the_user_can_stop_while_the_server_starts(fake: Fake, tmp_path: Path) -> None:
    fake.behave(Behaviour(healthy=False))
    progress = RecordingProgress()
    progress.stop()
    with student(fake.python, tmp_path, progress) as answers, pytest.raises(Interrupted):
        list(answers.answer(NANO, instructions(1)))
    assert not any(runs(start.pid) for start in fake.starts())
