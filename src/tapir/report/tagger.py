"""How good the tagger was on labels it was not fitted on, from tagger.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tapir.errors import StoreError
from tapir.store.files import read_json
from tapir.store.run import RunStore

_REMEDY = "Delete it; `tapir resume` fits the tagger again."


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """One task: F1, and the share of its labels that were found; None is what was not measured."""

    task: str
    f1: float | None
    recall: float | None


@dataclass(frozen=True, slots=True)
class TaggerSummary:
    """A tagger in figures; None is what its tagger.json does not say.

    Attributes:
        trained_on: labels it was fitted on.
        n: labels held out to measure it.
        accuracy: share of the n it labelled right.
        calibration_error: expected calibration error, 0 to 1.
        abstained: how many of the n it was too unsure of to label.
        tasks: the task it is worst at first.
    """

    trained_on: int
    n: int
    accuracy: float
    calibration_error: float | None
    abstained: int | None
    tasks: Sequence[TaskFigures]

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 of the tasks, each of which counts the same."""
        known = [one.f1 for one in self.tasks if one.f1 is not None]
        return fmean(known) if known else None


def read_tagger(store: RunStore) -> TaggerSummary | None:
    """The figures; None where there is no tagger yet, or none that had anything to learn.

    Raises:
        StoreError: tagger.json is damaged.
    """
    path = store.round(0) / "tagger.json"
    content = read_json(path, _REMEDY) if path.exists() else {}
    if not content:
        return None
    try:
        return TaggerSummary(
            trained_on=int(content["trained_on"]),
            n=int(content["n"]),
            accuracy=float(content["accuracy"]),
            calibration_error=content.get("calibration_error"),
            abstained=content.get("abstained"),
            tasks=_tasks(content.get("f1", {}), content["by_task"]),
        )
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is damaged: {error!r}", remedy=_REMEDY) from error


def _tasks(f1: Mapping[str, Any], recall: Mapping[str, Any]) -> Sequence[TaskFigures]:
    found = [TaskFigures(task, f1.get(task), recall.get(task)) for task in {**f1, **recall}]
    return sorted(found, key=lambda one: (one.f1 if one.f1 is not None else one.recall or 0.0, one.task))
