"""Trainings of the built-in student that take about a second, and what they leave."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from tapir.domain.completion import Completion
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.round import Checkpoint
from tapir.errors import Interrupted
from tapir.roles import Example, TrainJob, TrainReport
from tapir.students.load import ModelSettings
from tapir.students.local import AnswerSettings, LocalStudent
from tapir.training.sft import LoraSettings, SftSettings, SftTrainer

NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
EXAMPLES = [Example(f"{number:016x}", f"Calculate {number} + 1.", str(number + 1)) for number in range(24)]
SETTINGS = SftSettings(
    learning_rate=3e-3,
    batch_size=8,
    scheduler="constant",
    warmup_share=0.0,
    weight_decay=0.0,
    max_length=64,
    save_every=100,
    method="full",
    lora=LoraSettings(8, 16, 0.0, ("all-linear",)),
    model=ModelSettings(),
)
LORA = replace(SETTINGS, method="lora")

_ALONE = """
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


@dataclass
class Heard:
    """A watch that keeps what it is told, and asks to stop after so many steps."""

    stops_after: int = 0
    notes: list[str] = field(default_factory=list)
    starts: list[tuple[int, int]] = field(default_factory=list)
    steps: int = 0
    figures: list[dict[str, float]] = field(default_factory=list)

    def start(self, _number: int, _stage: str, total: int, done: int = 0) -> None:
        self.starts.append((total, done))

    def advance(self, items: int = 1) -> None:
        self.steps += items

    def finish(self) -> None:
        assert self.starts

    def note(self, text: str) -> None:
        self.notes.append(text)

    def measure(self, **figures: float) -> None:
        self.figures.append(figures)

    @property
    def stopping(self) -> bool:
        return 0 < self.stops_after <= self.steps

    def check(self) -> None:
        if self.stopping:
            raise Interrupted("stopped")


def job_in(
    folder: Path, base: Checkpoint = NANO, epochs: float = 4, examples: Sequence[Example] = EXAMPLES
) -> TrainJob:
    return TrainJob(base, examples, folder / "checkpoint", folder / "training", 1, epochs=epochs, seed=3)


def train(
    folder: Path,
    settings: SftSettings = SETTINGS,
    base: Checkpoint = NANO,
    epochs: float = 4,
    watch: Heard | None = None,
) -> TrainReport:
    """The checkpoint is `folder / "checkpoint"`."""
    return SftTrainer(settings).train(job_in(folder, base, epochs), watch or Heard())


def weights(folder: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def answers(folder: Path, examples: Sequence[Example] = EXAMPLES) -> list[str]:
    """As the student of a run answers."""
    asked = [Instruction.of(example.prompt, Origin("corpus")) for example in examples]
    found = dict(LocalStudent(AnswerSettings(12, 8, 0, 0.0, 1)).answer(Checkpoint(str(folder), 1), asked))
    replies = [found[one.id] for one in asked]
    assert all(isinstance(reply, Completion) for reply in replies)
    return [reply.text for reply in replies if isinstance(reply, Completion)]


def answers_of_transformers(folder: Path, examples: Sequence[Example] = EXAMPLES) -> list[str]:
    """As a program answers that knows transformers and nothing of this package."""
    import json

    found = subprocess.run(
        [sys.executable, "-c", _ALONE, str(folder)],
        input=json.dumps([example.prompt for example in examples]),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]
