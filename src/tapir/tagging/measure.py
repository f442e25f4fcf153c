"""How good a tagger is on labels that it has not seen: the same figures for every tagger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tapir.domain.task import TaskTag
from tapir.roles import TaggerReport

BINS = 15
"""Bins of equal width for the calibration error (Guo et al. 2017, "On Calibration of Modern Neural Networks")."""

_NONE = ""
_COLDEST, _HOTTEST = 0.05, 20.0


def report(
    truth: Sequence[str], guesses: Sequence[TaskTag], *, trained_on: int, abstain_below: float = 0.0
) -> TaggerReport:
    """Figures for n labelled instructions, none of which was learnt from.

    A guess that is less probable than `abstain_below` counts as wrong. The calibration error is that of all guesses.
    A task that is guessed but never true has an F1 of 0; one that is neither has none.

    Args:
        truth: n labels, n > 0.
        guesses: n best labels with their probabilities, in the same order.
        trained_on: labels that were learnt from.
        abstain_below: 0 to 1; 0 labels everything.
    """
    from sklearn.metrics import precision_recall_fscore_support

    found = [_NONE if one.confidence < abstain_below else one.task for one in guesses]
    tasks = sorted({*truth, *found} - {_NONE})
    _, recall, f1, support = precision_recall_fscore_support(truth, found, labels=tasks, zero_division=0.0)
    right = [label == one.task for label, one in zip(truth, guesses, strict=True)]
    return TaggerReport(
        trained_on=trained_on,
        n=len(truth),
        accuracy=sum(label == task for label, task in zip(truth, found, strict=True)) / len(truth),
        by_task={task: float(share) for task, share, n in zip(tasks, recall, support, strict=True) if n},
        f1={task: float(share) for task, share in zip(tasks, f1, strict=True)},
        calibration_error=calibration_error([one.confidence for one in guesses], right),
        abstained=found.count(_NONE),
    )


def macro_f1(f1: Mapping[str, float]) -> float:
    """The mean F1 of all tasks, each of which counts the same; 0 where there is none."""
    return math.fsum(f1.values()) / len(f1) if f1 else 0.0


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> float:
    """Expected calibration error: how far confidence is from the share that is right, on average over the guesses.

    Args:
        confidences: n probabilities, n > 0; bin m of M holds those above (m - 1) / M and up to m / M.
        right: whether each guess is.
        bins: M.
    """
    said = np.asarray(confidences, dtype=np.float64)
    bin_of = np.clip(np.ceil(said * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=said - np.asarray(right, dtype=np.float64), minlength=bins)
    return float(np.abs(gaps).sum() / len(said))


def temperature(logits: NDArray[np.float64], truth: Sequence[int]) -> float:
    """What logits are divided by to be calibrated: the most likely value (Guo et al. 2017, section 4.2).

    Args:
        logits: shape (n, labels), of instructions that were not learnt from, n > 0.
        truth: number of the right label of each.

    Returns:
        0.05 to 20; above 1 the classifier was too sure of itself.
    """
    from scipy.optimize import minimize_scalar

    places = np.asarray(truth)

    def surprise(log_temperature: float) -> float:
        """Mean negative log-likelihood of the right labels."""
        chances = log_softmax(logits / math.exp(log_temperature))
        return float(-chances[np.arange(len(places)), places].mean())

    found = minimize_scalar(surprise, bounds=(math.log(_COLDEST), math.log(_HOTTEST)), method="bounded")
    return math.exp(float(found.x))


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms of the probabilities that logits of shape (n, labels) stand for."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found
