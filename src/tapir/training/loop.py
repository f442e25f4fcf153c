"""Training loop: TRL's arguments, resuming from checkpoints, smaller forward passes if memory runs out."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from tapir.config.training import SftConfig
from tapir.data.files import disk_errors, replacing_folder
from tapir.domain.errors import TrainingError
from tapir.domain.progress import Progress
from tapir.domain.training import TrainJob, TrainReport
from tapir.models.local.loading import ModelSettings
from tapir.models.memory import free_memory, is_out_of_memory
from tapir.training import checkpoints
from tapir.training.callbacks import StepTimer, loss_curve, progress_callback, tensorboard_callbacks
from tapir.training.dataset import BatchPlan, Encoded, cumulative_tokens, plan_batches, training_order
from tapir.training.distributed import barrier, is_main_process, world_size
from tapir.training.model import (
    Device,
    choose_device,
    count_parameters,
    freeing_memory,
    load_arguments,
    load_for_training,
)

_POINTS = 50  # of a loss curve, at most twice as many
_PROBES, _TOKENS = 3, 128  # examples that compare what was saved with what was trained; tokens of each, at most


@dataclass
class TrainingTask(ABC):
    """What a training learns from, in which order, and by which trainer of TRL.

    Attributes:
        examples: those of which a few are used to compare what was saved with what was trained (`probes`).
        lengths: tokens of each item to train on.
        order: places of the items in the order of training, over all epochs.
        read: tokens read before each step, and in all as the last.
    """

    job: TrainJob
    config: SftConfig
    settings: ModelSettings
    tokenizer: Any
    progress: Progress
    examples: Sequence[Encoded]
    lengths: Sequence[int]

    def __post_init__(self) -> None:
        self.device = choose_device(self.config.precision, self.job.base, self.settings)
        self.probes = [list(example.input_ids[:_TOKENS]) for example in self.examples[:_PROBES]]
        size, by_length = self.config.batch_size, not self.config.packing  # packed rows are full whatever the lengths
        self.order = training_order(
            self.lengths, batch_size=size, epochs=self.job.epochs, seed=self.job.seed, by_length=by_length
        )
        self.read = cumulative_tokens(self.order, self.lengths, size)

    def plan(self, micro: int, processes: int) -> BatchPlan:
        """Plan all steps, with forward passes of so many examples in each of so many processes."""
        return plan_batches(self.order, self.config.batch_size, micro, processes)

    @abstractmethod
    def arguments(self, shared: dict[str, Any]) -> Any:
        """Return TRL's arguments: those that all trainers share, and its own."""

    @abstractmethod
    def trainer(self, model: Any, arguments: Any, plan: BatchPlan, callbacks: list[Any]) -> Any:
        """Return a trainer of TRL whose every step reads what the plan says."""


def split_step(config: SftConfig, processes: int) -> tuple[int, int]:
    """Return the examples of one forward pass in one process, and how many passes make one step there."""
    share, rest = divmod(config.batch_size, processes)
    micro = config.micro_batch or share
    if rest or not share or micro > share or share % micro:
        raise TrainingError(
            f"training.batch_size = {config.batch_size} cannot be split evenly over {processes} "
            f"process{'es' * (processes > 1)} in passes of training.micro_batch = {config.micro_batch} examples",
            remedy="Make training.batch_size a multiple of training.micro_batch times the number of processes.",
        )
    return micro, share // micro


