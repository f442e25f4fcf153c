"""Trainings of the built-in student that take seconds, what they leave, and how far two of them are apart."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from support.recording import RecordingProgress
from tapir.config.student import LocalStudentConfig
from tapir.config.training import LoraConfig, SftConfig
from tapir.domain.completion import Completion
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.round import Checkpoint
from tapir.domain.training import Example, TrainJob, TrainReport
from tapir.models.local.generate import LocalStudent
from tapir.training.job_folder import JobFolder
from tapir.training.launch import FOLDER
from tapir.training.sft import SftTrainer

NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
EXAMPLES = [Example(f"{number:016x}", f"Calculate {number} + 1.", str(number + 1)) for number in range(24)]
FULL = SftConfig(
    learning_rate=3e-3,
    batch_size=8,
    scheduler="constant",
    weight_decay=0.0,
    max_length=64,
    save_every=100,
)
LORA = FULL.model_copy(update={"method": "lora", "lora": LoraConfig(rank=8, alpha=16)})

LONGER = SftConfig(learning_rate=1e-3, batch_size=8, warmup_share=0.1, max_length=64, save_every=10)
"""For trainings in several processes."""
STEPS = 54  # of 8 examples, the last of 3
NOISE = 1e-4
"""Largest difference of a loss or a weight; 3e-6 and 7e-7 were measured, another processor may sum otherwise."""

LONG = Example("b" * 16, "Calculate 1 + 1.", "1 + " * 60 + "1")

_TRANSFORMERS_ALONE = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, prompts = sys.argv[1], json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
for prompt in prompts:
    chat = [{"role": "user", "content": prompt}]
    asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**asked, max_new_tokens=12, do_sample=False)[0, asked["input_ids"].shape[1] :]
    print(json.dumps(tokenizer.decode(written, skip_special_tokens=True)))
assert not any(name.partition(".")[0] == "tapir" for name in sys.modules)
"""


def template(answer: str, prompt: str = "{{ messages[0].content }}") -> str:
    """Of a student that is asked with <user> and <answer>; `answer` is written when there is one."""
    return f"<user>{prompt}<answer>{{% if messages|length > 1 %}}{answer}{{% endif %}}"


def changed(config: SftConfig, **keys: Any) -> SftConfig:
    return config.model_copy(update=keys)


def job_in(
    folder: Path, base: Checkpoint = NANO, epochs: float = 4, examples: Sequence[Example] = EXAMPLES
) -> TrainJob:
    return TrainJob(base, examples, folder / "checkpoint", folder / "training", 1, epochs=epochs, seed=3)


def longer_job_in(folder: Path) -> TrainJob:
    examples = [Example(f"{n:016x}", f"Calculate {n} + {n % 7 * 111}.", str(n + n % 7 * 111)) for n in range(44)]
    return job_in(folder, epochs=9.7, examples=examples)


def train(
    folder: Path,
    config: SftConfig = FULL,
    base: Checkpoint = NANO,
    epochs: float = 4,
    progress: RecordingProgress | None = None,
) -> TrainReport:
    """The checkpoint is `folder / "checkpoint"`."""
    return SftTrainer(config).train(job_in(folder, base, epochs), progress or RecordingProgress())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file grows beyond so many bytes, which the system reports as it reports a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def losses(report: TrainReport) -> list[float]:
    return [loss for _, loss in report.loss]


def weights(folder: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def losses_apart(report: TrainReport, other: TrainReport) -> float:
    assert [step for step, _ in report.loss] == [step for step, _ in other.loss]
    return max(abs(a - b) for a, b in zip(losses(report), losses(other), strict=True))


def weights_apart(folder: Path, other: Path) -> float:
    """As transformers loads them."""
    from transformers import AutoModelForCausalLM

    first, second = (AutoModelForCausalLM.from_pretrained(run / "checkpoint").state_dict() for run in (folder, other))
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def kill_rank(job: TrainJob, number: int) -> Callable[[], None]:
    """What kills the process of a rank when it is called."""
    return lambda: os.kill(JobFolder(job.work / FOLDER).ranks()[number].pid, signal.SIGKILL)


def answers(folder: Path, examples: Sequence[Example] = EXAMPLES) -> list[str]:
    """As the student of a run answers."""
    instructions = [Instruction.of(example.prompt, Origin("corpus")) for example in examples]
    student = LocalStudent(LocalStudentConfig(max_new_tokens=12, batch_size=8), seed=1)
    replies = dict(student.answer(Checkpoint(str(folder), 1), instructions))
    assert all(isinstance(reply, Completion) for reply in replies.values())
    return [str(getattr(replies[instruction.id], "text", "")) for instruction in instructions]


def answers_of_transformers(folder: Path, examples: Sequence[Example] = EXAMPLES) -> list[str]:
    """As a program answers that knows transformers and nothing of this package."""
    result = subprocess.run(
        [sys.executable, "-c", _TRANSFORMERS_ALONE, str(folder)],
        input=json.dumps([example.prompt for example in examples]),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]
