"""A trainer without a model: it counts, together with the other ranks, and does on the way what a test wants."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from tapir.domain.errors import TrainingError
from tapir.domain.progress import Progress
from tapir.domain.training import TrainJob, TrainReport


@dataclass(frozen=True, slots=True)
class CountingTrainer:
    """Counts to `steps`; the count so far is its training checkpoint.

    Attributes:
        pause: seconds for a step.
        fails_at: step at which one of the ranks raises.
        failing: "" for none, "training" for an error of ours, "surprise" for any other,
            while the other ranks wait and do not notice.
    """

    steps: int = 3
    pause: float = 0.0
    fails_at: int = 2
    failing: str = ""

    def train(self, job: TrainJob, progress: Progress) -> TrainReport:
        import torch
        from torch import distributed

        if not distributed.is_initialized():
            distributed.init_process_group("gloo")
        rank, world = distributed.get_rank(), distributed.get_world_size()
        count = job.work / "count"
        done = int(count.read_text()) if count.exists() else 0
        progress.start(job.number, "train", self.steps, done)
        progress.note(f"{len(job.examples)} examples, {len(job.preferences)} preferences, {world} processes")
        for step in range(done + 1, self.steps + 1):
            time.sleep(self.pause)
            if step == self.fails_at and rank == world - 1:
                self._fail(step)
            if step == self.fails_at and self.failing == "surprise":
                time.sleep(600)
            distributed.all_reduce(torch.ones(1))
            if rank == 0:
                count.write_text(str(step))
            progress.advance()
            progress.measure(loss=1 / step)
            if progress.stopping:
                break
        progress.check()
        if rank == 0:
            job.out.mkdir()
        distributed.barrier()
        progress.finish()
        return TrainReport(self.steps, [(step, 1 / step) for step in range(1, self.steps + 1)], 10, 5)

    def _fail(self, step: int) -> None:
        if self.failing == "training":
            raise TrainingError(f"the training loss is nan at step {step}", remedy="Lower training.learning_rate.")
        if self.failing == "surprise":
            raise RuntimeError("something nobody foresaw")


def steps_made(work: Path) -> int:
    """How far a training is."""
    count = work / "count"
    return int(count.read_text() or 0) if count.exists() else 0
