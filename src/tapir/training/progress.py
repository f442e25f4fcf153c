"""What a training tells while it runs: every step, its speed, and how long it will take."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tapir.errors import TrainingError
from tapir.roles import Watch
from tapir.training.ranks import first, wait

if TYPE_CHECKING:
    from transformers import TrainerCallback

COMPLETE = "complete"
"""The file that tells a training checkpoint that was saved to its end."""


@runtime_checkable
class Measuring(Protocol):
    """A watch that wants figures, too."""

    def measure(self, **figures: float) -> None:
        """How the stage is doing: step, loss, tokens_per_second, seconds_left, learning_rate."""


class Pulse:
    """Counts the steps of one training and the time they take; the time of saving does not count."""

    def __init__(self, watch: Watch, read: Sequence[int]) -> None:
        """Tell `watch`; `read` are the tokens read before each step, and in all as the last."""
        self._watch = watch
        self._read = read
        self._began = self._since = self._now = 0.0
        self._saving = 0.0
        self._first = self._told = self._step = 0

    def begin(self, step: int) -> None:
        """Training begins, or goes on after so many steps."""
        self._first = self._told = self._step = step
        self._began = self._since = self._now = time.monotonic()

    def stepped(self, step: int) -> None:
        """One more step is done."""
        self._step, self._now = step, time.monotonic()
        self._watch.advance()

    def saved(self) -> None:
        """What was spent since the last step went into saving."""
        took = time.monotonic() - self._now
        self._saving += took
        self._since += took

    @property
    def stopping(self) -> bool:
        """Whether the user asked to stop; where several processes train, all of their watches say the same."""
        return self._watch.stopping

    @property
    def seconds(self) -> float:
        """Of training so far, in this session."""
        return max(0.0, self._now - self._began - self._saving)

    @property
    def tokens_per_second(self) -> float:
        """Read so far, in this session."""
        return (self._read[self._step] - self._read[self._first]) / self.seconds if self.seconds else 0.0

    def tell(self, loss: float, learning_rate: float) -> None:
        """Figures since they were last told, and how long the rest will take at the speed so far."""
        elapsed = self._now - self._since
        tokens = self._read[self._step] - self._read[self._told]
        left = self._read[-1] - self._read[self._step]
        if isinstance(self._watch, Measuring):
            self._watch.measure(
                step=self._step,
                loss=loss,
                tokens_per_second=tokens / elapsed if elapsed > 0 else 0.0,
                seconds_left=left / self.tokens_per_second if self.tokens_per_second else 0.0,
                learning_rate=learning_rate,
            )
        self._told, self._since = self._step, self._now


def callback(pulse: Pulse) -> TrainerCallback:
    """Hand on every step, stop when asked, refuse a loss that is not a number, mark what is saved whole."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc]
        """TRL's own progress, handed on."""

        def on_train_begin(self, _arguments: Any, state: Any, _control: Any, **_: Any) -> None:
            pulse.begin(state.global_step)

        def on_step_end(self, _arguments: Any, state: Any, control: Any, **_: Any) -> None:
            pulse.stepped(state.global_step)
            if pulse.stopping:
                control.should_save = control.should_training_stop = True
            if control.should_save:  # a checkpoint ends a point of the curve: none is lost, and no broken one saved
                control.should_log = True

        def on_log(
            self, _arguments: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any
        ) -> None:
            if logs is None or "loss" not in logs:
                return
            if not math.isfinite(logs["loss"]):
                raise TrainingError(
                    f"the training loss is {logs['loss']} at step {state.global_step}",
                    remedy="Lower training.learning_rate, then start a new run.",
                )
            pulse.tell(logs["loss"], logs.get("learning_rate", 0.0))

        def on_save(self, arguments: Any, state: Any, _control: Any, **_: Any) -> None:
            wait()
            if first():
                (Path(arguments.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
            pulse.saved()

    return Steps()


def curve(history: Sequence[dict[str, float]], every: int, steps: int) -> list[tuple[int, float]]:
    """The loss at every so many steps and at the last, the same however often training was interrupted.

    Args:
        history: what the trainer logged; each loss is the mean since the one before.
        every: steps between two points.
        steps: the last step.
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
