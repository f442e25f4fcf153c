"""The reviews on disk: one line of JSON for each rating, whole or not counted."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tapir.errors import DataError
from tapir.review.sample import Side
from tapir.store.files import disk_errors

LONGEST_NAME = 200
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Stars = Annotated[int, Field(ge=1, le=5)]


class Review(BaseModel):
    """One line of reviews.jsonl: what a person said about one pair.

    Attributes:
        id: of the instruction.
        preference: whose answer is better; null where the question was left open.
        difficulty: of the instruction, 1 (very easy) to 5 (very hard).
        task: a label of the run's taxonomy.
        left: whose answer stood on the left.
        seconds: the page was looked at before the rating was given.
        time: when it was given, ISO 8601, UTC.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    id: str
    rater: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
    preference: Literal["student", "reference", "tie"] | None
    difficulty: Stars | None
    task: str | None
    left: Side
    seconds: Seconds
    time: str

    @property
    def skipped(self) -> bool:
        """Whether every question was left open."""
        return self.preference is None and self.difficulty is None and self.task is None

    def says(self, other: Review | None) -> bool:
        """Whether both answer the questions alike."""
        return other is not None and self.model_dump(exclude={"seconds", "time"}) == other.model_dump(
            exclude={"seconds", "time"}
        )


@dataclass(frozen=True, slots=True)
class ReviewBook:
    """The file that several raters write to, each a line at a time."""

    path: Path

    def latest(self, rater: str) -> dict[str, Review]:
        """What a rater said last about each pair, by id.

        Raises:
            DataError: a line is no review.
        """
        return {one.id: one for one in self.read() if one.rater == rater}

    def read(self) -> Iterator[Review]:
        """Every line in order; a last line that a process did not finish is not counted.

        Raises:
            DataError: a line is no review.
        """
        if not self.path.exists():
            return
        with disk_errors(self.path), self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield Review.model_validate_json(line)
                except ValidationError as error:
                    first = error.errors(include_url=False, include_input=False)[0]
                    where = ".".join(map(str, first["loc"]))
                    raise DataError(
                        f"{self.path}, line {number} is no review: {where + ': ' if where else ''}{first['msg']}",
                        remedy="Mend or delete this line; all others stay as they are.",
                    ) from error

    def append(self, review: Review) -> bool:
        """Add a line and wait until it is on disk; one that says what its rater said last is not written again.

        Returns:
            Whether a line was written.

        Raises:
            StoreError: it could not be written, and is not in the file.
        """
        with self._held() as descriptor:
            if review.says(self.latest(review.rater).get(review.id)):
                return False
            whole = _cut(descriptor)
            line = review.model_dump_json().encode() + b"\n"
            try:
                while line:
                    line = line[os.write(descriptor, line) :]
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, whole)
                raise
            return True

    @contextmanager
    def _held(self) -> Iterator[int]:
        """The open file, to which nobody else writes meanwhile."""
        with disk_errors(self.path):
            new = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if new:
                    _keep_name(self.path.parent)
                yield descriptor
            finally:
                os.close(descriptor)


def _cut(descriptor: int) -> int:
    """Cut off a line that an earlier process did not finish; returns the length that is left."""
    keep = os.fstat(descriptor).st_size
    while keep and os.pread(descriptor, 1, keep - 1) != b"\n":
        keep -= 1
    os.ftruncate(descriptor, keep)
    return keep


def _keep_name(folder: Path) -> None:
    """Wait until the folder knows its new file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
