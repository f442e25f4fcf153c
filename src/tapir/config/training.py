"""Sections of the recipe about training: fine-tuning, adapters, preference optimisation, launchers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from tapir.config.base import Count, CustomConfig, Section, Share, Text, Whole, kind_or
from tapir.domain.judgement import RANGE
from tapir.domain.roles import Trainer

Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
Tracker: TypeAlias = Literal["mlflow", "tensorboard", "trackio", "wandb"]


class LoraConfig(Section):
    """A low-rank adapter."""

    rank: Count = 16
    """Rank of the update."""
    alpha: Count = 32
    """The update is scaled by alpha / rank."""
    dropout: Share = 0.0
    """Dropout before the adapter."""
    targets: Annotated[tuple[Text, ...], Field(min_length=1)] = ("all-linear",)
    """Names of the layers that get an adapter."""


class DpoConfig(Section):
    """Direct preference optimisation after every round's fine-tuning."""

    gap: Annotated[float, Field(gt=0, le=RANGE)] = 4.0
    """The trained answer is preferred to the student's own where the judge's gap is at least this."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How closely the student stays to what it was before."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-6
    """Peak learning rate."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the pairs."""


class InProcessLaunchConfig(Section):
    """Training in this process."""

    kind: Literal["here"] = "here"


class AccelerateLaunchConfig(Section):
    """Training in processes that `accelerate launch` starts."""

    kind: Literal["accelerate"]
    processes: Count = 1
    """Processes, one for each GPU of this machine."""
    config: Text = "ddp"
    """How they share the work: ddp, fsdp2, zero2, zero3, or a configuration file of accelerate."""


class RayLaunchConfig(Section):
    """Training in workers of a Ray cluster."""

    kind: Literal["ray"]
    workers: Count = 1
    """Workers that train together."""
    gpus: Whole = 0
    """GPUs of each worker."""


AnyLaunch: TypeAlias = Annotated[
    InProcessLaunchConfig | AccelerateLaunchConfig | RayLaunchConfig, Field(discriminator="kind"), kind_or("here")
]


class SftConfig(Section):
    """Fine-tuning of the student, on answer tokens only."""

    implementation: ClassVar[str] = "tapir.training.sft:SftTrainer"
    operational: ClassVar[frozenset[str]] = frozenset(
        {"micro_batch", "gradient_checkpointing", "save_every", "report_to", "launch"}
    )

    kind: Literal["sft"] = "sft"
    method: Literal["full", "lora", "qlora"] = "full"
    """full: every weight; lora: a low-rank adapter; qlora: the same over a base in 4 bits."""
    lora: LoraConfig = LoraConfig()
    """The adapter."""
    epochs: Annotated[float, Field(gt=0)] = 2.0
    """Passes over a round's examples."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """Peak learning rate (AdamW)."""
    batch_size: Count = 32
    """Examples per step, over all processes."""
    micro_batch: Whole = 0
    """Examples in one forward pass of one process; 0 takes its whole part of the step."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Learning rate over the steps of its span."""
    span: Literal["round", "run"] = "round"
    """round: it rises and falls in each round; run: it falls once, from the first round to the last."""
    warmup_share: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""
    max_length: Count = 512
    """Longest example in tokens; or as many as the student can read, where that is less."""
    too_long: Literal["drop", "cut"] = "drop"
    """drop: a longer example is dropped and counted; cut: its answer is truncated, which is counted too."""
    packing: bool = False
    """Pack several examples into one sequence of max_length tokens without cross-attention."""
    precision: Precision = "auto"
    """Of the arithmetic; auto: bfloat16 on a GPU that computes in it, or on a processor that does (AVX512-BF16, AMX)
    for a student of 100 million parameters or more; else float32."""
    gradient_checkpointing: bool = False
    """Compute activations twice to keep fewer of them."""
    save_every: Count = 50
    """Steps between two training checkpoints."""
    report_to: tuple[Tracker, ...] = ()
    """Experiment trackers that get the metrics too, as in ["tensorboard"]: wandb, mlflow, trackio, tensorboard."""
    launch: AnyLaunch = InProcessLaunchConfig()
    """Where training runs."""
    dpo: DpoConfig | None = None
    """Preference optimisation on the pairs that judging yields; without this table there is none."""

    def idle(self) -> Mapping[str, str]:
        """Full fine-tuning has no adapter, and a constant rate does not rise."""
        idle = {"lora": "method"} if self.method == "full" else {}
        return idle | ({"warmup_share": "scheduler"} if self.scheduler == "constant" else {})

    @model_validator(mode="after")
    def _fits_together(self) -> SftConfig:
        if self.span == "run" and self.scheduler != "linear":
            reason = "only 'linear' can fall over all rounds"
            raise ValueError(f"span = 'run' with scheduler = {self.scheduler!r}: {reason}")
        if self.method == "qlora" and self.precision == "float16":
            reason = "its adapter is kept in bfloat16; use precision = 'bfloat16' or 'float32'"
            raise ValueError(f"method = 'qlora' with precision = 'float16': {reason}")
        return self


class ExternalTrainingConfig(Section):
    """Fine-tuning by a program of your own."""

    implementation: ClassVar[str] = "tapir.training.external:ExternalTrainer"
    kind: Literal["command"]
    command: Annotated[tuple[Text, ...], Field(min_length=1)]
    """The program and its arguments; {base} {data} {out} {work} {seed} {epochs} {round} are filled in."""
    format: Literal["messages", "alpaca", "sharegpt"] = "messages"
    """How the examples are written for it."""
    epochs: Annotated[float, Field(gt=0)] = 2.0
    """Passes over a round's examples."""


class CustomTrainerConfig(CustomConfig):
    """Fine-tuning by a class of your own."""

    place: ClassVar[str] = "training"
    role: ClassVar[type] = Trainer
    epochs: Annotated[float, Field(gt=0)] = 2.0
    """Passes over a round's examples."""


AnyTraining: TypeAlias = Annotated[
    SftConfig | ExternalTrainingConfig | CustomTrainerConfig, Field(discriminator="kind"), kind_or("sft")
]
