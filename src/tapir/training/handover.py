"""A training job handed to other processes, and what they hand back: files in one folder that all of them see.

job.json          the trainer with its settings, and the job without its rows
examples.jsonl    its examples
preferences.jsonl its preferences
progress.jsonl    what the watch of the first process was told
stop              appears when the training has to stop in order
ranks/N.json      how the process of rank N is doing, and its error
report.json       what training did, from the first process
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, cast

from tapir import errors
from tapir.errors import TapirError
from tapir.roles import Example, Preference, Trainer, TrainJob, TrainReport
from tapir.store.files import disk_errors, read_json, write_json

PROGRESS = "progress.jsonl"
"""Name of the file that the first process writes and the parent reads."""

RowT = TypeVar("RowT", Example, Preference)
Ended: TypeAlias = Literal["training", "finished", "stopped", "failed"]

_JOB, _STOP, _REPORT, _RANKS = "job.json", "stop", "report.json", "ranks"
_EXAMPLES, _PREFERENCES = "examples.jsonl", "preferences.jsonl"
_CLASS = "class"


class _Named(Protocol):
    """Any object with a class; what is meant is an instance of a dataclass."""


@dataclass(frozen=True, slots=True)
class Rank:
    """One process of a training.

    Attributes:
        pid: of the process on `host`, which is machine number `machine` of those that train.
        began, ended: seconds since the epoch; `ended` is 0 while it trains.
        kind, message, remedy: of the error it ended with.
        trace: the last lines of where that was raised.
    """

    number: int
    pid: int
    host: str
    machine: int
    began: float
    state: Ended = "training"
    ended: float = 0.0
    kind: str = ""
    message: str = ""
    remedy: str = ""
    trace: str = ""

    def error(self) -> TapirError | None:
        """Its error as what it was raised as; None where it has none or it was none of ours."""
        kind = getattr(errors, self.kind, None) if self.kind else None
        if isinstance(kind, type) and issubclass(kind, TapirError):
            return kind(self.message, remedy=self.remedy)
        return None


class JobFolder:
    """The folder of one attempt to train."""

    def __init__(self, path: Path) -> None:
        """Nothing is read or written yet."""
        self.path = path

    def offer(self, trainer: Trainer, job: TrainJob) -> None:
        """Write the job; whatever an earlier attempt left here is removed.

        Raises:
            TypeError: the trainer is not a dataclass, so that it cannot be made again elsewhere.
        """
        with disk_errors(self.path):
            shutil.rmtree(self.path, ignore_errors=True)
            (self.path / _RANKS).mkdir(parents=True)
            _write_rows(self.path / _EXAMPLES, job.examples)
            _write_rows(self.path / _PREFERENCES, job.preferences)
        bare = replace(job, examples=(), preferences=())
        write_json(self.path / _JOB, {"trainer": described(cast("_Named", trainer)), "job": described(bare)})

    def take(self) -> tuple[Trainer, TrainJob]:
        """The trainer and its job, as they were offered.

        Raises:
            StoreError: the job cannot be read.
        """
        content = read_json(self.path / _JOB)
        job: TrainJob = restored(content["job"])
        examples = list(_read_rows(self.path / _EXAMPLES, Example))
        preferences = list(_read_rows(self.path / _PREFERENCES, Preference))
        return restored(content["trainer"]), replace(job, examples=examples, preferences=preferences)

    def ask_to_stop(self) -> None:
        """Let the training stop in order; asking twice changes nothing."""
        with disk_errors(self.path):
            (self.path / _STOP).touch()

    @property
    def must_stop(self) -> bool:
        """Whether the training was asked to stop."""
        return (self.path / _STOP).exists()

    def tell(self, rank: Rank) -> None:
        """Record how a process is doing."""
        write_json(self.path / _RANKS / f"{rank.number}.json", described(rank))

    def ranks(self) -> list[Rank]:
        """Every process that has begun, by rank."""
        found = [restored(read_json(path)) for path in (self.path / _RANKS).glob("[0-9]*.json")]
        return sorted(found, key=lambda rank: rank.number)

    def hand_back(self, report: TrainReport) -> None:
        """Write what training did."""
        write_json(self.path / _REPORT, described(report))

    def report(self) -> TrainReport | None:
        """What training did; None where it has not come to its end."""
        if not (self.path / _REPORT).exists():
            return None
        found: TrainReport = restored(read_json(self.path / _REPORT))
        return found


def described(value: object) -> Any:
    """A value as JSON; a dataclass names its class.

    Raises:
        TypeError: something in it is neither a dataclass nor plain data.
    """
    if is_dataclass(value) and not isinstance(value, type):
        name = f"{type(value).__module__}:{type(value).__qualname__}"
        return {_CLASS: name} | {field.name: described(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Path):
        return {_CLASS: "pathlib:Path", "path": str(value)}
    if isinstance(value, (list, tuple)):
        return [described(one) for one in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"a trainer that is launched in other processes cannot hold {value!r}")


def restored(content: Any) -> Any:
    """The value that was described; lists come back as tuples."""
    if isinstance(content, list):
        return tuple(restored(one) for one in content)
    if not isinstance(content, dict):
        return content
    module, _, name = content[_CLASS].partition(":")
    if module == "pathlib":
        return Path(content["path"])
    kind = getattr(import_module(module), name)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise TypeError(f"{content[_CLASS]} is no dataclass")
    return kind(**{key: restored(value) for key, value in content.items() if key != _CLASS})


def _write_rows(path: Path, rows: Iterable[Example] | Iterable[Preference]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            values = [getattr(row, field.name) for field in fields(row)]
            file.write(json.dumps(values, ensure_ascii=False) + "\n")


def _read_rows(path: Path, kind: type[RowT]) -> Iterator[RowT]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            values: Sequence[str] = json.loads(line)
            yield kind(*values)
