"""Supervised fine-tuning with TRL's SFTTrainer, resumable in the middle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tapir.roles import TrainJob, TrainReport, Watch
from tapir.students.load import load_tokenizer
from tapir.training.batches import Layout, collator, packed, plain, read_until
from tapir.training.examples import Encoded, Encodings, encode, training_order
from tapir.training.fit import fit
from tapir.training.model import end_tokens
from tapir.training.packing import check_isolation, one_row
from tapir.training.settings import LoraSettings, SftSettings
from tapir.training.verify import probes

__all__ = ["LoraSettings", "SftSettings", "SftTrainer"]


@dataclass(frozen=True, slots=True)
class SftTrainer:
    """Fine-tuning in this process, or in this one of several that a launcher started."""

    settings: SftSettings

    def __post_init__(self) -> None:
        """Refuse settings that cannot be had before anything else is done."""
        self.settings.check()

    def train(self, job: TrainJob, watch: Watch) -> TrainReport:
        """Train from the base, or from the last complete training checkpoint; see `fit`.

        Raises:
            TrainingError: the examples cannot be trained on, the loss is not a number, memory ran out, or what was
                saved is not what was trained.
            StoreFull: the disk filled up; what was saved before stays.
        """
        settings = self.settings
        tokenizer = load_tokenizer(job.base, settings.model)
        found = encode(
            job.examples,
            tokenizer,
            max_length=settings.max_length,
            too_long=settings.too_long,
            ends=end_tokens(job.base, tokenizer, settings.model),
        )
        _tell(found, job, settings, watch)
        lesson = _Lesson(found.examples, tokenizer, settings, job)
        fitted = fit(job, settings, lesson, tokenizer, watch)
        return TrainReport(
            steps=fitted.steps,
            loss=fitted.loss,
            tokens=lesson.read[-1],
            answer_tokens=sum(len(one.input_ids) - one.start for one in found.examples),
            too_long=found.too_long,
            cut=found.cut,
            parameters=fitted.parameters,
            trainable=fitted.trainable,
            seconds=fitted.seconds,
            tokens_per_second=fitted.tokens_per_second,
        )


def _tell(found: Encodings, job: TrainJob, settings: SftSettings, watch: Watch) -> None:
    every, limit = len(job.examples), settings.max_length
    if found.too_long:
        watch.note(f"{len(found.too_long)} of {every} examples left out: longer than max_length = {limit}")
    if found.cut:
        watch.note(f"{len(found.cut)} of {every} examples cut: longer than max_length = {limit}")


@dataclass(slots=True)
class _Lesson:
    """Examples in the order of training, as `fit` asks for them."""

    examples: list[Encoded]
    tokenizer: Any
    settings: SftSettings
    job: TrainJob
    probes: list[list[int]] = field(init=False)
    lengths: list[int] = field(init=False)
    order: list[int] = field(init=False)
    read: list[int] = field(init=False)

    def __post_init__(self) -> None:
        batch_size = self.settings.batch_size
        self.probes = probes(self.examples)
        self.lengths = [len(one.input_ids) for one in self.examples]
        self.order = training_order(
            self.lengths,
            batch_size=batch_size,
            epochs=self.job.epochs,
            seed=self.job.seed,
            by_length=not self.settings.packing,  # rows are full whatever the lengths
        )
        self.read = read_until(self.order, self.lengths, batch_size)

    def layout(self, micro: int, processes: int) -> Layout:
        """All steps."""
        if not self.settings.packing:
            return plain(self.order, self.settings.batch_size, micro, processes)
        return packed(
            self.order,
            self.lengths,
            batch_size=self.settings.batch_size,
            max_length=self.settings.max_length,
            micro=micro,
            processes=processes,
        )

    def config(self, shared: dict[str, Any]) -> Any:
        """Rows come ready from `batches.collator`: TRL neither masks nor cuts nor packs them again."""
        from trl import SFTConfig

        return SFTConfig(
            **shared, max_length=None, completion_only_loss=True, dataset_kwargs={"skip_prepare_dataset": True}
        )

    def trainer(self, model: Any, config: Any, layout: Layout, callbacks: list[Any]) -> Any:
        """TRL's own trainer; the data set holds nothing but the numbers of its items."""
        from datasets import Dataset
        from trl import SFTTrainer

        packing = self.settings.packing
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_dict({"item": range(layout.items)}),
            processing_class=self.tokenizer,
            data_collator=collator(
                self.examples, layout, self.tokenizer.pad_token_id, packing=packing, one_row=packing and one_row(model)
            ),
            callbacks=callbacks,
        )
        if packing:
            check_isolation(trainer.model, self.examples, self.tokenizer.pad_token_id, config.device)
        return trainer
