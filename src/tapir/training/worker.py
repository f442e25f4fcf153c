"""Worker process of a training that runs in several: progress, errors, and agreement to stop."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from tapir.domain.errors import Interrupted, TapirError
from tapir.domain.progress import SilentProgress
from tapir.training.distributed import rank as rank_number
from tapir.training.distributed import world_size
from tapir.training.job_folder import JobFolder, Rank

_TRACE_LINES = 12  # of a traceback that are kept


class RankProgress(SilentProgress):
    """Progress of one rank: the first writes events for the parent, and all stop after the same step.

    Whether to stop is agreed on over gloo, so that no accelerator waits for it; on a machine with several
    networks, GLOO_SOCKET_IFNAME names the one to use.
    """

    def __init__(self, folder: JobFolder, rank: int, world: int) -> None:
        super().__init__()
        self._folder = folder
        self._main = rank == 0
        self._world = world
        self._terminated = False
        self._group: Any = None

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        """Report that a stage begins."""
        self._write("start", number, stage, total, done)

    def advance(self, items: int = 1) -> None:
        """Report finished items."""
        self._write("advance", items)

    def finish(self) -> None:
        """Report that the stage is complete."""
        self._write("finish")

    def note(self, text: str) -> None:
        """Report a fact."""
        self._write("note", text)

    def measure(self, **figures: float) -> None:
        """Report metrics."""
        self._write("measure", figures)

    def stop(self) -> None:
        """Ask all ranks to stop."""
        self._terminated = True

    @property
    def stopping(self) -> bool:
        """Whether any rank was asked to stop; every rank has to ask equally often, and all get the same answer."""
        if not self._stopping:
            self._stopping = self._any_rank(self._terminated or (self._main and self._folder.stop_requested))
        return self._stopping

    def _write(self, event: str, *values: object) -> None:
        if self._main:
            self._folder.write_event(event, *values)

    def _any_rank(self, wanted: bool) -> bool:  # noqa: FBT001
        if self._world == 1:
            return wanted
        import torch
        from torch import distributed

        if not distributed.is_initialized():  # nothing is made yet that could be lost
            return False
        if self._group is None:
            gloo = distributed.get_backend() == "gloo"
            self._group = distributed.group.WORLD if gloo else distributed.new_group(backend="gloo")
        flag = torch.tensor(int(wanted))
        distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=self._group)
        return bool(flag.item())


def train_rank(path: Path, progress: RankProgress | None = None) -> bool:
    """Train as one of several ranks; return whether it finished, or stopped because it was asked to."""
    folder, number = JobFolder(path), rank_number()
    machine = int(os.environ.get("GROUP_RANK", "0"))
    rank = Rank(number, os.getpid(), socket.gethostname(), machine, time.time())
    folder.write_rank(rank)
    try:
        trainer, job = folder.read_job()
        report = trainer.train(job, progress or RankProgress(folder, number, world_size()))
        if number == 0:
            folder.write_report(report)
        rank = replace(rank, state="finished")
    except Interrupted:
        rank = replace(rank, state="stopped")
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to know
        traceback.print_exc()
        ours = error if isinstance(error, TapirError) else None
        trace = "\n".join(traceback.format_exc().splitlines()[-_TRACE_LINES:])
        rank = replace(rank, state="failed", error=ours, cause=f"{type(error).__name__}: {error}", trace=trace)
    folder.write_rank(replace(rank, ended=time.time()))
    return rank.state != "failed"


def main() -> None:
    """Train in a process that a launcher started; a first SIGTERM stops the training in order."""
    path = Path(sys.argv[1])
    progress = RankProgress(JobFolder(path), rank_number(), world_size())
    signal.signal(signal.SIGTERM, lambda *_: progress.stop())
    if not train_rank(path, progress):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # the usual way out waits for ranks that will not answer any more
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
