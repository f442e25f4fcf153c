"""Trackers that a training reports to: Hugging Face's own integrations, and only those the recipe names."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tapir.errors import MissingExtra, TrainingError

TRACKERS: Mapping[str, Sequence[str]] = {
    "mlflow": ("mlflow",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""Every tracker, with the packages any one of which it needs."""


def check_trackers(names: Sequence[str]) -> None:
    """See that every tracker exists and is installed.

    Raises:
        TrainingError: there is no such tracker.
        MissingExtra: its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise TrainingError(
                f"training.report_to: there is no tracker {name!r}", remedy=f"There are {', '.join(sorted(TRACKERS))}."
            )
        if not any(map(importlib.util.find_spec, TRACKERS[name])):
            need(TRACKERS[name][0], f"training.report_to = {name!r}")


def need(package: str, wanted_by: str) -> None:
    """Raise `MissingExtra` unless the package is installed."""
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(f"{wanted_by} needs {package}", remedy=f"pip install {package}")


def own_callbacks(names: Sequence[str], folder: Path) -> list[Any]:
    """Trackers that write files: TensorBoard, into `folder`, which outlasts the training's working files."""
    if "tensorboard" not in names:
        return []
    from transformers.integrations import TensorBoardCallback

    found = TensorBoardCallback()
    found.logging_dir = found.logging_dir or str(folder)
    return [found]
