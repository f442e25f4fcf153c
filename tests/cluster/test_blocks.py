"""Blocks of work on a real cluster of two nodes: whatever dies, every block comes back, and once."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tapir.cluster.blocks import Blocks, Work
from tapir.cluster.connection import LOG, RayCluster, RaySettings
from tapir.errors import Interrupted, RoleError
from tapir.tagging.alone import Alone
from tests.cluster.nodes import Nodes
from tests.cluster.work import HEAVY, Deadly, Done, Failing, Slow

pytestmark = pytest.mark.ray
NUMBERS = range(12)


@dataclass
class Listener(Alone):
    """Keeps what it is told, and stops the work when it is told to."""

    notes: list[str] = field(default_factory=list)
    stop: bool = False

    def note(self, text: str) -> None:
        self.notes.append(text)

    def check(self) -> None:
        if self.stop:
            raise Interrupted("stopped")


@pytest.fixture
def listener() -> Listener:
    return Listener()


def results(cluster: RayCluster, work: Work[int, Done]) -> Generator[tuple[int, Done], None, None]:
    return cluster.map(Blocks.of(work), NUMBERS)


def opened(nodes: Nodes, folder: Path, listener: Listener, workers: int = 2, cpus: float = 1.0) -> RayCluster:
    cluster = RayCluster(RaySettings(nodes.address, workers, cpus))
    cluster.open(folder, listener)
    return cluster


def all_there(found: dict[int, Done]) -> bool:
    return found.keys() == set(NUMBERS) and all(one.number == place for place, one in found.items())


def test_both_nodes_work_and_every_block_comes_back_to_its_place(
    two_nodes: Nodes, tmp_path: Path, listener: Listener, capfd: pytest.CaptureFixture[str]
) -> None:
    found = list(results(opened(two_nodes, tmp_path, listener, workers=3), Slow(0.3)))
    assert len(found) == len(NUMBERS)
    assert all_there(dict(found))
    assert len({one.node for _, one in found}) == 2
    assert sorted(listener.notes) == ["0.3 s each", "the Ray cluster (2 machines) has room for 2 of 3 workers"]
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / LOG).stat().st_size


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(
    two_nodes: Nodes, tmp_path: Path, listener: Listener
) -> None:
    memory = tmp_path / "killed"
    found = dict(results(opened(two_nodes, tmp_path, listener), Deadly(6, memory)))
    assert memory.exists()
    assert all_there(found)


def test_a_node_that_is_lost_in_the_middle_loses_nothing(two_nodes: Nodes, tmp_path: Path, listener: Listener) -> None:
    node = two_nodes.add()
    cluster = opened(two_nodes, tmp_path, listener, workers=3)
    found: dict[int, Done] = {}
    with closing(results(cluster, Slow(1.0, HEAVY))) as coming:
        for place, one in coming:
            found[place] = one
            if len(found) == 3:
                two_nodes.lose(node)
    assert all_there(found)
    assert listener.notes == ["1 s each"]


def test_a_block_that_kills_every_worker_ends_the_work(two_nodes: Nodes, tmp_path: Path, listener: Listener) -> None:
    with pytest.raises(RoleError, match="4 workers were killed, one after the other, while they did block 0") as caught:
        list(results(opened(two_nodes, tmp_path, listener), Deadly(0, None)))
    assert "memory" in caught.value.remedy


@pytest.mark.parametrize(
    ("ours", "message", "remedy"),
    [(True, r"a worker on \S+: no weights for \d+", "Download them."), (False, "ZeroDivisionError", LOG)],
)
def test_trouble_of_a_worker_is_told_with_its_machine(
    two_nodes: Nodes, tmp_path: Path, listener: Listener, *, ours: bool, message: str, remedy: str
) -> None:
    with pytest.raises(RoleError, match=message) as caught:
        list(results(opened(two_nodes, tmp_path, listener), Failing(ours)))
    assert remedy in caught.value.remedy
    assert "in do" in (tmp_path / LOG).read_text()


def test_whoever_stops_waits_for_nobody(two_nodes: Nodes, tmp_path: Path, listener: Listener) -> None:
    cluster = opened(two_nodes, tmp_path, listener)
    coming = results(cluster, Slow(0.5))
    _, one = next(coming)
    listener.stop = True
    with pytest.raises(Interrupted):
        list(coming)
    assert not [child for child in _children() if "tapir.cluster.driver" in child]
    assert one.process != os.getpid()


def test_a_worker_that_fits_nowhere_is_told_at_once(two_nodes: Nodes, tmp_path: Path, listener: Listener) -> None:
    found = re.escape("no place for a worker of 64 cores and 0 GPUs: its 2 machines have 1 cores and 0 GPUs, 1 cores")
    with pytest.raises(RoleError, match=found) as caught:
        list(results(opened(two_nodes, tmp_path, listener, cpus=64), Slow(0)))
    assert "engine.cpus" in caught.value.remedy


def test_no_work_needs_no_cluster(tmp_path: Path, listener: Listener) -> None:
    cluster = RayCluster(RaySettings("127.0.0.1:1"))
    cluster.open(tmp_path, listener)
    assert list(cluster.map(Blocks.of(Slow(0)), [])) == []


def _children() -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(status.rpartition(")")[2].split()[1]) == os.getpid():
            found.append(command.replace(b"\0", b" ").decode())
    return found
