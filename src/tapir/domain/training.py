"""Training examples, jobs and reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tapir.domain.errors import TrainingError
from tapir.domain.instruction import Turn
from tapir.domain.round import Checkpoint


@dataclass(frozen=True, slots=True)
class Example:
    """One supervised example: the student is trained on the tokens of `answer` only.

    Attributes:
        prompt: the user's last turn.
        context: what stands before it.
        thought: to be learnt before the answer, where the student is taught to think.
    """

    id: str
    prompt: str
    answer: str
    context: tuple[Turn, ...] = ()
    thought: str = ""


@dataclass(frozen=True, slots=True)
class Preference:
    """One pair for preference optimisation: of two answers to the same prompt, `chosen` is the better one.

    Both follow a thought, or neither: else the pair would tell thinking from not thinking.
    """

    id: str
    prompt: str
    chosen: str
    rejected: str
    context: tuple[Turn, ...] = ()
    thought: str = ""
    rejected_thought: str = ""


@dataclass(frozen=True, slots=True)
class TrainJob:
    """Fine-tune `base` on `examples`, leaving the new checkpoint in `out`.

    Attributes:
        work: folder for what is needed to resume the training itself.
        number: round.
        preferences: pairs for preference optimisation after fine-tuning; empty for none.
        rounds: N; with `number` it gives the part of the whole training that this is.
    """

    base: Checkpoint
    examples: Sequence[Example]
    out: Path
    work: Path
    number: int
    epochs: float
    seed: int
    preferences: Sequence[Preference] = ()
    rounds: int = 1

    @property
    def part(self) -> tuple[float, float]:
        """Return where in the training of all rounds this one begins and ends, 0 to 1; a warm-up is (0, 1)."""
        if not self.number:
            return 0.0, 1.0
        return (self.number - 1) / self.rounds, self.number / self.rounds


@dataclass(frozen=True, slots=True)
class TrainReport:
    """Results of one training.

    Attributes:
        loss: (step, mean loss per answer token) at each log point.
        tokens: tokens read, prompt and answer, over all epochs.
        answer_tokens: tokens that carried loss in one epoch.
        too_long: ids of the examples left out because they are longer than the recipe allows.
        unfit: ids of the examples left out because the chat template cannot hold them, each with the reason.
        cut: ids of the examples that were trained on without their end, where the recipe wants that.
        preferences_left_out: ids of the preference pairs that were not trained on, each with the reason.
        parameters: of the whole student; 0 where the trainer does not know.
        seconds: of training in the session that finished it, loading and saving apart.
    """

    steps: int
    loss: Sequence[tuple[int, float]]
    tokens: int
    answer_tokens: int
    too_long: Sequence[str] = ()
    cut: Sequence[str] = ()
    unfit: Mapping[str, str] = field(default_factory=dict)
    preferences_left_out: Mapping[str, str] = field(default_factory=dict)
    parameters: int = 0
    trainable: int = 0
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    preference_loss: Sequence[tuple[int, float]] = ()


def check_loss(loss: float, step: int, rate: str, what: str = "training") -> None:
    """Raise `TrainingError` unless the loss of a step is a number; `rate` is the learning rate to lower."""
    if not math.isfinite(loss):
        raise TrainingError(f"the {what} loss is {loss} at step {step}", remedy=f"Lower {rate}, then start a new run.")


@dataclass(frozen=True, slots=True)
class TaggerReport:
    """Quality of the tagger on labelled instructions it was not fitted on.

    Attributes:
        by_task: share of a task's instructions that were labelled right (recall).
        calibration_error: expected calibration error of its confidences, 0 to 1; None where it was not measured.
        abstained: instructions it was too unsure of to label; they count as wrong.
    """

    trained_on: int
    n: int
    accuracy: float
    by_task: Mapping[str, float]
    f1: Mapping[str, float] = field(default_factory=dict)
    calibration_error: float | None = None
    abstained: int = 0