def smaller_micro_batch(micro: int, accumulation: int) -> int:
    """Return the largest number of examples, at most half as many, that still splits the step; 0 if there is none."""
    share = micro * accumulation
    return next((size for size in range(micro // 2, 0, -1) if share % size == 0), 0)


def training_arguments(job: TrainJob, config: SftConfig, plan: BatchPlan, device: Device) -> dict[str, Any]:
    """Return the arguments of a planned training, for SFTConfig, DPOConfig and the like."""
    rate: dict[str, Any] = {"learning_rate": config.learning_rate, "lr_scheduler_type": config.scheduler}
    if config.span != "round":  # the round's part of a line that falls over all rounds
        first, last = (config.learning_rate * (1 - share) for share in job.part)
        line = {"lr_end": last, "power": 1.0}
        rate = {"learning_rate": first, "lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": line}
    return {
        "output_dir": str(job.work),
        "run_name": f"{job.out.parent.parent.name} round {job.number}",
        "num_train_epochs": 1,
        "max_steps": plan.steps,
        "per_device_train_batch_size": plan.per_pass,
        "gradient_accumulation_steps": plan.accumulation,
        **rate,
        "warmup_steps": round(config.warmup_share * plan.steps),
        "weight_decay": config.weight_decay,
        "train_sampling_strategy": "sequential",
        "save_strategy": "steps",
        "save_steps": config.save_every,
        "save_total_limit": 2,
        "logging_steps": max(1, plan.steps // _POINTS),
        "logging_nan_inf_filter": False,
        "report_to": [name for name in config.report_to if name != "tensorboard"] or "none",
        "disable_tqdm": True,
        "use_cpu": device.kind == "cpu",
        "bf16": device.precision == "bfloat16",
        "fp16": device.precision == "float16",
        "activation_checkpointing": config.gradient_checkpointing,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "seed": job.seed,
    }


def fit(task: TrainingTask) -> TrainReport:
    """Train, or resume from the last complete training checkpoint in the job's `work`; write the new one to its `out`.

    A whole model is saved in the precision it was trained in: float32, or bfloat16 where that is what the
    arithmetic was done in, although the weights were kept in float32 during training; the next round starts from
    what was saved. An adapter is saved in float32 (over a base in 4 bits: bfloat16) and names its base.

    If memory runs out, the training goes on once with half as many examples in a pass, and so with the same steps;
    where several processes train, it ends. The report lacks what only the task knows of its examples.
    """
    micro, accumulation = split_step(task.config, world_size())
    if task.config.precision == "auto" and (task.device.kind, task.device.precision) == ("cpu", "bfloat16"):
        remark = "training computes in bfloat16, as this processor can; training.precision = 'float32' is slower"
        task.progress.note(remark)
    with disk_errors(task.job.work):
        task.job.work.mkdir(parents=True, exist_ok=True)
    result = _try_to_train(task, micro)
    smaller = smaller_micro_batch(micro, accumulation) if world_size() == 1 else 0
    if isinstance(result, str) and smaller:
        task.progress.note(
            f"out of memory with {micro} examples in a pass: going on with training.micro_batch = {smaller}"
        )
        micro = smaller
        result = _try_to_train(task, micro)
    if isinstance(result, str):
        raise TrainingError(
            f"out of memory with {micro} examples in a pass: {result}",
            remedy="Set training.micro_batch to a smaller divisor of training.batch_size, gradient_checkpointing = "
            'true, method = "lora" or "qlora", or a smaller training.max_length; then `tapir resume`.',
        )
    return result


def _try_to_train(task: TrainingTask, micro: int) -> TrainReport | str:
    """Return what the training did, or the message with which memory ran out."""
    try:
        with freeing_memory():
            return _train(task, micro) or _try_to_train(task, micro)  # again where a checkpoint was set aside
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return str(error).partition("\n")[0][:200]


def _train(task: TrainingTask, micro: int) -> TrainReport | None:
    from transformers import PrinterCallback, set_seed

    job, config, progress, device = task.job, task.config, task.progress, task.device
    plan = task.plan(micro, world_size())
    arguments = task.arguments(training_arguments(job, config, plan, device))  # before the model, for ZeRO-3
    if arguments.n_gpu > 1:
        progress.note(f"one of {arguments.n_gpu} GPUs trains: with training.launch, several do")
        arguments._n_gpu = 1  # noqa: SLF001 (transformers would use them in a way that TRL does not support)
    set_seed(job.seed)  # an adapter begins at random
    model = load_for_training(job.base, config, task.settings, device)
    parameters, trainable = count_parameters(model)
    last = checkpoints.last_checkpoint(job.work)
    progress.start(job.number, "train", plan.steps, checkpoints.checkpoint_step(last))
    timer = StepTimer(progress, task.read)
    callbacks = [progress_callback(timer), *tensorboard_callbacks(config.report_to, job.out.parent / "tensorboard")]
    with disk_errors(job.work):
        trainer = task.trainer(model, arguments, plan, callbacks)
        # ZeRO-3 needs `use_reentrant` for adapters: TRL writes it under the old name, transformers reads the new one
        trainer.args.activation_checkpointing_kwargs = trainer.args.gradient_checkpointing_kwargs
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        except Exception:  # a damaged file raises almost anything
            fault = checkpoints.find_damage(last) if last and not timer.began else ""
            if not fault or not last:
                raise
            with suppress(FileNotFoundError):  # another process was first
                shutil.rmtree(aside := last.with_name(f"damaged-{last.name}"), ignore_errors=True)
                last.replace(aside)
                progress.note(f"{last} cannot be loaded, is now {aside.name}, and is not used: {fault}")
            if world_size() > 1:
                raise
            return None
        progress.check()
    with replacing_folder(job.out) if is_main_process() else nullcontext(job.out) as draft:
        dtype = device.dtype if config.method == "full" and device.precision != "float32" else None
        trained = checkpoints.save(trainer, task.tokenizer, draft, dtype, task.probes)
        loss = loss_curve(trainer.state.log_history, arguments.logging_steps, plan.steps)
        del trainer, model  # before the checkpoint is loaded: there may not be room for both
        free_memory()
        if is_main_process():
            pinned = {"revision": task.settings.revision} if task.settings.revision else {}  # of an adapter's base
            saved_model = checkpoints.reload(draft, arguments.device, **pinned, **load_arguments(config, device))
            # TRL keeps an adapter over 4 bits in bfloat16
            precision = "bfloat16" if config.method == "qlora" else device.precision
            saved = checkpoints.logits(saved_model, task.probes, arguments.device)
            checkpoints.compare_logits(draft, trained, saved, precision)
    barrier()
    progress.finish()
    return TrainReport(
        steps=plan.steps,
        loss=loss,
        tokens=task.read[-1],
        answer_tokens=0,
        parameters=parameters,
        trainable=trainable,
        seconds=timer.seconds,
        tokens_per_second=timer.tokens_per_second,
    )
