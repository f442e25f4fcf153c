"""Training in several processes, started by `accelerate launch`."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import psutil

from tapir.config.base import nearest
from tapir.config.training import AccelerateLaunchConfig, SftConfig
from tapir.data.files import disk_errors, full, write_text
from tapir.domain.errors import Interrupted, MissingExtra, RecipeError, TapirError, TrainingError, require
from tapir.domain.progress import Progress
from tapir.domain.roles import Trainer
from tapir.domain.training import TrainJob, TrainReport
from tapir.models.memory import divided_environment
from tapir.models.process import ChildProcess
from tapir.training.job_folder import PROGRESS, JobFolder, ProgressReader, Rank

SHIPPED = ("ddp", "fsdp2", "zero2", "zero3")
"""Configurations of accelerate that come with the package."""

LOG, FOLDER, SCRIPT = "launch.log", "launch", "launch.sh"
"""In the training's folder: what the processes print, the job and its progress, the command for further machines."""

_KEY = "training.launch.config"
_POLL = 0.1  # seconds between two looks at the progress
_PATIENCE = 5.0  # seconds that ranks are given to end by themselves once one of them has failed
_LINES = 24  # of the log, in an error
_MIN_FREE = 1 << 20  # bytes; a disk with fewer is full


class LaunchedTraining:
    """A training in other processes, from its start to its end."""

    def __init__(
        self,
        trainer: Trainer,
        job: TrainJob,
        progress: Progress,
        place: str,
        *,
        restarts: bool = False,
        grace: float = 0,
    ) -> None:
        """Write the job for the processes.

        `place` says where it trains, for messages. `restarts`: the launcher starts lost processes again by itself.
        `grace`: seconds to end in order once the training failed or this process is gone; with 0 it is killed.
        """
        self.folder = JobFolder((job.work / FOLDER).absolute())
        self.folder.write_job(trainer, job)
        self._job, self._progress = job, progress
        self._place, self._restarts, self._grace = place, restarts, grace
        self._log = job.work / LOG
        self._reader = ProgressReader(self.folder.path / PROGRESS, progress)
        self._lost: list[Rank] = []

    def run(self, launcher: Sequence[str], environment: Mapping[str, str] | None = None) -> TrainReport:
        """Start the launcher, a module with its arguments, and wait for its end; what a process raised is raised."""
        command, environment = [sys.executable, "-m", *launcher], environment or divided_environment()
        process = ChildProcess(command, self._log, environment=environment, orphan_grace=self._grace)
        try:
            self._follow(process)
        finally:
            process.stop(self._grace)
        self._reader.pass_on()
        report = self.folder.report()
        if report is not None and self._job.out.exists():
            return report
        self._progress.check()
        raise self._failure(process)

    def _follow(self, process: ChildProcess) -> None:
        """Return when the processes have ended, or have to be ended."""
        deadline = 0.0
        while process.alive:
            self._reader.pass_on()
            if self._progress.stopping:
                if not self._reader.begun:
                    return
                self.folder.request_stop()
            deadline = deadline or self._deadline()
            if deadline and time.monotonic() > deadline:
                return
            process.wait(_POLL)
        self._deadline()  # what is lost by now was not ended by us

    def _deadline(self) -> float:
        """Return until when the processes may go on; 0 while none has failed."""
        gone = {rank.pid for rank in self.folder.ranks() if _is_gone(rank)}
        ranks = self.folder.ranks()  # again: one that ends in order writes its state first
        if self._restarts:  # after an error of ours, beginning again would not help
            return time.monotonic() if any(rank.error for rank in ranks) else 0.0
        self._lost = self._lost or [rank for rank in ranks if rank.state == "training" and rank.pid in gone]
        if self._lost or any(rank.state == "failed" for rank in ranks):
            return time.monotonic() + _PATIENCE
        return 0.0

    def _failure(self, process: ChildProcess) -> TapirError:
        ranks = self.folder.ranks()
        failed = sorted((rank for rank in ranks if rank.state == "failed"), key=lambda rank: rank.ended)
        for rank in failed:
            if rank.error:
                return rank.error
        if any(rank.state == "stopped" for rank in ranks):
            return Interrupted("the training was stopped from outside; its last training checkpoint is on disk")
        if shutil.disk_usage(self._job.work).free < _MIN_FREE:
            return full(self._job.work)
        unfinished = [rank for rank in ranks if rank.state == "training"]  # of restarted ones others were killed too
        lost = self._lost or (unfinished if self._restarts and not failed else [])
        lines = failed[0].trace if failed and not lost else "\n".join(process.last_lines(_LINES))
        return TrainingError(
            f"training {self._place} failed: {_cause(ranks, lost, failed)}. More is in {self._log}:\n{lines}",
            remedy="`tapir resume` goes on from the last complete training checkpoint, if one was saved; where memory "
            "ran out, lower training.micro_batch first.",
        )


