"""Direct preference optimisation after supervised fine-tuning, with TRL's DPOTrainer.

Beyond the paper: judging yields pairs anyway, the teacher's answer over the student's own. Method: Rafailov et al.
2023, "Direct Preference Optimization". The reference is the student as fine-tuning left it; what it says of every
pair is computed before the first step, so that no second model stays in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tapir.domain.round import Checkpoint
from tapir.errors import TrainingError
from tapir.roles import Example, Preference, TrainJob, TrainReport, Watch
from tapir.store.files import read_json, write_json
from tapir.students.load import load_tokenizer
from tapir.training.batches import Layout, plain, read_until
from tapir.training.examples import Encoded, tokens_of, training_order
from tapir.training.fit import fit
from tapir.training.ranks import first, wait
from tapir.training.sft import SftTrainer
from tapir.training.verify import probes

_TUNED = "tuned"
_REPORT = "tuned.json"


@dataclass(frozen=True, slots=True)
class DpoSettings:
    """Hyper-parameters of the second part; what is not here is as in the first.

    Attributes:
        beta: weight of the divergence from the student before it.
        learning_rate: at its peak.
        epochs: passes over the pairs.
    """

    beta: float
    learning_rate: float
    epochs: float


@dataclass(frozen=True, slots=True)
class SftThenDpo:
    """Fine-tunes on the examples, then on the preferences; a job without preferences is fine-tuning alone."""

    sft: SftTrainer
    dpo: DpoSettings

    def train(self, job: TrainJob, watch: Watch) -> TrainReport:
        """Train, or finish either part where it was cut short.

        Raises:
            TrainingError: as of fine-tuning; or no pair can be trained on.
            StoreFull: the disk filled up; what was saved before stays.
        """
        if not job.preferences:
            return self.sft.train(job, watch)
        report = self._tuned(job, watch)
        settings = replace(self.sft.settings, learning_rate=self.dpo.learning_rate, packing=False)
        again = replace(job, base=Checkpoint(str(job.work / _TUNED), job.number), work=job.work / "preferences")
        tokenizer = load_tokenizer(again.base, settings.model)
        pairs = _pairs(job.preferences, tokenizer, settings.max_length, watch)
        lesson = _Lesson(pairs, tokenizer, self.dpo, settings.batch_size, job.seed)
        fitted = fit(again, settings, lesson, tokenizer, watch)
        seconds = report.seconds + fitted.seconds
        tokens = report.tokens + lesson.read[-1]
        return replace(
            report,
            steps=report.steps + fitted.steps,
            tokens=tokens,
            seconds=seconds,
            preference_loss=fitted.loss,
        )

    def _tuned(self, job: TrainJob, watch: Watch) -> TrainReport:
        """The first part, done now or before."""
        kept = job.work / _REPORT
        wait()  # every process sees the same state
        if kept.exists():
            return TrainReport(**read_json(kept))
        part = replace(job, preferences=(), out=job.work / _TUNED, work=job.work / "examples")
        report = self.sft.train(part, watch)
        if first():
            write_json(kept, asdict(report))
        wait()
        return report


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two answers to one prompt, each with the prompt before it."""

    chosen: Encoded
    rejected: Encoded

    @property
    def tokens(self) -> int:
        """Read in one pass."""
        return len(self.chosen.input_ids) + len(self.rejected.input_ids)


def _pairs(preferences: Sequence[Preference], tokenizer: Any, max_length: int, watch: Watch) -> list[_Pair]:
    """The pairs as tokens, without those whose answers are equal or one of which is too long.

    Raises:
        TrainingError: none is left.
    """
    usable = [one for one in preferences if one.rejected.strip() and one.rejected.strip() != one.chosen.strip()]
    chosen = tokens_of([Example(one.id, one.prompt, one.chosen) for one in usable], tokenizer)
    rejected = tokens_of([Example(one.id, one.prompt, one.rejected) for one in usable], tokenizer)
    pairs = [_Pair(better, worse) for better, worse in zip(chosen, rejected, strict=True)]
    fitting = [one for one in pairs if max(len(one.chosen.input_ids), len(one.rejected.input_ids)) <= max_length]
    if len(fitting) < len(preferences):
        watch.note(
            f"{len(preferences) - len(fitting)} of {len(preferences)} preference pairs left out: an answer is empty,"
            f" both are the same, or one is longer than max_length = {max_length}"
        )
    if not fitting:
        raise TrainingError(
            f"none of the {len(preferences)} preference pairs can be trained on",
            remedy="Raise training.max_length, or remove [training.dpo].",
        )
    return fitting


class _Lesson:
    """Pairs in the order of training, as `fit` asks for them."""

    def __init__(
        self, pairs: Sequence[_Pair], tokenizer: Any, settings: DpoSettings, batch_size: int, seed: int
    ) -> None:
        self._pairs = pairs
        self._tokenizer = tokenizer
        self._settings = settings
        self._batch_size = batch_size
        lengths = [one.tokens for one in pairs]
        self._order = training_order(lengths, batch_size=batch_size, epochs=settings.epochs, seed=seed)
        self.read = read_until(self._order, lengths, batch_size)
        self.probes = probes([one.chosen for one in pairs])

    def layout(self, micro: int, processes: int) -> Layout:
        """All steps; where several processes share the last one, it is filled up with the first pairs."""
        return plain(self._order, self._batch_size, micro, processes)

    def config(self, shared: dict[str, Any]) -> Any:
        """Rows come ready: TRL neither renders nor cuts them again."""
        from trl import DPOConfig

        return DPOConfig(**shared, beta=self._settings.beta, max_length=None, precompute_ref_log_probs=True)

    def trainer(self, model: Any, config: Any, layout: Layout, callbacks: list[Any]) -> Any:
        """TRL's own trainer, over rows that are tokens already."""
        from datasets import Dataset
        from peft import PeftModel
        from trl import DPOTrainer

        class Ready(DPOTrainer):  # type: ignore[misc]
            """Leaves the rows as they are."""

            def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
                return dataset

        order = [*self._order, *self._order[: layout.items - len(self._order)]]
        rows = [_row(self._pairs[place]) for place in order]
        trainer = Ready(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=self._tokenizer,
            callbacks=callbacks,
        )
        if isinstance(trainer.model, PeftModel):
            trainer.model.delete_adapter("ref")  # what it says is known, and it must not be saved
        return trainer


def _row(pair: _Pair) -> dict[str, list[int]]:
    start = pair.chosen.start
    return {
        "prompt_ids": pair.chosen.input_ids[:start].tolist(),
        "chosen_ids": pair.chosen.input_ids[start:].tolist(),
        "rejected_ids": pair.rejected.input_ids[pair.rejected.start :].tolist(),
    }
