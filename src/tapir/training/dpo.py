"""Direct preference optimisation after supervised fine-tuning, with TRL's DPOTrainer.

Beyond the paper: judging yields pairs anyway, the teacher's answer over the student's own. Method: Rafailov et al.
2023, "Direct Preference Optimization". The reference is the student as fine-tuning left it; its log-probabilities of
every pair are computed before the first step, so that no second model stays in memory.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tapir.config.training import DpoConfig, SftConfig
from tapir.domain.errors import TrainingError
from tapir.domain.progress import Progress
from tapir.domain.training import Example, Preference, TrainJob, TrainReport
from tapir.models.local.loading import ModelSettings, load_tokenizer
from tapir.training.dataset import BatchPlan, Encoded, Misfit, tokenize
from tapir.training.distributed import barrier, is_main_process
from tapir.training.loop import TrainingTask, fit

_PAIRS = "pairs"


def train_on_preferences(
    job: TrainJob, report: TrainReport, sft: SftConfig, dpo: DpoConfig, settings: ModelSettings, progress: Progress
) -> TrainReport:
    """Train the fine-tuned `job.base` on the job's preferences; return the report of both trainings together."""
    config = sft.model_copy(update={"learning_rate": dpo.learning_rate, "packing": False})
    tokenizer = load_tokenizer(job.base, settings)
    pairs, left_out = _tokenize_pairs(job.preferences, tokenizer, config.max_length, progress)
    lengths = [len(pair.chosen.input_ids) + len(pair.rejected.input_ids) for pair in pairs]
    chosen, job = [pair.chosen for pair in pairs], replace(job, epochs=dpo.epochs)
    second = fit(DpoTask(job, config, settings, tokenizer, progress, chosen, lengths, pairs, dpo.beta))
    return replace(
        report,
        steps=report.steps + second.steps,
        tokens=report.tokens + second.tokens,
        seconds=report.seconds + second.seconds,
        preference_loss=second.loss,
        preferences_left_out=left_out,
    )


class _Pair(NamedTuple):
    """Two answers to one prompt, each with the prompt before it."""

    chosen: Encoded
    rejected: Encoded


def _tokenize_pairs(
    preferences: Sequence[Preference], tokenizer: Any, max_length: int, progress: Progress
) -> tuple[list[_Pair], dict[str, str]]:
    """Return the pairs as tokens, and why others are left out, by id."""
    better = [Example(pair.id, pair.prompt, pair.chosen, pair.context, pair.thought) for pair in preferences]
    worse = [Example(pair.id, pair.prompt, pair.rejected, pair.context, pair.rejected_thought) for pair in preferences]
    pairs, left_out = list[_Pair](), dict[str, str]()
    for pair, *both in zip(preferences, tokenize(better, tokenizer), tokenize(worse, tokenizer), strict=True):
        sides = [side for side in both if isinstance(side, Encoded)]
        if pair.rejected.strip() in ("", pair.chosen.strip()):
            left_out[pair.id] = "both answers are the same" if pair.rejected.strip() else "an answer is empty"
        elif misfit := next((side for side in both if isinstance(side, Misfit)), None):
            left_out[pair.id] = misfit.reason
        elif max(len(side.input_ids) for side in sides) > max_length:
            left_out[pair.id] = f"an answer is longer than {max_length} tokens"
        else:
            pairs.append(_Pair(*sides))
    for reason, count in Counter(left_out.values()).most_common():
        progress.note(f"{count} of {len(preferences)} preference pairs left out: {reason}")
    if not pairs:
        raise TrainingError(
            f"none of the {len(preferences)} preference pairs can be trained on",
            remedy="Raise training.max_length, or remove [training.dpo].",
        )
    return pairs, left_out


@dataclass
class DpoTask(TrainingTask):
    """Pairs; where several processes share the last step, it is filled up with the first ones."""

    pairs: Sequence[_Pair]
    beta: float

    def arguments(self, shared: dict[str, Any]) -> Any:
        """Return arguments by which TRL neither renders nor cuts the rows again."""
        from trl import DPOConfig

        return DPOConfig(**shared, beta=self.beta, max_length=None, precompute_ref_log_probs=True)

    def trainer(self, model: Any, arguments: Any, plan: BatchPlan, callbacks: list[Any]) -> Any:
        """Return TRL's own trainer, over rows that are tokens already."""
        from peft import PeftModel
        from trl import DPOTrainer

        class TokenizedDpoTrainer(DPOTrainer):  # type: ignore[misc]
            """Leaves the rows as they are."""

            def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
                return dataset

        trainer = TokenizedDpoTrainer(
            model=model,
            args=arguments,
            train_dataset=self._rows(plan),
            processing_class=self.tokenizer,
            callbacks=callbacks,
        )
        if isinstance(trainer.model, PeftModel):
            trainer.model.delete_adapter("ref")  # its log-probabilities are known, and it must not be saved
        return trainer

    def _rows(self, plan: BatchPlan) -> Any:
        """Return the rows of all steps, from a folder where every process finds what TRL adds to them."""
        from datasets import Dataset, load_from_disk

        folder = self.job.work / _PAIRS
        if is_main_process():
            shutil.rmtree(folder, ignore_errors=True)  # an earlier attempt may have left half of it
            rows = [
                {
                    "prompt_ids": chosen.input_ids[: chosen.answer_start].tolist(),
                    "chosen_ids": chosen.input_ids[chosen.answer_start :].tolist(),
                    "rejected_ids": rejected.input_ids[rejected.answer_start :].tolist(),
                }
                for place in (*self.order, *self.order[: plan.items - len(self.order)])
                for chosen, rejected in [self.pairs[place]]
            ]
            Dataset.from_list(rows).save_to_disk(folder)
        barrier()
        return load_from_disk(folder)
