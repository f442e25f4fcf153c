"""What a training is told, and how a step is shared out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tapir.errors import TrainingError
from tapir.students.load import ModelSettings
from tapir.training.trackers import check_trackers, need

Method: TypeAlias = Literal["full", "lora", "qlora"]
Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
TooLong: TypeAlias = Literal["drop", "cut"]


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """A low-rank adapter: the update is scaled by alpha / rank; `targets` names layers, or is ("all-linear",)."""

    rank: int
    alpha: int
    dropout: float
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SftSettings:
    """Hyper-parameters; see the recipe for their meaning.

    Attributes:
        batch_size: examples of one optimizer step, over all processes.
        micro_batch: examples (with packing: rows) in one forward pass of one process; 0 is its whole part of a step.
        max_length: tokens of the longest example, and of a row with packing.
        save_every: steps between two training checkpoints.
        lora: the adapter; without effect where method is "full" or the base is an adapter, which goes on as it is.
        model: how the student is loaded; its dtype does not matter here, precision does.
        too_long: what happens to an example with more than max_length tokens.
        report_to: trackers that are told too.
        whole_run: the learning rate falls once over all rounds, each of which does its part of that.
    """

    learning_rate: float
    batch_size: int
    scheduler: str
    warmup_share: float
    weight_decay: float
    max_length: int
    save_every: int
    method: Method
    lora: LoraSettings | None
    model: ModelSettings
    precision: Precision = "auto"
    micro_batch: int = 0
    too_long: TooLong = "drop"
    packing: bool = False
    gradient_checkpointing: bool = False
    report_to: tuple[str, ...] = ()
    whole_run: bool = False

    def check(self) -> None:
        """See that what the settings ask for can be had, before anything is loaded.

        Raises:
            TrainingError: an adapter without settings, or an unknown tracker.
            MissingExtra: a tracker or bitsandbytes is not installed.
        """
        check_trackers(self.report_to)
        if self.method != "full" and self.lora is None:
            raise TrainingError(f"training.method = {self.method!r} needs training.lora", remedy="Add [training.lora].")
        if self.method == "qlora":
            need("bitsandbytes", "training.method = 'qlora'")


def shared_out(settings: SftSettings, processes: int) -> tuple[int, int]:
    """Examples of one forward pass in one process, and how many passes make one step there.

    Raises:
        TrainingError: the examples of a step cannot be shared out evenly.
    """
    share, rest = divmod(settings.batch_size, processes)
    micro = settings.micro_batch or share
    if rest or not share or micro > share or share % micro:
        raise TrainingError(
            f"training.batch_size = {settings.batch_size} cannot be shared out evenly over {processes} "
            f"process{'es' * (processes > 1)} in passes of training.micro_batch = {settings.micro_batch} examples",
            remedy="Make training.batch_size a multiple of training.micro_batch times the number of processes.",
        )
    return micro, share // micro


def halved(micro: int, accumulation: int) -> int:
    """The largest number of examples, at most half as many, that still shares out the step; 0 if there is none."""
    share = micro * accumulation
    return next((size for size in range(micro // 2, 0, -1) if share % size == 0), 0)
