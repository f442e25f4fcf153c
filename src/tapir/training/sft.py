"""Supervised fine-tuning with TRL's SFTTrainer, resumable in the middle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapir.errors import TrainingError
from tapir.roles import TrainJob, TrainReport, Watch
from tapir.store.files import disk_errors, full
from tapir.students.load import load
from tapir.training.examples import Encoded, encode, training_order

if TYPE_CHECKING:
    from transformers import TrainerCallback

_COMPLETE = "complete"
_FULL_SIGNS = ("os error 27", "os error 28", "os error 122", "PytorchStreamWriter", "inline_container")


@dataclass(frozen=True, slots=True)
class SftSettings:
    """Hyper-parameters; see the recipe for their meaning."""

    learning_rate: float
    batch_size: int
    scheduler: str
    warmup_share: float
    weight_decay: float
    max_length: int
    save_every: int


@dataclass(frozen=True, slots=True)
class SftTrainer:
    """Full fine-tuning in this process."""

    settings: SftSettings

    def train(self, job: TrainJob, watch: Watch) -> TrainReport:
        """Train from the base, or from the last complete training checkpoint.

        Raises:
            TrainingError: the examples cannot be trained on, or the loss is not a number.
            StoreFull: the disk filled up; what was saved before stays.
        """
        from datasets import Dataset
        from trl import SFTTrainer

        model, tokenizer = load(job.base)
        encoded, too_long = encode(job.examples, tokenizer, self.settings.max_length)
        if too_long:
            limit = self.settings.max_length
            watch.note(f"{len(too_long)} of {len(job.examples)} examples left out: longer than max_length = {limit}")
        order = training_order(
            [len(one.input_ids) for one in encoded],
            batch_size=self.settings.batch_size,
            epochs=job.epochs,
            seed=job.seed,
        )
        columns = {
            "input_ids": [encoded[place].input_ids for place in order],
            "completion_mask": [encoded[place].completion_mask for place in order],
        }
        steps = -(-len(order) // self.settings.batch_size)
        with disk_errors(job.work):
            job.work.mkdir(parents=True, exist_ok=True)
        last = _last_complete(job.work)
        watch.start(job.number, "train", steps, _step(last))
        trainer = SFTTrainer(
            model=model,
            args=self._arguments(job, steps),
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
            callbacks=[_callback(watch)],
        )
        with disk_errors(job.work), _full_disk(job.work):
            trainer.train(resume_from_checkpoint=str(last) if last else None)
            watch.check()
            _save(trainer.model, tokenizer, job.out)
        watch.finish()
        return _report(trainer.state.log_history, steps, order, encoded, too_long)

    def _arguments(self, job: TrainJob, steps: int) -> Any:
        import torch
        from trl import SFTConfig

        settings = self.settings
        return SFTConfig(
            output_dir=str(job.work),
            num_train_epochs=1,
            max_steps=steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=settings.scheduler,
            warmup_steps=round(settings.warmup_share * steps),
            weight_decay=settings.weight_decay,
            max_length=settings.max_length,
            completion_only_loss=True,
            train_sampling_strategy="sequential",
            save_strategy="steps",
            save_steps=settings.save_every,
            save_total_limit=2,
            logging_steps=max(1, steps // 50),
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            bf16=torch.cuda.is_available(),
            activation_checkpointing=False,
            dataloader_pin_memory=False,
            seed=job.seed,
        )


def _callback(watch: Watch) -> TrainerCallback:
    """Tell the watcher every step, stop when asked, refuse a loss that is not a number."""
    import math

    from transformers import TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc]
        """TRL's own progress, handed on."""

        def on_step_end(self, _arguments: Any, _state: Any, control: Any, **_: Any) -> None:
            watch.advance()
            if watch.stopping:
                control.should_save = control.should_training_stop = True

        def on_log(
            self, _arguments: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any
        ) -> None:
            loss = (logs or {}).get("loss", 0.0)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the training loss is {loss} at step {state.global_step}",
                    remedy="Lower training.learning_rate, then start a new run.",
                )

        def on_save(self, arguments: Any, state: Any, _control: Any, **_: Any) -> None:
            (Path(arguments.output_dir) / f"checkpoint-{state.global_step}" / _COMPLETE).touch()

    return Steps()


@contextmanager
def _full_disk(work: Path) -> Iterator[None]:
    """See a full disk in what torch and safetensors raise in place of an OSError."""
    from safetensors import SafetensorError

    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if any(sign in str(error) for sign in _FULL_SIGNS):
            raise full(work) from error
        raise


def _step(checkpoint: Path | None) -> int:
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def _last_complete(work: Path) -> Path | None:
    """The newest training checkpoint that was saved to its end; broken ones are removed."""
    found = sorted(work.glob("checkpoint-*"), key=_step)
    for checkpoint in found:
        if not (checkpoint / _COMPLETE).exists():
            shutil.rmtree(checkpoint, ignore_errors=True)
    return next((one for one in reversed(found) if (one / _COMPLETE).exists()), None)


def _save(model: Any, tokenizer: Any, out: Path) -> None:
    """Write the checkpoint beside its place, then move it there whole."""
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    shutil.rmtree(out, ignore_errors=True)
    draft.replace(out)


def _report(
    history: list[dict[str, float]], steps: int, order: list[int], encoded: list[Encoded], too_long: list[str]
) -> TrainReport:
    return TrainReport(
        steps=steps,
        loss=[(int(entry["step"]), float(entry["loss"])) for entry in history if "loss" in entry],
        tokens=sum(len(encoded[place].input_ids) for place in order),
        answer_tokens=sum(sum(one.completion_mask) for one in encoded),
        too_long=too_long,
    )
