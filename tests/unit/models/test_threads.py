"""The environment variables for OpenMP."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tapir.models import memory

VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "TAPIR_OMP_NUM_THREADS")


def limited(monkeypatch: pytest.MonkeyPatch, quota: Path, cores: int = 8, **environment: str) -> dict[str, str]:
    """What is set after `limit_threads` on a machine with so many cores."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(memory, "_QUOTA", quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    memory.limit_threads()
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def test_spinning_is_limited_unless_the_user_has_decided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quota = tmp_path / "none"
    assert limited(monkeypatch, quota) == {"GOMP_SPINCOUNT": "1000"}
    assert limited(monkeypatch, quota, GOMP_SPINCOUNT="5") == {"GOMP_SPINCOUNT": "5"}
    assert limited(monkeypatch, quota, OMP_WAIT_POLICY="ACTIVE") == {"OMP_WAIT_POLICY": "ACTIVE"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [("max 100000", None), ("250000 100000", "3"), ("50000 100000", "1"), ("900000 100000", None)],
)
def test_a_container_gets_no_more_threads_than_cores(
    content: str, expected: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(content)
    assert limited(monkeypatch, quota).get("OMP_NUM_THREADS") == expected
    divided = [memory.divided_environment(processes).get("OMP_NUM_THREADS") for processes in (0, 1000)]
    assert divided == [None, "1"], "our number is that of one process with all cores"
    assert limited(monkeypatch, quota, OMP_NUM_THREADS="6")["OMP_NUM_THREADS"] == "6"
    assert [memory.divided_environment(processes)["OMP_NUM_THREADS"] for processes in (0, 1000)] == ["6", "6"]
