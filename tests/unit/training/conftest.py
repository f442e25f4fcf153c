"""What several tests of launched trainings share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.recording import RecordingProgress
from support.training import LONGER, longer_job_in
from tapir.domain.training import TrainReport
from tapir.training.sft import SftTrainer


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    """The training in this process, undisturbed."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, SftTrainer(LONGER).train(longer_job_in(folder), RecordingProgress())
