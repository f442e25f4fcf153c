"""Training: S_r = fine-tune S_{r-1} on the mixture, answer tokens only."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from tapir.data.files import write_json
from tapir.data.run.rows import AnswerRow, ContrastRow, MixtureRow
from tapir.domain.difficulty import Difficulty
from tapir.domain.judgement import Unscored
from tapir.domain.randomness import seed_for
from tapir.domain.roles import Resource, Trainer
from tapir.domain.round import Checkpoint
from tapir.domain.training import Example, Preference, TrainJob
from tapir.stages.base import StageContext


@dataclass(frozen=True, slots=True)
class Train:
    """The trainer works in the round's folder; the checkpoint appears there when it is complete."""

    trainer: Trainer
    epochs: float
    resources: Sequence[Resource] = ()  # release their memory while the student is trained
    rounds: int = 1

    def run(
        self,
        context: StageContext,
        base: Checkpoint,
        examples: Sequence[Example],
        preferences: Sequence[Preference] = (),
    ) -> Checkpoint:
        """Return the round's checkpoint: trained now, resumed, or found finished."""
        folder = context.store.round(context.number)
        out = Checkpoint(str(folder / "checkpoint"), context.number)
        if (folder / "checkpoint").exists() and (folder / "training.json").exists():
            shutil.rmtree(folder / "training", ignore_errors=True)
            return out
        context.progress.check()
        job = TrainJob(
            base=base,
            examples=examples,
            out=folder / "checkpoint",
            work=folder / "training",
            number=context.number,
            epochs=self.epochs,
            seed=seed_for(context.seed, "train", context.number),
            preferences=preferences,
            rounds=self.rounds,
        )
        for resource in self.resources:
            resource.rest()
        report = self.trainer.train(job, context.progress)
        content = asdict(report) | {
            "examples": len(examples),
            "preferences": len(preferences) - len(report.preferences_left_out),
            "epochs": self.epochs,
            "base": f"S_{base.round}",
        }
        write_json(folder / "training.json", content)
        shutil.rmtree(job.work, ignore_errors=True)
        return out


def contrast(
    context: StageContext,
    mixture: Sequence[MixtureRow],
    scored: Mapping[str, Difficulty | Unscored],
    answered: Mapping[str, AnswerRow],
    least: float | None,
) -> list[Preference]:
    """Return preferences of y (or y') over ỹ where the gap is at least `least`; none where that is None."""
    if least is None:
        return []
    rows = [
        _contrast(row, score.gap, answered[row.id])
        for row in mixture
        if isinstance(score := scored.get(row.id), Difficulty) and score.gap >= least and row.id in answered
    ]
    kept = context.store.once(context.path("contrasts"), ContrastRow, lambda: rows)
    return [
        Preference(row.id, row.instruction, row.chosen, row.rejected, row.context, row.thought, row.rejected_thought)
        for row in kept
    ]


def _contrast(row: MixtureRow, gap: float, answer: AnswerRow) -> ContrastRow:
    thoughts = (row.thought, answer.thought) if row.thought and answer.thought else ("", "")
    return ContrastRow(row.id, row.instruction, row.response, answer.text or "", gap, row.context, *thoughts)
