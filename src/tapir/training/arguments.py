"""What every trainer of TRL is told in the same way."""

from __future__ import annotations

from typing import Any

from tapir.roles import TrainJob
from tapir.training.batches import Layout
from tapir.training.model import Device
from tapir.training.settings import SftSettings

POINTS = 50
"""Points of a loss curve, at most twice as many."""


def log_every(steps: int) -> int:
    """Steps between two points of the loss curve."""
    return max(1, steps // POINTS)


def arguments(job: TrainJob, settings: SftSettings, layout: Layout, where: Device) -> dict[str, Any]:
    """Arguments of a training whose steps are laid out, for SFTConfig, DPOConfig and the like."""
    return {
        "output_dir": str(job.work),
        "run_name": f"{job.out.parent.parent.name} round {job.number}",
        "num_train_epochs": 1,
        "max_steps": layout.steps,
        "per_device_train_batch_size": layout.per_pass,
        "gradient_accumulation_steps": layout.accumulation,
        **_learning_rate(job, settings),
        "warmup_steps": round(settings.warmup_share * layout.steps),
        "weight_decay": settings.weight_decay,
        "train_sampling_strategy": "sequential",
        "save_strategy": "steps",
        "save_steps": settings.save_every,
        "save_total_limit": 2,
        "logging_steps": log_every(layout.steps),
        "logging_nan_inf_filter": False,
        "report_to": [name for name in settings.report_to if name != "tensorboard"] or "none",
        "disable_tqdm": True,
        "use_cpu": where.kind == "cpu",
        "bf16": where.precision == "bfloat16",
        "fp16": where.precision == "float16",
        "activation_checkpointing": settings.gradient_checkpointing,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "seed": job.seed,
    }


def _learning_rate(job: TrainJob, settings: SftSettings) -> dict[str, Any]:
    """Of a round by itself, or of its part of a line that falls over all rounds."""
    if not settings.whole_run:
        return {"learning_rate": settings.learning_rate, "lr_scheduler_type": settings.scheduler}
    begins, ends = (settings.learning_rate * (1 - share) for share in job.part)
    return {
        "learning_rate": begins,
        "lr_scheduler_type": "polynomial",
        "lr_scheduler_kwargs": {"lr_end": ends, "power": 1.0},
    }
