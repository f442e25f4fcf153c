"""One process of a training that several share.

    python -m tapir.training.worker FOLDER

The folder holds the job (see `tapir.training.handover`); the launcher's environment says which rank this is.
"""

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

from tapir.errors import Interrupted, TapirError
from tapir.training.handover import PROGRESS, JobFolder, Rank
from tapir.training.lifeline import hold
from tapir.training.relay import ProgressWriter

_LINES = 12  # of a traceback that are kept


class RankWatch:
    """The watch of one rank: the first writes progress for the parent, and all stop after the same step.

    Whether to stop is agreed on over gloo, so that no accelerator waits for it; on a machine with several
    networks, GLOO_SOCKET_IFNAME names the one to use.
    """

    def __init__(self, folder: JobFolder, rank: int, world: int) -> None:
        """`rank` of `world` processes."""
        self._folder = folder
        self._first = rank == 0
        self._world = world
        self._progress = ProgressWriter(folder.path / PROGRESS)
        self._told = self._agreed = False
        self._group: Any = None

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        """A stage begins."""
        self._write("start", number, stage, total, done)

    def advance(self, items: int = 1) -> None:
        """So many more items are finished."""
        self._write("advance", items)

    def finish(self) -> None:
        """The stage is complete."""
        self._write("finish")

    def note(self, text: str) -> None:
        """A fact worth a line."""
        self._write("note", text)

    def measure(self, **figures: float) -> None:
        """How the stage is doing."""
        self._write("measure", figures)

    def stop(self) -> None:
        """This process was told to stop."""
        self._told = True

    @property
    def stopping(self) -> bool:
        """Whether any rank was told to stop; every rank has to ask equally often, and all get the same answer."""
        if not self._agreed:
            self._agreed = self._any_rank(self._told or (self._first and self._folder.must_stop))
        return self._agreed

    def check(self) -> None:
        """Raise `Interrupted` once the ranks have agreed to stop."""
        if self._agreed:
            raise Interrupted("stopped; everything finished is on disk")

    def _write(self, what: str, *values: object) -> None:
        if self._first:
            self._progress.write(what, *values)

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


def take_part(path: Path, watch: RankWatch | None = None) -> bool:
    """Train as one of several ranks; how it ended stands in the folder.

    Returns:
        Whether it finished, or stopped because it was told to.
    """
    folder = JobFolder(path)
    number, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    machine = int(os.environ.get("GROUP_RANK", "0"))
    rank = Rank(number, os.getpid(), socket.gethostname(), machine, time.time())
    folder.tell(rank)
    try:
        trainer, job = folder.take()
        report = trainer.train(job, watch or RankWatch(folder, number, world))
        if number == 0:
            folder.hand_back(report)
        rank = replace(rank, state="finished")
    except Interrupted:
        rank = replace(rank, state="stopped")
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        traceback.print_exc()
        rank = _failed(rank, error)
    folder.tell(replace(rank, ended=time.time()))
    return rank.state != "failed"


def _failed(rank: Rank, error: Exception) -> Rank:
    return replace(
        rank,
        state="failed",
        kind=type(error).__name__,
        message=str(error),
        remedy=error.remedy if isinstance(error, TapirError) else "",
        trace="\n".join(traceback.format_exc().splitlines()[-_LINES:]),
    )


def main() -> None:
    """The process that a launcher starts; a first SIGTERM stops the training in order."""
    hold()
    path = Path(sys.argv[1])
    number, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    watch = RankWatch(JobFolder(path), number, world)
    signal.signal(signal.SIGTERM, lambda *_: watch.stop())
    if take_part(path, watch):
        _leave_group()
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # the usual way out waits for ranks that will not answer any more


def _leave_group() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
