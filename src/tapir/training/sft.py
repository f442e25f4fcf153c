"""Supervised fine-tuning with TRL's SFTTrainer, resumable in the middle."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

from tapir.config.student import RayEngineConfig
from tapir.config.training import AccelerateLaunchConfig, RayLaunchConfig, SftConfig
from tapir.data.files import read_json, write_json
from tapir.domain.progress import Progress
from tapir.domain.roles import Trainer
from tapir.domain.round import Checkpoint
from tapir.domain.training import TrainJob, TrainReport
from tapir.models.context import BuildContext
from tapir.models.local.loading import MODEL_DEFAULTS, ModelSettings, load_tokenizer, most_tokens
from tapir.training.callbacks import require
from tapir.training.dataset import (
    BatchPlan,
    attention_kernel,
    check_isolation,
    encode,
    make_collator,
    plan_packed_batches,
)
from tapir.training.distributed import barrier, is_main_process
from tapir.training.dpo import train_on_preferences
from tapir.training.launch import AccelerateTrainer
from tapir.training.loop import TrainingTask, fit, split_step
from tapir.training.model import end_tokens
from tapir.training.ray import RayTrainer

_TUNED = "tuned"
_REPORT = "tuned.json"


@dataclass(frozen=True, slots=True)
class SftTrainer:
    """Fine-tuning in this process, or in this one of several; then on preferences, where `config.dpo` is set.

    With an adapter as base, that adapter is trained on as it is. The precision is `config.precision`, not that of
    `settings`, which is how the student is loaded to answer.
    """

    config: SftConfig
    settings: ModelSettings = MODEL_DEFAULTS

    def __post_init__(self) -> None:
        for name in self.config.report_to:
            require(f"training.report_to = {name!r}", name, *["tensorboardX"] * (name == "tensorboard"))
        if self.config.method == "qlora":
            require("training.method = 'qlora'", "bitsandbytes")

    @classmethod
    def build(cls, section: SftConfig, context: BuildContext) -> Trainer:
        """Return the trainer, with the launcher that the section names around it, once a step could be split."""
        trainer, launch = cls(section, ModelSettings.of(context.recipe.student)), section.launch
        split_step(section, getattr(launch, "processes", 0) or getattr(launch, "workers", 1))
        launched: AccelerateTrainer | RayTrainer
        if isinstance(launch, AccelerateLaunchConfig):
            launched = AccelerateTrainer(trainer, launch)
        elif isinstance(launch, RayLaunchConfig):
            engine = context.recipe.engine
            launched = RayTrainer(trainer, launch, engine.address if isinstance(engine, RayEngineConfig) else "")
        else:
            return trainer
        launched.check()
        return launched

    def train(self, job: TrainJob, progress: Progress) -> TrainReport:
        """Train from the base, or from the last complete training checkpoint; see `fit`."""
        if (readable := most_tokens(job.base.path, self.settings)) < self.config.max_length:
            config = self.config.model_copy(update={"max_length": int(readable)})
            return replace(self, config=config).train(job, progress)
        if self.config.dpo is None or not job.preferences:
            return self._fine_tune(job, progress)
        report = self._fine_tune_once(job, progress)
        base = Checkpoint(str(job.work / _TUNED), job.number)
        again = replace(job, base=base, work=job.work / "preferences")
        return train_on_preferences(again, report, self.config, self.config.dpo, self.settings, progress)

    def _fine_tune_once(self, job: TrainJob, progress: Progress) -> TrainReport:
        """Fine-tune in a folder below, or return the report of the session that did."""
        path = job.work / _REPORT
        barrier()  # every process sees the same state
        if path.exists():
            return TrainReport(**read_json(path))
        part = replace(job, preferences=(), out=job.work / _TUNED, work=job.work / "examples")
        report = self._fine_tune(part, progress)
        if is_main_process():
            write_json(path, asdict(report))
        barrier()
        return report

    def _fine_tune(self, job: TrainJob, progress: Progress) -> TrainReport:
        tokenizer, longest = load_tokenizer(job.base, self.settings), self.config.max_length
        ends = end_tokens(job.base, tokenizer, self.settings)
        encoded = encode(job.examples, tokenizer, max_length=longest, too_long=self.config.too_long, ends=ends)
        for ids, fate in ((encoded.too_long, "left out"), (encoded.cut, "cut")):
            if ids:
                progress.note(f"{len(ids)} of {len(job.examples)} examples {fate}: longer than {longest} tokens")
        for reason, count in Counter(encoded.unfit.values()).most_common():
            progress.note(f"{count} of {len(job.examples)} examples left out: {reason}")
        lengths = [len(example.input_ids) for example in encoded.examples]
        report = fit(SftTask(job, self.config, self.settings, tokenizer, progress, encoded.examples, lengths))
        answer_tokens = sum(len(example.input_ids) - example.answer_start for example in encoded.examples)
        return replace(
            report, answer_tokens=answer_tokens, too_long=encoded.too_long, cut=encoded.cut, unfit=encoded.unfit
        )


def score_answers_alone() -> None:
    """Have TRL project onto the vocabulary only those tokens that carry loss, on a CPU as it does on a GPU.

    Elsewhere TRL 1.16 scores every position, for compilers that want the same shapes in every step; a CPU has none.
    The loss is the same; where answers are a quarter of the tokens, SmolLM2-135M trains twice as fast.
    """
    from trl.trainer import utils

    utils._use_triton = lambda _device: True  # noqa: SLF001 (nothing else in that module asks for it)


class SftTask(TrainingTask):
    """Examples, packed in rows where the recipe wants it."""

    def plan(self, micro: int, processes: int) -> BatchPlan:
        """Plan all steps."""
        size, longest = self.config.batch_size, self.config.max_length
        if not self.config.packing:
            return super().plan(micro, processes)
        return plan_packed_batches(
            self.order, self.lengths, batch_size=size, max_length=longest, micro=micro, processes=processes
        )

    def arguments(self, shared: dict[str, Any]) -> Any:
        """Return arguments by which TRL neither masks nor cuts nor packs the collator's rows again."""
        from trl import SFTConfig

        return SFTConfig(
            **shared, max_length=None, completion_only_loss=True, dataset_kwargs={"skip_prepare_dataset": True}
        )

    def trainer(self, model: Any, arguments: Any, plan: BatchPlan, callbacks: list[Any]) -> Any:
        """Return TRL's own trainer; the data set holds nothing but the numbers of its items."""
        from datasets import Dataset
        from trl import SFTTrainer

        if self.device.kind == "cpu":
            score_answers_alone()
        packing, pad = self.config.packing, self.tokenizer.pad_token_id
        one_row = packing and "flash" in attention_kernel(model)  # how it keeps the examples of a pass apart
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict({"item": range(plan.items)}),
            processing_class=self.tokenizer,
            data_collator=make_collator(self.examples, plan, pad, packing=packing, one_row=one_row),
            callbacks=callbacks,
        )
        # TRL divides by the tokens of the whole step itself, also where the model cannot (Gemma 3 and 4)
        trainer.model_accepts_loss_kwargs = True
        if packing and is_main_process():  # the others may wait for the weights that it has loaded
            check_isolation(trainer.model, self.examples, pad)
        return trainer
