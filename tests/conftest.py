"""What several tests share."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import small


@dataclass(frozen=True)
class SmallRun:
    """One finished small run, made once for all tests."""

    folder: Path
    output: str
    seconds: float


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    folder = tmp_path_factory.mktemp("small") / "run"
    began = time.monotonic()
    result = small.run(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return SmallRun(folder, result.stdout + result.stderr, time.monotonic() - began)
