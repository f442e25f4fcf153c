"""The run directory: tables with checksums, chunks of unfinished tables, events."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from tapir.data.files import MADE_AGAIN, disk_errors, sha256, whole_lines, write_json, write_text
from tapir.data.run.tables import RowT, TableRow, corrupt, read_rows, write_rows
from tapir.domain.errors import RunExists, StoreError

CHECKSUMS = "checksums.sha256"
EVENTS = "events.jsonl"
_BEGUN = {".lock", "log.txt", "manifest.json", ".manifest.json.draft"}


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run directory; one that cannot be looked into is a `StoreError`."""
    with disk_errors(folder):
        return (folder / "recipe.json").is_file()


def resume_command(folder: Path) -> str:
    """Return the command that goes on with a run, to be pasted into a shell."""
    return shlex.join(["tapir", "resume", str(folder)])


def claim_folder(folder: Path, marker: str, what: str) -> bool:
    """Make a folder and return whether it has its `marker` file; without one it may hold no more than a beginning."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    if marker not in names and names - {*_BEGUN, f".{marker}.draft"}:
        raise RunExists(f"{folder} is not empty and {what}", remedy="Choose another folder with --out.")
    return marker in names


@dataclass(frozen=True, slots=True)
class RunStore:
    """The folder of one run. Progress is what is on disk: a listed, matching file is finished."""

    folder: Path

    def round(self, number: int) -> Path:
        """Return the folder of a round; round 0 is before round 1."""
        return self.folder / f"round-{number}"

    def once(self, name: str, row: type[RowT], make: Callable[[], Iterable[RowT]]) -> list[RowT]:
        """Return the table `name`: made now, or read where an earlier process finished it."""
        if not self.has(name):
            self.write(name, row, make())
        return self.read(name, row)

    def write(self, name: str, row: type[RowT], rows: Iterable[RowT]) -> None:
        """Write the table `name` and record its checksum; from now on it is finished."""
        file, known = f"{name}.parquet", self.checksums()
        if known.pop(file, ""):  # of a table that is made again: whenever this is killed, it must not be the new one's
            self.write_checksums(known)
        write_rows(self.folder / file, row, rows)
        self.write_checksums(known | {file: sha256(self.folder / file)})

    def write_checksums(self, known: Mapping[str, str]) -> None:
        """Record the digests of all finished tables, by the names of their files."""
        write_text(self.folder / CHECKSUMS, "".join(f"{known[name]}  {name}\n" for name in sorted(known)))

    def once_json(self, name: str, make: Callable[[], object]) -> None:
        """Make the JSON file `name`, unless an earlier process finished it."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_json(path, make())

    def has(self, name: str) -> bool:
        """Return whether the table is finished."""
        return (self.folder / f"{name}.parquet").exists() and f"{name}.parquet" in self.checksums()

    def read(self, name: str, row: type[RowT]) -> list[RowT]:
        """Read a finished table."""
        return list(self.each(name, row))

    def each(self, name: str, row: type[RowT]) -> Iterator[RowT]:
        """Read the rows of a finished table, few of them in memory at once."""
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            raise StoreError(f"{path} is missing", remedy=MADE_AGAIN)
        if sha256(path) != self.checksums().get(f"{name}.parquet"):
            raise corrupt(path, "its checksum differs")
        yield from read_rows(path, row)

    def verify(self) -> None:
        """Check every finished table that is still there against its checksum."""
        for key, digest in self.checksums().items():
            path = self.folder / key
            if path.exists() and sha256(path) != digest:
                raise corrupt(path, "its checksum differs")

    def parts(self, name: str) -> ChunkFile:
        """Return the finished chunks of an unfinished table."""
        return ChunkFile(self.folder / f"{name}.parts.jsonl")

    def event(self, kind: str, **facts: object) -> None:
        """Append a line to events.jsonl: when, what, and its facts."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **facts}, ensure_ascii=False)
        path = self.folder / EVENTS
        with disk_errors(path), path.open("a+b") as events:
            end_line(events.fileno())
            events.write(line.encode(errors="replace") + b"\n")

    def checksums(self) -> dict[str, str]:
        """Return the digest of every finished table, by the name of its file."""
        path = self.folder / CHECKSUMS
        if not path.exists():
            return {}
        lines = path.read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines if "  " in line)}


@dataclass(frozen=True, slots=True)
class ChunkFile:
    """Finished chunks of an unfinished table: each line, a key and its rows, is whole or does not count."""

    path: Path

    def read(self) -> dict[str, list[list[object]]]:
        """Read the rows of every finished chunk, by its key."""
        return {key: rows for _, key, rows in self.lines()}

    def lines(self) -> Iterator[tuple[int, Any, Any]]:
        """Yield where each line begins, its key and its rows."""
        for place, line in whole_lines(self.path):
            try:
                chunk = json.loads(line)
            except ValueError:
                return
            yield place, chunk["key"], chunk["rows"]

    def at(self, place: int, key: str) -> Any:
        """Read the rows of an item from the line that begins at a place."""
        with self.path.open("rb") as lines:
            lines.seek(place)
            line = json.loads(lines.readline())
        several = isinstance(line["key"], list)  # items on one line, as earlier versions wrote them
        return line["rows"][line["key"].index(key)] if several else line["rows"]

    def append(self, chunks: Iterable[tuple[object, object]]) -> list[int]:
        """Append a line for each key and its rows, wait until all are on disk, and return where each begins."""
        texts = (json.dumps({"key": key, "rows": rows}, ensure_ascii=False) for key, rows in chunks)
        lines = [text.encode(errors="surrogatepass") + b"\n" for text in texts]
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as parts:
                end_line(parts.fileno())
                size = os.fstat(parts.fileno()).st_size
                parts.write(b"".join(lines))
                parts.flush()
                os.fsync(parts.fileno())
        return list(accumulate(map(len, lines[:-1]), initial=size))

    def drop(self) -> None:
        """Delete the file: the table is on disk."""
        self.path.unlink(missing_ok=True)


def end_line(descriptor: int) -> None:
    """Cut off a line that an earlier process did not finish."""
    size = os.fstat(descriptor).st_size
    keep = size
    while keep and os.pread(descriptor, 1, keep - 1) != b"\n":
        keep -= 1
    if keep != size:
        os.ftruncate(descriptor, keep)


def cells(row: TableRow) -> list[object]:
    """Return the cells of a row for JSON."""
    return [getattr(row, name) for name in row.__dataclass_fields__]
