"""File of people's reviews of a run: one line of JSON for each rating; incomplete lines do not count."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tapir.data.files import disk_errors, whole_lines
from tapir.data.run.store import end_line
from tapir.domain.errors import DataError

Side: TypeAlias = Literal["student", "reference"]

LONGEST_NAME = 200
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Stars = Annotated[int, Field(ge=1, le=5)]


class Review(BaseModel):
    """One line of reviews.jsonl: one person's answers about one pair; null where a question was left open.

    Difficulty is 1 (very easy) to 5 (very hard), `seconds` the time between display and rating, `time` ISO 8601 in UTC.
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


@dataclass(frozen=True, slots=True)
class ReviewFile:
    """The file that several raters append to, a line at a time; a line that is no review is an error."""

    path: Path

    def latest(self, rater: str) -> dict[str, Review]:
        """Return a rater's last review of each pair, by id."""
        return {review.id: review for review in self.read() if review.rater == rater}

    def read(self) -> Iterator[Review]:
        """Yield every line in order; an unfinished last line does not count."""
        with disk_errors(self.path):
            for number, (_, line) in enumerate(whole_lines(self.path), 1):
                try:
                    yield Review.model_validate_json(line)
                except ValidationError as error:
                    first = error.errors(include_url=False)[0]
                    where = ".".join(map(str, first["loc"]))
                    given = "" if first["type"] == "missing" else f", not {first['input']!r:.60}"
                    raise DataError(
                        f"{self.path}, line {number} is no review: {where and f'{where}: '}{first['msg']}{given}",
                        remedy="Fix or delete this line; all others stay as they are.",
                    ) from error

    def append(self, review: Review) -> bool:
        """Add a line and wait until it is on disk; return False for one that repeats its rater's last review.

        A line that could not be written whole is not in the file.
        """
        with disk_errors(self.path):
            new = not self.path.exists()
            with self.path.open("a+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if new:  # its name must be on disk too
                    folder = os.open(self.path.parent, os.O_RDONLY)
                    try:
                        os.fsync(folder)
                    finally:
                        os.close(folder)
                last = self.latest(review.rater).get(review.id)
                if last == review.model_copy(update={"seconds": last.seconds, "time": last.time} if last else {}):
                    return False
                end_line(file.fileno())
                whole, line = os.fstat(file.fileno()).st_size, review.model_dump_json().encode() + b"\n"
                try:
                    while line:
                        line = line[file.write(line) :]
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(whole)
                    raise
        return True
