"""Train: S_r = fine-tune S_{r-1} on the mixture, answer tokens only."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tapir.domain.randomness import seed_for
from tapir.domain.round import Checkpoint
from tapir.roles import Example, Preference, Resource, Trainer, TrainJob
from tapir.store.files import write_json
from tapir.store.keep import Place


@dataclass(frozen=True, slots=True)
class Train:
    """The trainer works in the round's folder; the checkpoint appears there when it is complete.

    Attributes:
        resources: they rest meanwhile.
        rounds: N.
    """

    trainer: Trainer
    epochs: float
    resources: Sequence[Resource] = ()
    rounds: int = 1

    def run(
        self, place: Place, base: Checkpoint, examples: Sequence[Example], preferences: Sequence[Preference] = ()
    ) -> Checkpoint:
        """The round's checkpoint, trained now, finished now, or trained before; `resources` rest meanwhile."""
        folder = place.store.round(place.number)
        out = Checkpoint(str(folder / "checkpoint"), place.number)
        if (folder / "checkpoint").exists() and (folder / "training.json").exists():
            shutil.rmtree(folder / "training", ignore_errors=True)
            return out
        place.watch.check()
        job = TrainJob(
            base=base,
            examples=examples,
            out=folder / "checkpoint",
            work=folder / "training",
            number=place.number,
            epochs=self.epochs,
            seed=seed_for(place.seed, "train", place.number),
            preferences=preferences,
            rounds=self.rounds,
        )
        for one in self.resources:
            one.rest()
        report = self.trainer.train(job, place.watch)
        content = asdict(report) | {
            "examples": len(examples),
            "preferences": len(preferences),
            "epochs": self.epochs,
            "base": f"S_{base.round}",
        }
        write_json(folder / "training.json", content)
        shutil.rmtree(job.work, ignore_errors=True)
        return out
