"""Runs that several tests only read."""

from __future__ import annotations

import pytest

from support.runs import build_run
from tapir.data.run.store import RunStore
from tapir.report.summary import Summary, summarise


@pytest.fixture(scope="session")
def gym_run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return build_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="session")
def api_run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return build_run(tmp_path_factory.mktemp("runs") / "run", api=True)


@pytest.fixture(scope="session")
def api_summary(api_run: RunStore) -> Summary:
    return summarise(api_run)
