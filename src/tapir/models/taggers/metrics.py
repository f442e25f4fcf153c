"""Metrics of a tagger on held-out labels, temperature scaling, and the split of the labels."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, Generic, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from tapir.config.annotators import AnyTrainedTagger
from tapir.data.corpus import conversation
from tapir.domain.completion import Failure
from tapir.domain.errors import RoleError
from tapir.domain.instruction import Instruction
from tapir.domain.randomness import seed_for, shuffled
from tapir.domain.roles import Labeller
from tapir.domain.task import TaskTag, Taxonomy
from tapir.domain.training import TaggerReport
from tapir.models.context import BuildContext
from tapir.models.taggers.llm import labeller

BINS = 15
"""Bins of equal width for the calibration error (Guo et al. 2017, "On Calibration of Modern Neural Networks")."""

Labelled: TypeAlias = Sequence[tuple[Instruction, str]]
"""Instructions with their labels."""

SectionT = TypeVar("SectionT", bound=AnyTrainedTagger)

_AT_LEAST = 10  # labels to learn from
_NONE = ""
_COLDEST, _HOTTEST = 0.05, 20.0


def report(
    truth: Sequence[str], guesses: Sequence[TaskTag], *, trained_on: int, abstain_below: float = 0.0
) -> TaggerReport:
    """Measure n labelled instructions, none of which was learnt from.

    A guess that is less probable than `abstain_below` counts as wrong. The calibration error is that of all guesses.
    A task that is guessed but never true has an F1 of 0; one that is neither has none.
    """
    from sklearn.metrics import precision_recall_fscore_support

    labels = [_NONE if guess.confidence < abstain_below else guess.task for guess in guesses]
    tasks = sorted({*truth, *labels} - {_NONE})
    _, recall, f1, support = precision_recall_fscore_support(truth, labels, labels=tasks, zero_division=0.0)
    right = [label == guess.task for label, guess in zip(truth, guesses, strict=True)]
    return TaggerReport(
        trained_on=trained_on,
        n=len(truth),
        accuracy=sum(label == task for label, task in zip(truth, labels, strict=True)) / len(truth),
        by_task={task: float(share) for task, share, n in zip(tasks, recall, support, strict=True) if n},
        f1={task: float(share) for task, share in zip(tasks, f1, strict=True)},
        calibration_error=calibration_error([guess.confidence for guess in guesses], right),
        abstained=labels.count(_NONE),
    )


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> float:
    """Return the expected calibration error: the mean gap between confidence and the share that is right.

    Bin m of M holds probabilities above (m - 1) / M and up to m / M.
    """
    values = np.asarray(confidences, dtype=np.float64)
    bin_of = np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=values - np.asarray(right, dtype=np.float64), minlength=bins)
    return float(np.abs(gaps).sum() / len(values))


def temperature(logits: NDArray[np.float64], truth: Sequence[int]) -> float:
    """Return what logits are divided by to be calibrated: the most likely value (Guo et al. 2017, section 4.2).

    `truth` has the number of the right label of each row. Above 1 the classifier was too sure of itself.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return mean_loss(logits / math.exp(log_temperature), truth)

    result = minimize_scalar(loss, bounds=(math.log(_COLDEST), math.log(_HOTTEST)), method="bounded")
    return math.exp(float(result.x))


def mean_loss(logits: NDArray[np.float64], truth: Sequence[int]) -> float:
    """Return the mean negative log-probability, in nats, of the right labels."""
    from scipy.special import log_softmax

    return float(-log_softmax(logits, axis=1)[np.arange(len(truth)), np.asarray(truth)].mean())


def most_probable(logits: NDArray[np.float64], labels: Sequence[str]) -> list[TaskTag]:
    """Return the most probable label of each row with its probability, which is NaN where a logit is."""
    from scipy.special import log_softmax

    with np.errstate(invalid="ignore"):
        scores = log_softmax(logits, axis=1)
        best = scores.argmax(axis=1)
        confidences = np.minimum(np.exp(scores[np.arange(len(best)), best]), 1.0)
    return [TaskTag(labels[place], float(share)) for place, share in zip(best, confidences, strict=True)]


