"""Addresses that lead nowhere are told in seconds; a cluster that is started here leaves nothing behind."""

from __future__ import annotations

import pickle
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.cluster import connection, driver
from tapir.cluster.blocks import Blocks, in_blocks
from tapir.cluster.connection import RayCluster, RaySettings
from tapir.cluster.wire import Order
from tapir.errors import RecipeError, RoleError
from tapir.tagging.alone import Alone
from tests.cluster.work import Slow

ray = pytest.mark.ray


def asked(folder: Path, settings: RaySettings) -> list[int]:
    cluster = RayCluster(settings)
    cluster.open(folder, Alone())
    try:
        return sorted(place for place, _ in cluster.map(Blocks.of(Slow(0)), range(3)))
    finally:
        cluster.close()


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:", ":6379", "head:six"])
def test_what_is_no_address_of_a_cluster_is_an_error_of_the_recipe(address: str) -> None:
    with pytest.raises(RecipeError, match=r"engine\.address") as caught:
        RayCluster(RaySettings(address))
    assert caught.value.remedy


def test_an_address_where_nothing_answers_is_told(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RoleError, match="nothing answers at") as caught:
        asked(tmp_path, RaySettings(address))
    assert address in str(caught.value)
    assert "ray start --head" in caught.value.remedy


@ray
def test_a_server_that_is_no_cluster_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(connection, "_TO_START", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RoleError, match=r"Ray did not answer|no Ray cluster can be used") as caught:
            asked(tmp_path, RaySettings(address, patience=1.0))
    assert "engine.address" in caught.value.remedy


def test_an_address_from_the_environment_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RoleError, match=r"engine.address = 'auto': nothing answers at 127\.0\.0\.1:1"):
        asked(tmp_path, RaySettings("auto"))


@ray
def test_a_cluster_started_here_works_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    before = _folders()
    cluster = RayCluster(RaySettings(workers=1))
    cluster.open(tmp_path, Alone())
    assert sorted(place for place, _ in cluster.map(Blocks.of(Slow(0)), range(3))) == [0, 1, 2]
    assert cluster._kept
    process = cluster._kept.process._process
    cluster.close()
    cluster.close()
    assert process.poll() is not None
    assert _folders() == before


def _folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("tapir-ray-*"))


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "fit"),
    [
        ({"CPU": 8.0}, 1.0, 0.0, 8),
        ({"CPU": 8.0}, 3.0, 0.0, 2),
        ({"CPU": 8.0}, 0.1, 0.0, 80),
        ({"CPU": 8.0, "GPU": 4.0}, 1.0, 2.0, 2),
        ({"CPU": 8.0, "GPU": 1.0}, 1.0, 0.5, 2),
        ({"CPU": 8.0}, 1.0, 1.0, 0),
        ({}, 1.0, 0.0, 0),
    ],
)
def test_as_many_workers_fit_as_cores_and_gpus_allow(
    node: dict[str, float], cpus: float, gpus: float, fit: int
) -> None:
    assert driver._fitting(node, Order("auto", 4, cpus, gpus, 1.0)) == fit


@given(st.lists(st.integers()), st.integers(1, 7))
def test_blocks_are_the_items_in_order(items: list[int], size: int) -> None:
    found = list(in_blocks(items, size))
    assert [one for block in found for one in block] == items
    assert all(len(block) == size for block in found[:-1])
    assert all(found)


def test_an_error_travels_with_its_remedy() -> None:
    found = pickle.loads(pickle.dumps(RoleError("what happened", remedy="what to do")))  # noqa: S301
    assert (str(found), found.remedy) == ("what happened", "what to do")
