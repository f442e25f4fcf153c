"""Training callbacks: progress, speed, loss curve, stopping, experiment trackers."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapir.domain.errors import MissingExtra
from tapir.domain.progress import Progress
from tapir.domain.training import check_loss
from tapir.training.checkpoints import mark_complete
from tapir.training.distributed import barrier, is_main_process

if TYPE_CHECKING:
    from transformers import TrainerCallback


class StepTimer:
    """Counts the steps of one training and their time, without saving; `read`: tokens before each step, and in all."""

    def __init__(self, progress: Progress, read: Sequence[int]) -> None:
        self.progress = progress
        self._read = read
        self.began = self._since = self._now = 0.0
        self._saving = 0.0
        self._first = self._logged = self._step = 0

    def begin(self, step: int) -> None:
        """Start the clock, after so many steps of earlier sessions."""
        self._first = self._logged = self._step = step
        self.began = self._since = self._now = time.monotonic()

    def end_step(self, step: int) -> None:
        """Count one more step."""
        self._step, self._now = step, time.monotonic()
        self.progress.advance()

    def end_saving(self) -> None:
        """Leave out the time since the last step, which went into saving."""
        elapsed = time.monotonic() - self._now
        self._saving += elapsed
        self._since += elapsed

    @property
    def seconds(self) -> float:
        """Of training so far, in this session."""
        return max(0.0, self._now - self.began - self._saving)

    @property
    def tokens_per_second(self) -> float:
        """Read so far, in this session."""
        return (self._read[self._step] - self._read[self._first]) / self.seconds if self.seconds else 0.0

    def log(self, loss: float, learning_rate: float) -> None:
        """Report the metrics since the last report, and how long the rest will take at the speed so far."""
        elapsed = self._now - self._since
        tokens = self._read[self._step] - self._read[self._logged]
        left = self._read[-1] - self._read[self._step]
        self.progress.measure(
            step=self._step,
            loss=loss,
            tokens_per_second=tokens / elapsed if elapsed > 0 else 0.0,
            seconds_left=left / self.tokens_per_second if self.tokens_per_second else 0.0,
            learning_rate=learning_rate,
        )
        self._logged, self._since = self._step, self._now


def progress_callback(timer: StepTimer) -> TrainerCallback:
    """Return a callback that reports steps, stops when asked, refuses a loss of NaN and marks complete checkpoints."""
    from transformers import TrainerCallback

    class ProgressCallback(TrainerCallback):  # type: ignore[misc]
        """Events of transformers' Trainer, passed on."""

        def on_step_begin(self, _arguments: Any, state: Any, _control: Any, **_: Any) -> None:
            if not timer.began:  # all of a training checkpoint is loaded now
                timer.begin(state.global_step)

        def on_step_end(self, _arguments: Any, state: Any, control: Any, **_: Any) -> None:
            timer.end_step(state.global_step)
            if timer.progress.stopping:  # where several processes train, all of them get the same answer
                control.should_save = control.should_training_stop = True
            if control.should_save:  # a checkpoint ends a point of the curve: none is lost, and no broken one saved
                control.should_log = True

        def on_log(
            self, _arguments: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any
        ) -> None:
            if logs is None or "loss" not in logs:
                return
            check_loss(logs["loss"], state.global_step, "training.learning_rate")
            timer.log(logs["loss"], logs.get("learning_rate", 0.0))

        def on_save(self, arguments: Any, state: Any, _control: Any, **_: Any) -> None:
            barrier()
            if is_main_process():
                mark_complete(Path(arguments.output_dir), state.global_step)
            timer.end_saving()

    return ProgressCallback()


def loss_curve(history: Sequence[dict[str, float]], every: int, steps: int) -> list[tuple[int, float]]:
    """Return the loss every so many steps and at the last, the same however often training was interrupted.

    Each loss of `history`, which the trainer logged, is the mean since the one before.
    """
    points: list[tuple[int, float]] = []
    total, before, last = 0.0, 0, 0
    for entry in history:
        if "loss" not in entry:
            continue
        step = int(entry["step"])
        total += float(entry["loss"]) * (step - last)
        last = step
        if step % every == 0 or step == steps:
            points.append((step, total / (step - before)))
            total, before = 0.0, step
    return points


def require(key: str, *packages: str) -> None:
    """Raise `MissingExtra` unless one of the packages that a key of the recipe needs is installed."""
    if not any(map(importlib.util.find_spec, packages)):
        raise MissingExtra(f"{key} needs {packages[0]}", remedy=f"pip install {packages[0]}")


def tensorboard_callbacks(names: Sequence[str], folder: Path) -> list[Any]:
    """Return TensorBoard's callback if it is among the trackers; its files outlast the training's working files."""
    if "tensorboard" not in names:
        return []
    from transformers.integrations import TensorBoardCallback

    callback = TensorBoardCallback()
    callback.logging_dir = callback.logging_dir or str(folder)
    return [callback]
