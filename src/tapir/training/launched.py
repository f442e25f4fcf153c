"""Training in several processes that `accelerate launch` starts, on this machine or on several."""

from __future__ import annotations

import difflib
import importlib.util
import os
import shlex
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from tapir.errors import MissingExtra, RecipeError
from tapir.roles import Trainer, TrainJob, TrainReport, Watch
from tapir.store.files import disk_errors, write_text
from tapir.training.attempt import Attempt, Command

SHIPPED = ("ddp", "fsdp2", "zero2", "zero3")
"""Configurations of accelerate that come with the package."""

SCRIPT = "launch.sh"
"""The command for further machines, in the training's folder."""

_KEY = "training.launch.config"


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """How the processes share the work.

    Attributes:
        processes: of all machines together; one for each GPU, or on the CPU as many as there is memory for.
        config: "ddp", "fsdp2", "zero2", "zero3", or a configuration file of accelerate.
    """

    processes: int
    config: str = "ddp"


@dataclass(frozen=True, slots=True)
class LaunchedTrainer:
    """A trainer that runs in several processes at a time; without a GPU they are on the CPU, and speak gloo.

    More than one machine: name a configuration file with num_machines, main_process_ip and main_process_port, and
    let all machines see the run's folder under the same path. This process starts the part of machine 0. The
    command for the others is written to `launch.sh` in the training's folder (`round-N/training`) before anything
    starts; run it on machine K as `MACHINE_RANK=K sh launch.sh`. Machine 0 waits for them.

    Attributes:
        inner: what trains in each process; a dataclass, so that it can be made again there.
    """

    inner: Trainer
    launch: LaunchSettings

    def check(self) -> None:
        """See that everything needed is there, without starting anything.

        Raises:
            MissingExtra: accelerate or DeepSpeed is not installed.
            RecipeError: the configuration cannot be used, or not on this machine.
        """
        _check(self.launch)

    def train(self, job: TrainJob, watch: Watch) -> TrainReport:
        """Train in other processes, or finish there what was cut short.

        Raises:
            TapirError: what the trainer raises in any of them.
            TrainingError: a process was lost; the others are ended, and training again goes on from the last
                complete training checkpoint.
        """
        machines = _check(self.launch)
        watch.check()
        attempt = Attempt(job, watch)
        attempt.offer(self.inner)
        folder = str(attempt.folder.path)
        with disk_errors(job.work):
            write_text(job.work / SCRIPT, _script(self.launch, folder))
        port = ["--machine_rank", "0"] if machines > 1 else ["--main_process_port", "0"]
        where = f"in {self.launch.processes} process{'es' * (self.launch.processes > 1)} ({self.launch.config})"
        command = Command(
            _arguments(self.launch, folder, port), where, restarts=False, environment=_threads(self.launch)
        )
        return attempt.run(command)


def _arguments(launch: LaunchSettings, folder: str, where: list[str]) -> list[str]:
    return [
        "accelerate.commands.launch",
        *("--config_file", str(_file(launch.config))),
        *("--num_processes", str(launch.processes)),
        *where,
        *("-m", "tapir.training.worker", folder),
    ]


def _script(launch: LaunchSettings, folder: str) -> str:
    arguments = _arguments(launch, folder, ["--machine_rank", "$MACHINE_RANK"])
    line = " ".join('"$MACHINE_RANK"' if one == "$MACHINE_RANK" else shlex.quote(one) for one in arguments)
    lines = [
        "#!/bin/sh",
        f"# The part of machine K: MACHINE_RANK=K sh {SCRIPT}",
        "set -eu",
        f"cd {shlex.quote(str(Path.cwd()))}",
        f"exec {shlex.quote(sys.executable)} -m {line}",
    ]
    return "\n".join(lines) + "\n"


def _threads(launch: LaunchSettings) -> dict[str, str]:
    """On the CPU, the cores are shared between the processes, unless the user has decided."""
    import torch

    if torch.cuda.is_available() or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // launch.processes))}


def _file(config: str) -> Path:
    if config in SHIPPED:
        return Path(str(resources.files("tapir.training") / "configs" / f"{config}.yaml"))
    return Path(config)


def _check(launch: LaunchSettings) -> int:
    """The number of machines, once all that can be checked is."""
    if importlib.util.find_spec("accelerate") is None:
        raise MissingExtra("accelerate is not installed", remedy="pip install 'tapir-distill[train]'")
    config = _read(launch.config)
    machines = int(config.num_machines)
    kind = str(config.distributed_type.value)
    if kind == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        raise MissingExtra(
            f"{_KEY} = {launch.config!r} needs DeepSpeed, which is not installed", remedy="pip install deepspeed"
        )
    _check_devices(launch, machines, kind)
    return machines


def _check_devices(launch: LaunchSettings, machines: int, kind: str) -> None:
    import torch

    gpus = torch.cuda.device_count()
    if not gpus and kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise RecipeError(
            f"{_KEY} = {launch.config!r} shares a model between GPUs, and this machine has none",
            remedy='Use training.launch.config = "ddp", which works on the CPU too.',
        )
    if gpus and launch.processes > gpus * machines:
        raise RecipeError(
            f"training.launch.processes = {launch.processes}, but there are {gpus * machines} GPUs",
            remedy="Use one process for each GPU.",
        )


def _read(config: str) -> Any:
    """The configuration, as accelerate reads it."""
    path = _file(config)
    if not path.is_file():
        near = difflib.get_close_matches(config, SHIPPED, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise RecipeError(
            f"{_KEY} = {config!r} is neither one of {', '.join(SHIPPED)} nor a file{meant}",
            remedy="Name one of them, or a file that `accelerate config` has written.",
        )
    from accelerate.commands.config.config_args import load_config_from_file
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        return load_config_from_file(str(path))
    except (YAMLError, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise RecipeError(
            f"{_KEY} = {config!r} is no configuration of accelerate: {error}",
            remedy="Write one with `accelerate config`, or use one of " + ", ".join(SHIPPED) + ".",
        ) from error
