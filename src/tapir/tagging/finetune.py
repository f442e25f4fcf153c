"""An encoder learns labels: fine-tuning with transformers' Trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tapir.errors import TrainingError
from tapir.roles import Watch
from tapir.tagging.classifier import check_length, encoded, free, in_bf16, no_memory, out_of_memory, padded
from tapir.tagging.loading import Source, to_train

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

_STAGE = "fit"
_WARMUP_SHARE = 0.1
_WEIGHT_DECAY = 0.01


@dataclass(frozen=True, slots=True)
class Course:
    """How labels are learnt.

    Attributes:
        epochs: passes over the labels.
        learning_rate: at its peak, after a tenth of the steps; it falls to 0 in a straight line.
        batch_size: instructions in a step.
        max_length: tokens read of an instruction.
        seed: of the new head's weights, the order, and dropout.
        passes: through the model for one step.
    """

    epochs: float
    learning_rate: float
    batch_size: int
    max_length: int
    seed: int
    passes: int = 1

    @property
    def at_once(self) -> int:
        """Instructions in one pass."""
        return -(-self.batch_size // self.passes)

    def steps(self, examples: int) -> int:
        """Steps over all epochs."""
        return math.ceil(-(-examples // self.batch_size) * self.epochs)


def learnt(
    source: Source, labels: Sequence[str], examples: Sequence[tuple[str, str]], course: Course, watch: Watch
) -> tuple[Any, Any]:
    """Model and tokenizer after learning (text, label) examples; the same for the same seed on the same machine.

    Where memory does not suffice, batches are halved once: two of them then make one step.

    Raises:
        RoleError: the encoder cannot be loaded, or memory does not suffice for half a batch.
        TrainingError: the loss is not a number.
        Interrupted: the user asked to stop.
    """
    found = _attempt(source, labels, examples, course, watch)
    if found is None and course.batch_size > 1:
        course = replace(course, passes=2)
        watch.note(f"out of memory while the tagger learns: tried again with {course.at_once} instructions at once")
        found = _attempt(source, labels, examples, course, watch)
    if found is None:
        raise no_memory(course.at_once)
    return found


def _attempt(
    source: Source, labels: Sequence[str], examples: Sequence[tuple[str, str]], course: Course, watch: Watch
) -> tuple[Any, Any] | None:
    """Learn from the start; None where memory does not suffice."""
    model, tokenizer = to_train(source, labels, course.seed)
    check_length(model, tokenizer, course.max_length)
    number_of = {label: number for number, label in enumerate(labels)}
    tokens = encoded(tokenizer, [text for text, _ in examples], course.max_length)
    rows = [{"input_ids": one, "labels": number_of[label]} for one, (_, label) in zip(tokens, examples, strict=True)]
    trained = None
    watch.start(0, _STAGE, course.steps(len(rows)))
    try:
        trained = _trained(model, tokenizer.pad_token_id, rows, course, watch)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    watch.finish()
    del model
    free()
    return (trained, tokenizer) if trained else None


def _trained(model: Any, pad: int, rows: Sequence[Any], course: Course, watch: Watch) -> Any:
    """The model after training, as it was before but for its weights."""
    import torch
    from transformers import PrinterCallback, Trainer

    def batch(several: Sequence[Any]) -> dict[str, Any]:
        tensors = padded([one["input_ids"] for one in several], pad)
        return {**tensors, "labels": torch.tensor([one["labels"] for one in several])}

    with TemporaryDirectory() as nothing:
        trainer: Trainer = Trainer(
            model=model,
            args=_arguments(course, nothing, len(rows)),
            train_dataset=list(rows),
            data_collator=batch,
            callbacks=[_callback(watch)],
        )
        trainer.remove_callback(PrinterCallback)
        result = trainer.train()
    watch.check()
    if not math.isfinite(result.training_loss):
        raise _not_a_number(result.training_loss, trainer.state.global_step)
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)


def _arguments(course: Course, folder: str, examples: int) -> Any:
    import torch
    from transformers import TrainingArguments

    steps = course.steps(examples)
    found = TrainingArguments(
        output_dir=folder,
        num_train_epochs=course.epochs,
        per_device_train_batch_size=course.at_once,
        gradient_accumulation_steps=course.passes,
        learning_rate=course.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(_WARMUP_SHARE * steps),
        weight_decay=_WEIGHT_DECAY,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        logging_steps=max(1, steps // 50),
        logging_nan_inf_filter=False,
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        bf16=in_bf16(),
        dataloader_pin_memory=False,
        seed=course.seed,
    )
    found._n_gpu = min(1, found.n_gpu)  # noqa: SLF001  # on several GPUs it would multiply the batch by their number
    return found


def _callback(watch: Watch) -> TrainerCallback:
    """Tell the watcher every step, stop when asked, refuse a loss that is not a number."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc]
        """The trainer's own progress, handed on."""

        def on_step_end(self, _arguments: Any, _state: Any, control: Any, **_: Any) -> None:
            watch.advance()
            control.should_training_stop = control.should_training_stop or watch.stopping

        def on_log(
            self, _arguments: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any
        ) -> None:
            loss = (logs or {}).get("loss")
            if loss is None:
                return
            if not math.isfinite(loss):
                raise _not_a_number(loss, state.global_step)
            watch.measure(loss=loss)

    return Steps()


def _not_a_number(loss: float, step: int) -> TrainingError:
    return TrainingError(
        f"the tagger's training loss is {loss} at step {step}",
        remedy="Lower tagger.learning_rate, then start a new run.",
    )
