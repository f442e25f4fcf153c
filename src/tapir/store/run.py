"""A run directory: what is finished, what is half done, and how both are kept."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir.errors import StoreError
from tapir.store.files import disk_errors, read_json, write_json, write_text
from tapir.store.tables import Row, RowT, corrupt, read_rows, write_rows

CHECKSUMS = "checksums.sha256"
EVENTS = "events.jsonl"


@dataclass(frozen=True, slots=True)
class RunStore:
    """The folder of one run. Progress is what is on disk: a listed, matching file is finished."""

    folder: Path

    def round(self, number: int) -> Path:
        """Folder of a round; round 0 holds the warm-up and the first look at the corpus."""
        return self.folder / f"round-{number}"

    def once(self, name: str, row: type[RowT], make: Callable[[], Iterable[RowT]]) -> list[RowT]:
        """The table `name`, made now or read from where an earlier process left it."""
        if not self.has(name):
            self.write(name, row, make())
        return self.read(name, row)

    def write(self, name: str, row: type[RowT], rows: Iterable[RowT]) -> None:
        """Make the table `name`; from now on it is finished."""
        path = self.folder / f"{name}.parquet"
        write_rows(path, row, rows)
        self._record(path)

    def once_json(self, name: str, make: Callable[[], object]) -> object:
        """The JSON file `name`, made now or read from where an earlier process left it."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_json(path, make())
        return read_json(path)

    def has(self, name: str) -> bool:
        """Whether the table is finished."""
        path = self.folder / f"{name}.parquet"
        return path.exists() and self._key(path) in self._checksums()

    def read(self, name: str, row: type[RowT]) -> list[RowT]:
        """A finished table, whole."""
        return list(self.each(name, row))

    def each(self, name: str, row: type[RowT]) -> Iterator[RowT]:
        """The rows of a finished table, few of them in memory at once.

        Raises:
            TableCorrupt: its bytes are not those that were written.
            StoreError: it is not there.
        """
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            raise StoreError(f"{path} is missing", remedy="Run `tapir resume`; it is made again.")
        if _sha256(path) != self._checksums().get(self._key(path)):
            raise corrupt(path, "its checksum differs")
        yield from read_rows(path, row)

    def verify(self) -> None:
        """Check every finished table that is still there against its checksum."""
        for key, digest in self._checksums().items():
            path = self.folder / key
            if path.exists() and _sha256(path) != digest:
                raise corrupt(path, "its checksum differs")

    def parts(self, name: str) -> Parts:
        """The finished chunks of a table in the making."""
        return Parts(self.folder / f"{name}.parts.jsonl")

    def event(self, kind: str, **facts: object) -> None:
        """Append a line to events.jsonl: when, what, and its facts."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **facts}, ensure_ascii=False)
        path = self.folder / EVENTS
        with disk_errors(path), path.open("a+b") as events:
            _end_line(events.fileno())
            events.write(line.encode(errors="replace") + b"\n")

    def _key(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _checksums(self) -> dict[str, str]:
        path = self.folder / CHECKSUMS
        if not path.exists():
            return {}
        lines = path.read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines if "  " in line)}

    def _record(self, path: Path) -> None:
        known = self._checksums() | {self._key(path): _sha256(path)}
        write_text(self.folder / CHECKSUMS, "".join(f"{known[name]}  {name}\n" for name in sorted(known)))


@dataclass(frozen=True, slots=True)
class Parts:
    """What is finished of a table in the making: each line is a key and what belongs to it.

    A line is whole or it does not count, so a process may die at any moment.
    """

    path: Path

    def read(self) -> dict[str, list[list[object]]]:
        """Rows of every finished chunk, by the chunk's key."""
        return {key: rows for _, key, rows in self.lines()}

    def lines(self) -> Iterator[tuple[int, Any, Any]]:
        """Where each line begins, its key and its rows."""
        if not self.path.exists():
            return
        place = 0
        with self.path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    return  # the process died while writing this line: it is owed again
                try:
                    found = json.loads(line)
                except ValueError:
                    return
                yield place, found["key"], found["rows"]
                place += len(line)

    def at(self, place: int) -> Any:
        """Rows of the line that begins at a place."""
        with self.path.open("rb") as lines:
            lines.seek(place)
            return json.loads(lines.readline())["rows"]

    def append(self, key: object, rows: object) -> int:
        """Add a line and wait until it is on disk; returns where it begins."""
        line = json.dumps({"key": key, "rows": rows}, ensure_ascii=False)
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as parts:
                _end_line(parts.fileno())
                place = os.fstat(parts.fileno()).st_size
                parts.write(line.encode(errors="surrogatepass") + b"\n")
                parts.flush()
                os.fsync(parts.fileno())
        return place

    def drop(self) -> None:
        """Forget the lines: the table they make is on disk."""
        self.path.unlink(missing_ok=True)


def _end_line(descriptor: int) -> None:
    """Cut off a line that an earlier process did not finish."""
    size = os.fstat(descriptor).st_size
    keep = size
    while keep and os.pread(descriptor, 1, keep - 1) != b"\n":
        keep -= 1
    if keep != size:
        os.ftruncate(descriptor, keep)


def cells(row: Row) -> list[object]:
    """A row as JSON can hold it."""
    return [getattr(row, name) for name in row.__dataclass_fields__]


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