def _is_gone(rank: Rank) -> bool:
    """Return whether a process of this machine has ended; its parent may not have noticed yet."""
    try:
        ended = psutil.Process(rank.pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        ended = True
    return ended and not rank.machine and rank.host == socket.gethostname()


def _cause(ranks: Sequence[Rank], lost: Sequence[Rank], failed: Sequence[Rank]) -> str:
    """Name the cause; a lost process comes first, as the others fail because it does not answer."""
    if lost:
        names = ", ".join(f"{rank.number} (process {rank.pid} on {rank.host})" for rank in lost)
        return f"rank {names} was killed, or its machine ran out of memory"
    if failed:
        return f"rank {failed[0].number} ended with {failed[0].cause}"
    return "a process could not be reached" if ranks else "no process came up"


@dataclass(frozen=True, slots=True)
class AccelerateTrainer:
    """A trainer that runs in several processes at a time; without a GPU they are on the CPU and use gloo.

    More than one machine: name a configuration file with num_machines, main_process_ip and main_process_port, and
    let all machines see the run's folder under the same path. This process starts the part of machine 0. The
    command for the others is written to `launch.sh` in the training's folder (`round-N/training`) before anything
    starts; run it on machine K as `MACHINE_RANK=K sh launch.sh`. Machine 0 waits for them.

    `inner` trains in each process; it is pickled.
    """

    inner: Trainer
    launch: AccelerateLaunchConfig

    def check(self) -> int:
        """Return the number of machines, after everything was checked that can be without starting anything."""
        require("train", "accelerate")
        config = _read_config(self.launch.config)
        machines = int(config.num_machines)
        kind = str(config.distributed_type.value)
        if kind == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
            problem = f"{_KEY} = {self.launch.config!r} needs DeepSpeed, which is not installed"
            raise MissingExtra(problem, remedy="pip install deepspeed")
        _check_devices(self.launch, machines, kind)
        section = getattr(self.inner, "config", None)
        if kind == "FSDP" and isinstance(section, SftConfig) and section.dpo and section.method != "full":
            raise RecipeError(  # TRL computes the reference before the model is shared out, on the CPU
                f"[training.dpo] with training.method = {section.method!r} cannot be trained with {_KEY} = "
                f"{self.launch.config!r}",
                remedy='Use training.launch.config = "zero3" or "ddp", or training.method = "full".',
            )
        return machines

    def train(self, job: TrainJob, progress: Progress) -> TrainReport:
        """Train in other processes, or finish there what was cut short."""
        import torch

        machines = self.check()
        progress.check()
        place = f"in {self.launch.processes} process{'es' * (self.launch.processes > 1)} ({self.launch.config})"
        training = LaunchedTraining(self.inner, job, progress, place)
        folder = str(training.folder.path)
        with disk_errors(job.work):
            line = shlex.join(_arguments(self.launch, folder, ["--machine_rank", "$MACHINE_RANK"]))
            write_text(
                job.work / SCRIPT,
                f"#!/bin/sh\n# The part of machine K: MACHINE_RANK=K sh {SCRIPT}\nset -eu\n"
                f"cd {shlex.quote(str(Path.cwd()))}\nexec {shlex.quote(sys.executable)} -m "
                + line.replace("'$MACHINE_RANK'", '"$MACHINE_RANK"')
                + "\n",
            )
        environment = divided_environment(0 if torch.cuda.is_available() else self.launch.processes)
        port = ["--machine_rank", "0"] if machines > 1 else ["--main_process_port", "0"]
        return training.run(_arguments(self.launch, folder, port), environment)


def _arguments(launch: AccelerateLaunchConfig, folder: str, machine: list[str]) -> list[str]:
    return [
        "accelerate.commands.launch",
        *("--config_file", str(_config_path(launch.config))),
        *("--num_processes", str(launch.processes)),
        *machine,
        *("-m", "tapir.training.worker", folder),
    ]


def _check_devices(launch: AccelerateLaunchConfig, machines: int, kind: str) -> None:
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


def _config_path(config: str) -> Path:
    if config in SHIPPED:
        return Path(str(resources.files("tapir.training") / "configs" / f"{config}.yaml"))
    return Path(config).expanduser()


def _read_config(config: str) -> Any:
    path = _config_path(config)
    if not path.is_file():
        near = nearest(config, SHIPPED)
        meant = f"; did you mean {near!r}?" if near else ""
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
            remedy=f"Write one with `accelerate config`, or use one of {', '.join(SHIPPED)}.",
        ) from error
