"""What the real trainer is given here, and how far two trainings are apart."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from tapir.domain.round import Checkpoint
from tapir.roles import Example, TrainJob, TrainReport
from tapir.students.load import ModelSettings
from tapir.training.attempt import FOLDER
from tapir.training.handover import JobFolder
from tapir.training.sft import SftSettings

NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
EXAMPLES = [Example(f"{n:016x}", f"Calculate {n} + {n % 7 * 111}.", str(n + n % 7 * 111)) for n in range(44)]
STEPS = 54  # of 8 examples, the last of 3

NOISE = 1e-4
"""Largest difference of a loss or a weight; 3e-6 and 7e-7 were measured, another processor may sum otherwise."""


def settings(learning_rate: float = 1e-3) -> SftSettings:
    return SftSettings(
        learning_rate=learning_rate,
        batch_size=8,
        scheduler="cosine",
        warmup_share=0.1,
        weight_decay=0.01,
        max_length=64,
        save_every=10,
        method="full",
        lora=None,
        model=ModelSettings(),
    )


def job_in(folder: Path) -> TrainJob:
    return TrainJob(NANO, EXAMPLES, folder / "checkpoint", folder / "training", 1, epochs=9.7, seed=3)


def losses_apart(one: TrainReport, other: TrainReport) -> float:
    assert [step for step, _ in one.loss] == [step for step, _ in other.loss]
    return max(abs(a - b) for (_, a), (_, b) in zip(one.loss, other.loss, strict=True))


def weights_apart(one: Path, other: Path) -> float:
    """As transformers loads them."""
    from transformers import AutoModelForCausalLM

    first, second = (
        AutoModelForCausalLM.from_pretrained(folder / "checkpoint").state_dict() for folder in (one, other)
    )
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def kill_rank(job: TrainJob, number: int) -> Callable[[], None]:
    """What kills the process of a rank when it is called."""

    def now() -> None:
        os.kill(JobFolder(job.work / FOLDER).ranks()[number].pid, signal.SIGKILL)

    return now
