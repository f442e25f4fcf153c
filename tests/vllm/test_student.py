"""The student behind a real vLLM server says what it says in this process, and survives what happens to the server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest

from support import vllm_server as vllm
from support.recording import RecordingProgress
from support.serving import NANO, student
from tapir.config.student import LocalStudentConfig, VllmStudentConfig
from tapir.domain.completion import Completion, Failure
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.roles import Reply
from tapir.domain.round import Checkpoint
from tapir.gym.corpus import corpus
from tapir.gym.skills import BY_FREQUENCY
from tapir.models.local.generate import LocalStudent
from tapir.models.local.loading import ModelSettings
from tapir.models.local.vllm import VllmStudent
from tapir.models.local.vllm_server import ServedModel, Server, memory_in_use

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft asks for it
]

PYTHON = str(vllm.ENVIRONMENT / "bin" / "python")
LONGEST = 96  # tokens of an answer
RANK = 4
ALIKE = 0.02  # the largest share of answers that float noise may change; of 500 it changed none
FLOAT32 = ModelSettings(dtype="float32")


@pytest.fixture(scope="module")
def asked() -> list[Instruction]:
    return [pair.instruction for pair in corpus(BY_FREQUENCY, size=60, skew=0.5, seed=7)]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A LoRA adapter of random numbers, large enough to be heard."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("adapter")
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=layers, task_type="CAUSAL_LM")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(NANO.path), config)
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(NANO.path).save_pretrained(folder)
    return Checkpoint(str(folder), 1)


@pytest.fixture(scope="module")
def progress() -> RecordingProgress:
    return RecordingProgress()


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, progress: RecordingProgress, adapter: Checkpoint
) -> Iterator[VllmStudent]:
    """One server for all of these tests; it was asked for the adapter first, so it can serve both."""
    if not vllm.installed():
        pytest.skip(".venv-vllm is absent or not complete: `make vllm` installs it")
    settings: dict[str, Any] = {
        "options": ("--enforce-eager", "--max-num-seqs", "32"),
        "start_timeout": 300.0,
        "reply_timeout": 120.0,
        "max_new_tokens": LONGEST,
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        student(PYTHON, tmp_path_factory.mktemp("run"), progress, FLOAT32, **settings) as one,
    ):
        patch.setenv("VLLM_CACHE_ROOT", str(vllm.ENVIRONMENT / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        list(one.answer(adapter, [Instruction.of("What is 1 + 1?", Origin("corpus"))]))
        yield one


def in_this_process(checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> dict[str, Completion]:
    section = LocalStudentConfig(max_new_tokens=LONGEST, batch_size=16)
    return completions(LocalStudent(section, 1, FLOAT32).answer(checkpoint, instructions))


def completions(replies: Iterator[Reply]) -> dict[str, Completion]:
    found = dict(replies)
    assert all(isinstance(reply, Completion) for reply in found.values()), found
    return {name: reply for name, reply in found.items() if isinstance(reply, Completion)}


def differing(one: dict[str, Completion], other: dict[str, Completion]) -> int:
    """How many texts are not the same."""
    assert one.keys() == other.keys()
    return sum(one[name].text != other[name].text for name in one)


def check_alike(here: dict[str, Completion], there: dict[str, Completion]) -> None:
    count = differing(here, there)
    assert count <= ALIKE * len(here), f"{count} of {len(here)} answers differ"
    for name, reply in here.items():
        if reply.text == there[name].text:
            assert reply == there[name], "the same end, and the same count of tokens"


def test_an_adapter_says_the_same_in_a_server_that_was_started_without_it(
    served: VllmStudent, progress: RecordingProgress, adapter: Checkpoint, asked: list[Instruction]
) -> None:
    base, there = completions(served.answer(NANO, asked)), completions(served.answer(adapter, asked))
    check_alike(in_this_process(adapter, asked), there)
    assert differing(base, there) > len(asked) / 10, "else the adapter was not heard"
    assert progress.notes == [], "no second server was needed"


def test_a_prompt_that_is_too_long_fails_alone(served: VllmStudent, asked: list[Instruction]) -> None:
    too_long = Instruction.of("the " * 600, Origin("corpus"))
    found = dict(served.answer(NANO, [too_long, *asked[:5]]))
    failure = found.pop(too_long.id)
    assert isinstance(failure, Failure)
    assert failure.kind == "too long"
    assert len(completions(iter(found.items()))) == 5


def test_sampling_depends_on_the_run_and_the_instruction_not_on_the_order(
    served: VllmStudent, asked: list[Instruction]
) -> None:
    greedy = served._section

    def sampled(instructions: list[Instruction], seed: int) -> dict[str, Completion]:
        served._disconnect()  # what was answered before is forgotten
        served._section, served._seed = greedy.model_copy(update={"temperature": 1.0}), seed
        return completions(served.answer(NANO, instructions))

    try:
        first = sampled(asked, 1)
        assert differing(first, sampled(asked[::-1], 1)) <= ALIKE * len(asked)
        assert differing(first, sampled(asked, 2)) > 0
    finally:
        served._section = greedy
        served._disconnect()


def test_answers_come_although_the_server_is_killed_in_the_middle(
    served: VllmStudent, progress: RecordingProgress, asked: list[Instruction]
) -> None:
    assert served._server is not None
    processes = psutil.Process(served._server._process.pid).children(recursive=True)
    replies = served.answer(NANO, asked)
    given = list(islice(replies, 1))
    processes[0].kill()
    given += replies
    assert len(given) == len(asked)
    check_alike(in_this_process(NANO, asked), completions(iter(given)))
    (note,) = progress.notes
    assert "the student's vLLM server ended; it is started once more" in note
    assert not any(process.is_running() for process in processes)


@pytest.mark.gpu
def test_the_memory_of_a_card_is_free_when_the_server_has_stopped(tmp_path: Path) -> None:
    python, before = os.environ.get("TAPIR_VLLM_PYTHON", ""), memory_in_use()
    if not before or not python:
        pytest.skip("needs a CUDA device, and TAPIR_VLLM_PYTHON: the Python of an environment with vLLM for it")
    section = VllmStudentConfig(python=python, options=("--enforce-eager",), start_timeout=600.0)
    server = Server(ServedModel(NANO.path), section, tmp_path / "log")
    assert sum(memory_in_use().values()) > 2 * sum(before.values()) + 1024
    assert server.stop() == ""
    assert all(used < before[card] + 1024 for card, used in memory_in_use().items())
