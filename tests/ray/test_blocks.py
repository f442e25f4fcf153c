"""Blocks of work on a real cluster of two nodes: whatever dies, every block comes back, and once."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from support.ray_nodes import Nodes
from support.ray_work import HEAVY, Deadly, Done, Failing, Meeting, Slow
from support.recording import RecordingProgress
from tapir.config.student import RayEngineConfig
from tapir.domain.errors import Interrupted, RoleError
from tapir.models.local.ray import WorkerTask, do_blocks
from tapir.models.local.ray_cluster import LOG, RayCluster

pytestmark = pytest.mark.ray
NUMBERS = range(12)


@pytest.fixture
def progress() -> RecordingProgress:
    return RecordingProgress()


def results(cluster: RayCluster, work: WorkerTask) -> Generator[tuple[int, Done], None, None]:
    return cluster.map(partial(do_blocks, work), NUMBERS)


def opened(nodes: Nodes, folder: Path, progress: RecordingProgress, workers: int = 2, cpus: float = 1.0) -> RayCluster:
    cluster = RayCluster(RayEngineConfig(kind="ray", address=nodes.address, workers=workers, cpus=cpus))
    cluster.open(folder, progress)
    return cluster


def all_there(found: dict[int, Done]) -> bool:
    return found.keys() == set(NUMBERS) and all(one.number == place for place, one in found.items())


def test_both_nodes_work_and_every_block_comes_back_to_its_place(
    two_nodes: Nodes, tmp_path: Path, progress: RecordingProgress, capfd: pytest.CaptureFixture[str]
) -> None:
    found = list(results(opened(two_nodes, tmp_path, progress, workers=3), Meeting(tmp_path / "met", 2)))
    assert len(found) == len(NUMBERS)
    assert all_there(dict(found))
    assert len({one.node for _, one in found}) == 2
    assert sorted(progress.notes) == ["met", "the Ray cluster (2 machines) has room for 2 of 3 workers"]
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / LOG).stat().st_size


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(
    two_nodes: Nodes, tmp_path: Path, progress: RecordingProgress
) -> None:
    memory = tmp_path / "killed"
    found = dict(results(opened(two_nodes, tmp_path, progress), Deadly(6, memory)))
    assert memory.exists()
    assert all_there(found)


def test_a_node_that_is_lost_in_the_middle_loses_nothing(
    two_nodes: Nodes, tmp_path: Path, progress: RecordingProgress
) -> None:
    node = two_nodes.add()
    cluster = opened(two_nodes, tmp_path, progress, workers=3)
    found: dict[int, Done] = {}
    with closing(results(cluster, Slow(1.0, HEAVY))) as coming:
        for place, one in coming:
            found[place] = one
            if len(found) == 3:
                two_nodes.lose(node)
    assert all_there(found)
    assert progress.notes == ["1 s each"]


def test_a_block_that_kills_every_worker_ends_the_work(
    two_nodes: Nodes, tmp_path: Path, progress: RecordingProgress
) -> None:
    with pytest.raises(RoleError, match="4 workers were killed, one after the other, while they did block 0") as caught:
        list(results(opened(two_nodes, tmp_path, progress), Deadly(0, None)))
    assert "memory" in caught.value.remedy


@pytest.mark.parametrize(
    ("ours", "message", "remedy"),
    [(True, r"a worker on \S+: no weights for \d+", "Download them."), (False, "ZeroDivisionError", LOG)],
)
def test_an_error_of_a_worker_is_reported_with_its_machine(
    two_nodes: Nodes, tmp_path: Path, progress: RecordingProgress, *, ours: bool, message: str, remedy: str
) -> None:
    with pytest.raises(RoleError, match=message) as caught:
        list(results(opened(two_nodes, tmp_path, progress), Failing(ours)))
    assert remedy in caught.value.remedy
    assert "in do" in (tmp_path / LOG).read_text()


def commands_of_children() -> list[list[str]]:
    """Return the command lines of the processes below this one that still run."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile: also what psutil says of a zombie
            found.append(child.cmdline())
    return found


def test_a_user_who_stops_does_not_wait(two_nodes: Nodes, tmp_path: Path, progress: RecordingProgress) -> None:
    cluster = opened(two_nodes, tmp_path, progress)
    coming = results(cluster, Slow(0.5))
    _, one = next(coming)
    progress.stop()
    with pytest.raises(Interrupted):
        list(coming)
    assert not any("tapir.models.local.ray_driver" in command for command in commands_of_children())
    assert one.process != os.getpid()


def test_a_worker_that_fits_nowhere_is_reported_at_once(
    two_nodes: Nodes, tmp_path: Path, progress: RecordingProgress
) -> None:
    found = re.escape("no place for a worker of 64 cores and 0 GPUs: its 2 machines have 1 cores and 0 GPUs, 1 cores")
    with pytest.raises(RoleError, match=found) as caught:
        list(results(opened(two_nodes, tmp_path, progress, cpus=64), Slow(0)))
    assert "engine.cpus" in caught.value.remedy


def test_no_work_needs_no_cluster(tmp_path: Path, progress: RecordingProgress) -> None:
    cluster = RayCluster(RayEngineConfig(kind="ray", address="127.0.0.1:1"))
    cluster.open(tmp_path, progress)
    assert list(cluster.map(partial(do_blocks, Slow(0)), [])) == []
