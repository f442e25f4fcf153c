"""Training in the workers of a Ray cluster, through Ray Train.

    python -m tapir.training.ray FOLDER FILES ADDRESS WORKERS GPUS

is the driver, a process of its own; it is started and followed like any other launcher.
"""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tapir.config.training import RayLaunchConfig
from tapir.domain.errors import require
from tapir.domain.progress import Progress
from tapir.domain.roles import Trainer
from tapir.domain.training import TrainJob, TrainReport
from tapir.models.local.ray_cluster import check_form
from tapir.models.memory import divided_environment
from tapir.training.job_folder import JobFolder
from tapir.training.launch import LaunchedTraining
from tapir.training.worker import train_rank

_RETRIES = 3  # lost workers, before the training gives up
_GRACE = 10.0  # seconds that the driver has to leave the cluster in order


@dataclass(frozen=True, slots=True)
class RayTrainer:
    """A trainer that runs in several workers of a Ray cluster; every node sees the run's folder under the same path.

    Ray replaces a worker that dies, and the training goes on from its last complete training checkpoint.
    """

    inner: Trainer  # trains in each worker; it is pickled
    launch: RayLaunchConfig
    address: str = ""  # of the cluster, as in "auto" or "head:6379"; empty starts one on this machine

    def check(self) -> None:
        """Raise unless Ray is installed and works with the address; nothing is started."""
        require("ray", "ray")
        check_form(self.address)

    def train(self, job: TrainJob, progress: Progress) -> TrainReport:
        """Train in the cluster, or finish there what was cut short."""
        self.check()
        progress.check()
        workers = self.launch.workers
        place = f"in {workers} worker{'s' * (workers > 1)} of Ray ({self.address or 'on this machine'})"
        training = LaunchedTraining(self.inner, job, progress, place, restarts=True, grace=_GRACE)
        environment = divided_environment() | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_V2_ENABLED": "1"}
        if not self.address:  # a cluster that only this training can use: its key is in no file
            environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        with TemporaryDirectory(prefix="tapir-ray-", ignore_cleanup_errors=True) as files:
            folder = str(training.folder.path)
            driver = ["tapir.training.ray", folder, files, self.address, str(workers), str(self.launch.gpus)]
            return training.run(driver, environment)


def drive(folder: Path, files: Path, address: str, workers: int, gpus: int) -> None:
    """Train the job of `folder` in workers of the cluster, each with so many GPUs.

    `files` is a folder with a short path for what a cluster writes that is started here, because `address` is empty.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    import ray

    local = {"num_cpus": workers, "include_dashboard": False, "_temp_dir": str(files)}
    ray.init(address=address or "local", **({} if address else local))
    needed, available = {"CPU": workers, "GPU": workers * gpus}, ray.cluster_resources()
    if short := [f"{count} {kind}" for kind, count in needed.items() if available.get(kind, 0) < count]:
        text = f"waiting until the cluster has {' and '.join(short)} for {workers} workers"
        JobFolder(folder).write_event("note", text)  # it may grow
    resources = {"CPU": 1, "GPU": gpus} if gpus else {"CPU": 1}
    trainer = TorchTrainer(
        _train_in_worker,
        train_loop_config={"folder": str(folder), "cwd": str(Path.cwd())},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=resources),
        run_config=RunConfig(name="ray", storage_path=str(folder), failure_config=FailureConfig(max_failures=_RETRIES)),
    )
    trainer.fit()


def _train_in_worker(config: dict[str, str]) -> None:
    os.chdir(config["cwd"])
    if not train_rank(Path(config["folder"])):
        raise RuntimeError("this rank failed; its error is in the training's folder")


if __name__ == "__main__":
    drive(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
