"""Addresses that lead nowhere are told in seconds; a cluster that is started here leaves nothing behind."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.ray_work import Slow
from tapir.config.student import RayEngineConfig
from tapir.domain.errors import RecipeError, RoleError
from tapir.domain.progress import SilentProgress
from tapir.models.local import ray_cluster, ray_driver
from tapir.models.local.ray import do_blocks
from tapir.models.local.ray_cluster import RayCluster, RayProcess

ray = pytest.mark.ray


def engine(address: str = "", **settings: Any) -> RayEngineConfig:
    return RayEngineConfig(kind="ray", address=address, **settings)


def places(folder: Path, cluster: RayCluster) -> list[int]:
    cluster.open(folder, SilentProgress())
    try:
        return sorted(place for place, _ in cluster.map(partial(do_blocks, Slow(0)), range(3)))
    finally:
        cluster.close()


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:", ":6379", "head:six"])
def test_what_is_no_address_of_a_cluster_is_an_error_of_the_recipe(address: str) -> None:
    with pytest.raises(RecipeError, match=r"engine\.address") as caught:
        RayCluster(engine(address))
    assert caught.value.remedy


def test_an_address_where_nothing_answers_is_reported(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RoleError, match="nothing answers at") as caught:
        places(tmp_path, RayCluster(engine(address)))
    assert address in str(caught.value)
    assert "ray start --head" in caught.value.remedy


@ray
def test_a_server_that_is_no_cluster_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setattr(ray_cluster, "_TO_START", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RoleError, match=r"Ray did not answer|no Ray cluster can be used") as caught:
            places(tmp_path, RayCluster(engine(address), patience=1.0))
    assert "engine.address" in caught.value.remedy


def test_an_address_from_the_environment_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RoleError, match=r"engine.address = 'auto': nothing answers at 127\.0\.0\.1:1"):
        places(tmp_path, RayCluster(engine("auto")))


@ray
def test_a_cluster_started_here_works_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    cluster = RayCluster(engine(workers=1))
    cluster.open(tmp_path, SilentProgress())
    assert sorted(place for place, _ in cluster.map(partial(do_blocks, Slow(0)), range(3))) == [0, 1, 2]
    assert cluster._own
    process, folder = cluster._own.process.child, Path(cluster._own._files.name)
    assert folder.is_dir()
    cluster.close()
    cluster.close()
    assert not process.alive
    assert not folder.exists()


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
    assert ray_driver._fitting(node, engine(cpus=cpus, gpus=gpus)) == fit


class Ending:
    """Kills the process that unpickles it, after its last words."""

    def __init__(self, program: str) -> None:
        self.program = program

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"import os, signal; print('the cluster went up in smoke', flush=True); {self.program}",)


@pytest.mark.parametrize(
    ("program", "how"),
    [("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"), ("os._exit(3)", "exit status 3")],
)
def test_a_driver_that_dies_is_reported_with_how_and_its_last_words(tmp_path: Path, program: str, how: str) -> None:
    (tmp_path / "ray.log").write_text("of an earlier session\n")
    with RayProcess(["work"], tmp_path / "ray.log", {}) as process:
        process.send(Ending(program))
        with pytest.raises(RoleError, match=f"ended with {how}") as caught:
            process.receive()
        assert process.connection.poll(0), "its end"
    assert "the cluster went up in smoke" in str(caught.value)
    assert "earlier" not in str(caught.value)
    assert "tapir resume" in caught.value.remedy
