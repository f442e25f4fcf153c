"""What a training program says of its own progress: lines of JSON among its output."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from tapir.errors import TrainingError
from tapir.roles import Watch


@dataclass(slots=True)
class Said:
    """Losses and tokens from lines such as {"step": 10, "loss": 1.5, "tokens": 4096}; all other lines are passed over.

    Attributes:
        losses: by step; of a step told twice, as a resumed program does, the later one.
        tokens: the last number told.
    """

    log: Path
    watch: Watch
    losses: dict[int, float] = field(default_factory=dict)
    tokens: int = 0
    _place: int = 0

    def listen(self) -> None:
        """Read what came since the last time, up to the last whole line."""
        if not self.log.exists():
            return
        with self.log.open("rb") as log:
            log.seek(self._place)
            for line in log:
                if not line.endswith(b"\n"):
                    return
                self._place += len(line)
                if line.lstrip().startswith(b"{"):
                    self._take(line)

    def curve(self) -> list[tuple[int, float]]:
        """Steps and losses in order.

        Raises:
            TrainingError: the last loss is not a number.
        """
        found = sorted(self.losses.items())
        if found and not math.isfinite(found[-1][1]):
            raise TrainingError(
                f"the training loss is {found[-1][1]} at step {found[-1][0]}",
                remedy="Lower the learning rate in training.command, then start a new run.",
            )
        return found

    def _take(self, line: bytes) -> None:
        try:
            told = json.loads(line)
        except ValueError:
            return
        step, loss, tokens = told.get("step"), told.get("loss"), told.get("tokens")
        if isinstance(tokens, int):
            self.tokens = tokens
        if isinstance(step, int) and isinstance(loss, int | float):
            self.losses[step] = float(loss)
            self.watch.measure(step=float(step), loss=float(loss))
