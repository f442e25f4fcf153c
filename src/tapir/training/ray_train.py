"""Training in the workers of a Ray cluster, through Ray Train.

    python -m tapir.training.ray_train FOLDER FILES ADDRESS WORKERS GPUS

is the process that speaks to the cluster; it is started and followed like any other launcher.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tapir.errors import MissingExtra, RecipeError
from tapir.roles import Trainer, TrainJob, TrainReport, Watch
from tapir.training.attempt import Attempt, Command
from tapir.training.handover import PROGRESS
from tapir.training.relay import ProgressWriter
from tapir.training.worker import take_part

_RETRIES = 3  # lost workers, before the training gives up


@dataclass(frozen=True, slots=True)
class RayLaunchSettings:
    """Where on the cluster.

    Attributes:
        workers: that train together.
        gpus: of each worker; 0 trains on the CPU.
        address: of the cluster, as in "auto" or "head:6379"; empty starts one on this machine for the training.
    """

    workers: int
    gpus: int = 0
    address: str = ""


@dataclass(frozen=True, slots=True)
class RayLaunchedTrainer:
    """A trainer that runs in several workers of a Ray cluster; every node sees the run's folder under the same path.

    Ray replaces a worker that dies, and the training goes on from its last complete training checkpoint.

    Attributes:
        inner: what trains in each worker; a dataclass, so that it can be made again there.
    """

    inner: Trainer
    launch: RayLaunchSettings

    def check(self) -> None:
        """See that everything needed is there, without starting anything.

        Raises:
            MissingExtra: Ray is not installed.
            RecipeError: the address is of a kind that Ray Train does not work with.
        """
        if importlib.util.find_spec("ray") is None:
            raise MissingExtra("Ray is not installed", remedy="pip install 'tapir-distill[ray]'")
        if "://" in self.launch.address:
            raise RecipeError(
                f"engine.address = {self.launch.address!r}: Ray Train works from a machine of the cluster only",
                remedy='Run tapir on such a machine and set it to "auto"; `ray start --address=HOST:PORT` makes '
                "this one join.",
            )

    def train(self, job: TrainJob, watch: Watch) -> TrainReport:
        """Train in the cluster, or finish there what was cut short.

        Raises:
            TapirError: what the trainer raises in any of the workers.
            TrainingError: workers were lost again and again.
        """
        self.check()
        watch.check()
        attempt = Attempt(job, watch)
        attempt.offer(self.inner)
        with TemporaryDirectory(prefix="tapir-ray-", ignore_cleanup_errors=True) as files:
            return attempt.run(_command(self.launch, str(attempt.folder.path), files))


def _command(launch: RayLaunchSettings, folder: str, files: str) -> Command:
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_V2_ENABLED": "1"}
    if not launch.address:  # a cluster that only this training can use: its key is in no file
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return Command(
        ["tapir.training.ray_train", folder, files, launch.address, str(launch.workers), str(launch.gpus)],
        where=f"in {launch.workers} worker{'s' * (launch.workers > 1)} of Ray ({launch.address or 'on this machine'})",
        restarts=True,
        environment=environment,
    )


def drive(folder: Path, files: Path, launch: RayLaunchSettings) -> None:
    """Have the job of `folder` done by workers of the cluster; returns when it is.

    Args:
        folder: of the job.
        files: folder with a short path for what a cluster that is started here writes.
        launch: where on the cluster.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    here = {"num_cpus": launch.workers, "include_dashboard": False, "_temp_dir": str(files)}
    ray.init(address=launch.address or "local", **({} if launch.address else here))
    _tell_room(folder, launch, ray.cluster_resources())
    trainer = TorchTrainer(
        _rank,
        train_loop_config={"folder": str(folder), "cwd": str(Path.cwd())},
        scaling_config=ScalingConfig(
            num_workers=launch.workers,
            use_gpu=launch.gpus > 0,
            resources_per_worker={"CPU": 1, "GPU": launch.gpus} if launch.gpus else {"CPU": 1},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=_RETRIES),
        ),
    )
    trainer.fit()


def _tell_room(folder: Path, launch: RayLaunchSettings, there: Mapping[str, float]) -> None:
    """A cluster without room may grow; until then Ray waits, and the user should know for what."""
    needed = {"CPU": launch.workers, "GPU": launch.workers * launch.gpus}
    short = [f"{count} {kind}" for kind, count in needed.items() if there.get(kind, 0) < count]
    if short:
        ProgressWriter(folder / PROGRESS).write(
            "note", f"waiting until the cluster has {' and '.join(short)} for {launch.workers} workers"
        )


def _rank(config: dict[str, str]) -> None:
    """What each worker runs."""
    os.chdir(config["cwd"])
    if not take_part(Path(config["folder"])):
        raise RuntimeError("this rank failed; its error stands in the training's folder")


def main() -> None:
    """The process that speaks to the cluster."""
    folder, files, address, workers, gpus = sys.argv[1:]
    drive(Path(folder), Path(files), RayLaunchSettings(int(workers), int(gpus), address))


if __name__ == "__main__":
    main()
