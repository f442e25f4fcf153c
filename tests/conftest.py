"""What several tests share."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support import small
from support.paths import ROOT

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT / "tests"), os.environ.get("PYTHONPATH", ""))))

# A busy machine may be slow; that is never what these tests are about.
for name, examples in {"dev": 20, "ci": 200}.items():
    settings.register_profile(name, deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


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
