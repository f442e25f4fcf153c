"""Folder that the parent and the workers of a training share.

job.pickle        the trainer and its job
progress.jsonl    progress of the first process
stop              appears when the training has to stop in order
ranks/N.pickle    state of the process of rank N, and its error
report.pickle     the report of the first process
"""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tapir.data.files import disk_errors, replacing, whole_lines
from tapir.domain.errors import StoreError, TapirError
from tapir.domain.progress import Progress
from tapir.domain.roles import Trainer
from tapir.domain.training import TrainJob, TrainReport

PROGRESS = "progress.jsonl"
"""Name of the file that the first process writes and the parent reads."""

_JOB, _STOP, _REPORT, _RANKS = "job.pickle", "stop", "report.pickle", "ranks"


@dataclass(frozen=True, slots=True)
class Rank:
    """One process of a training, on machine number `machine` of those that train."""

    number: int
    pid: int
    host: str
    machine: int
    began: float  # seconds since the epoch
    state: Literal["training", "finished", "stopped", "failed"] = "training"
    ended: float = 0.0  # 0 while it trains
    error: TapirError | None = None  # that it ended with, if that is one of ours
    cause: str = ""  # class and message of whatever it ended with
    trace: str = ""  # the last lines of where that was raised


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The folder that parent and workers share."""

    path: Path

    def write_job(self, trainer: Trainer, job: TrainJob) -> None:
        """Write the job; whatever an earlier attempt left here is removed."""
        with disk_errors(self.path):
            shutil.rmtree(self.path, ignore_errors=True)
            (self.path / _RANKS).mkdir(parents=True)
        _write(self.path / _JOB, (trainer, job))

    def read_job(self) -> tuple[Trainer, TrainJob]:
        """Return the trainer and its job."""
        return _read(self.path / _JOB)  # type: ignore[no-any-return]

    def request_stop(self) -> None:
        """Have the training stop in order."""
        with disk_errors(self.path):
            (self.path / _STOP).touch()

    @property
    def stop_requested(self) -> bool:
        """Whether the training has to stop."""
        return (self.path / _STOP).exists()

    def write_event(self, event: str, *values: object) -> None:
        """Add an event to the progress, after those of earlier attempts."""
        with (self.path / PROGRESS).open("a", encoding="utf-8") as file:
            file.write(json.dumps([event, *values], ensure_ascii=False) + "\n")

    def write_rank(self, rank: Rank) -> None:
        """Record the state of a process."""
        _write(self.path / _RANKS / f"{rank.number}.pickle", rank)

    def ranks(self) -> list[Rank]:
        """Return every process that has begun, by rank."""
        ranks: list[Rank] = [_read(path) for path in (self.path / _RANKS).glob("[0-9]*.pickle")]
        return sorted(ranks, key=lambda rank: rank.number)

    def write_report(self, report: TrainReport) -> None:
        """Write the report of the training."""
        _write(self.path / _REPORT, report)

    def report(self) -> TrainReport | None:
        """Return the report; None where the training has not come to its end."""
        return _read(self.path / _REPORT) if (self.path / _REPORT).exists() else None


def _write(path: Path, value: object) -> None:
    with replacing(path) as draft, draft.open("wb") as file:
        pickle.dump(value, file)


def _read(path: Path) -> Any:
    with disk_errors(path), path.open("rb") as file:
        try:
            return pickle.load(file)  # noqa: S301 (written by a process of this training)
        except Exception as error:  # a damaged pickle raises almost anything
            problem = f"{path} cannot be read: {type(error).__name__}: {error}"
            raise StoreError(problem, remedy="Run `tapir resume`: it is written again.") from error


@dataclass(slots=True)
class ProgressReader:
    """Passes new lines on to the progress of the parent; `begun` once a first step may have been made.

    A training that begins again after a process was lost (some launchers see to that themselves) starts further
    back than was reported before; steps that were reported are not reported again.
    """

    path: Path
    progress: Progress
    begun: bool = False
    _offset: int = 0
    _stage: list[Any] | None = None
    _step: int = 0
    _reported: int = 0

    def pass_on(self) -> None:
        """Report what is new; a line that is not complete yet waits."""
        for place, line in whole_lines(self.path, self._offset):
            self._offset = place + len(line)
            event, *values = json.loads(line)
            self._report(event, values)

    def _report(self, event: str, values: list[Any]) -> None:
        if event == "start":
            number, stage, total, done = values
            again, self._stage = self._stage == values[:3], values[:3]
            self._step, self.begun = done, True
            if again:
                self.progress.note(f"a process of the training was lost; it goes on from step {done}")
            else:
                self._reported = done
                self.progress.start(number, stage, total, done)
        elif event == "advance":
            self._step += values[0]
            if self._step > self._reported:
                self.progress.advance(self._step - self._reported)
                self._reported = self._step
        elif event == "note":
            self.progress.note(values[0])
        elif event == "measure":
            self.progress.measure(**values[0])
        else:
            self._stage = None
            self.progress.finish()