class LabelSplit(NamedTuple):
    """Labels to train on and labels to measure on; no instruction or conversation is in both."""

    train: Labelled
    test: Labelled


def conversations(labelled: Labelled) -> list[str]:
    """Return the conversation that each label is of; an instruction by itself is one."""
    return [conversation(one.origin.source) or one.id for one, _ in labelled]


def apart(labelled: Labelled, place: int) -> LabelSplit:
    """Return the first `place` labels to measure on, and those of other conversations to train on."""
    talks = conversations(labelled)
    met = set(talks[:place])
    return LabelSplit([pair for pair, talk in zip(labelled, talks, strict=True) if talk not in met], labelled[:place])


class TrainedTagger(Generic[SectionT]):
    """What the taggers that are trained in the run share: the sample, its labels and their split, tagging in chunks."""

    _classifier: Any = None  # once there is one

    def __init__(self, section: SectionT, taxonomy: Taxonomy, label: Labeller, seed: int, chunk: int) -> None:
        self.taxonomy = taxonomy
        self._label = label
        self._section = section
        self._seed = seed_for(seed, "tagger")
        self._chunk = chunk  # instructions that are read together

    @classmethod
    def build(cls, section: SectionT, context: BuildContext) -> Self:
        """Build the tagger of a run."""
        recipe = context.recipe
        return cls(section, context.taxonomy, labeller(section, context), recipe.seed, recipe.chunk)

    def label(self, instructions: Iterable[Instruction]) -> Iterable[tuple[str, TaskTag | Failure]]:
        """Yield the label to learn from of each instruction, or the failure to get one."""
        return self._label(instructions)

    def sample(self, instructions: Sequence[Instruction], seed: int) -> list[Instruction]:
        """Draw a random sample to be labelled, in the order that decides what is learnt and what is measured on."""
        return shuffled(instructions, attrgetter("id"), seed_for(seed, "tagger"))[: self._section.labelled]

    def tag(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        """Yield a label or a failure for each instruction, in their order, a chunk of them at a time."""
        if self._classifier is None:
            raise RoleError("the tagger was used before it was fitted", remedy="Call fit() first.")
        source = iter(instructions)
        while chunk := list(islice(source, self._chunk)):
            guesses = self._guess(self._classifier, [instruction.transcript for instruction in chunk])
            yield from ((one.id, self._check(guess)) for one, guess in zip(chunk, guesses, strict=True))

    def _check(self, guess: TaskTag) -> TaskTag | Failure:
        """Return the guess, or a failure where its probability is no number or less than `abstain_below`."""
        least = getattr(self._section, "abstain_below", 0.0)
        if not np.isfinite(guess.confidence):
            return Failure("no label", "the classifier's probabilities are not numbers")
        if guess.confidence < least:
            what = f"best guess {guess.task} with probability {guess.confidence:.3f}"
            return Failure("abstained", f"{what}, less than abstain_below = {least:g}")
        return guess

    def lacks(self, instructions: int) -> bool:
        """Return whether so many are too few to be labelled, learnt from and measured on."""
        labels = min(instructions, self._section.labelled)
        tested = round(labels * self._section.held_out)
        return self._section.labelled > 0 and (not tested or labels - tested < _AT_LEAST)

    @abstractmethod
    def _guess(self, classifier: Any, texts: Sequence[str]) -> list[TaskTag]:
        """Return the most probable label of each text, with its probability."""

    def _split(self, labelled: Labelled) -> LabelSplit:
        """Split labels in the order of `sample`: the first share `held_out` is measured on."""
        usable = [(instruction, task) for instruction, task in labelled if task in self.taxonomy.labels]
        train, test = apart(usable, round(len(usable) * self._section.held_out))
        if len(train) < _AT_LEAST or not test or len({task for _, task in train}) < 2:  # noqa: PLR2004
            tasks = len({task for _, task in usable})
            raise RoleError(
                f"{len(usable)} usable labels of {tasks} tasks are too few to train a tagger",
                remedy="Raise tagger.labelled, or bring a larger corpus.",
            )
        return LabelSplit(train, test)
