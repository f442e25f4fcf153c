"""A process of ours beside the run: whatever becomes of it is told, and it outlives nobody."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tapir.cluster.process import Process
from tapir.errors import RoleError

_DRIVER = "tests.cluster.stand_in"


def started(folder: Path, part: str) -> Process:
    return Process(_DRIVER, (part,), folder / "ray.log", {"TOLD": "by the run"})


def test_messages_go_both_ways(tmp_path: Path) -> None:
    with started(tmp_path, "echo") as process:
        process.send({"a": 1})
        assert process.receive() == {"a": 1}
        assert process.receive() == "by the run"


@pytest.mark.parametrize(("part", "how"), [("killed", "SIGKILL"), ("failed", "exit status 3")])
def test_one_that_dies_says_how_with_its_last_lines(tmp_path: Path, part: str, how: str) -> None:
    (tmp_path / "ray.log").write_text("of an earlier one\n")
    with started(tmp_path, part) as process:
        with pytest.raises(RoleError, match=f"ended with {how}") as caught:
            process.receive()
        assert process.has_message(0.1)
    assert "the cluster went up in smoke" in str(caught.value)
    assert "of an earlier one" not in str(caught.value)
    assert "tapir resume" in caught.value.remedy


def test_one_that_works_on_ends_with_the_run(tmp_path: Path) -> None:
    with started(tmp_path, "endless") as process:
        number = process.receive()
        began = time.monotonic()
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_its_output_goes_to_the_log_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with started(tmp_path, "failed") as process, pytest.raises(RoleError):
        process.receive()
    assert capfd.readouterr() == ("", "")
    assert "smoke" in (tmp_path / "ray.log").read_text()
