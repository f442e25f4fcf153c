"""Readers of corpus files (JSON, JSON Lines, CSV, TSV, Parquet; plain or gzipped) and of data sets of the hub.

A row that cannot be read becomes a `Rejected` with its place, and reading goes on at the next row.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, Unpack

from tapir.data.arrow import parquet_records, table_rows
from tapir.data.delimited import CUT, DAMAGED, Lines, Records, delimited_records
from tapir.data.layouts import Reading, Row, rows
from tapir.data.records import SHOWN, Record, printable
from tapir.domain.errors import DataError, require
from tapir.domain.roles import Rejected

if TYPE_CHECKING:
    from typing_extensions import Buffer

Stream: TypeAlias = "io.BufferedReader[Any]"

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON = (".json", ".jsonl", ".ndjson")
_NOT_JSON = "not JSON"
_UNREADABLE = (ValueError, RecursionError)  # not JSON, or nested deeper than the parser can go
_BEGINS_JSON = re.compile(rb'(?:\[\s*)?\{\s*"|\[\s*\]')  # as no header of a table does
_BLANKS = re.compile(r"[\s,]*(?:\]\s*\[[\s,]*)*")  # or from one array to the next, as in a .jsonl of arrays
_NEXT_OBJECT = re.compile(r"[}\]][\s,]*(?=\{)")
_LAYERS = 3  # of gzip around a file, at most
_BUFFER = 1 << 16
_BATCH = 1_000  # rows of a data set that are read together
_HUB_ERRORS = (OSError, ValueError, RuntimeError)  # of `datasets`: no such name, no network, damaged, a script
# How a file begins that holds no rows, in lower case; what it is, and what to do.
_STRANGERS: dict[bytes | tuple[bytes, ...], tuple[str, str]] = {
    (BOM_UTF16_BE, BOM_UTF16_LE): ("UTF-16", "Save it as UTF-8."),
    b"version https://git-lfs": ("a Git LFS pointer to the file", "Fetch the file itself: `git lfs pull`."),
    (b"<!doctype", b"<html", b"<head", b"<?xml"): (
        "a web page or XML",
        "Download the file itself: an address of the hub has /resolve/ in it, not /blob/.",
    ),
    b"pk\x03\x04": ("a ZIP archive or a workbook of Excel", "Unpack it, or save the sheet as CSV in UTF-8."),
    (b"\x28\xb5\x2f\xfd", b"bzh", b"\xfd7zxz"): ("compressed by another program than gzip", "Unpack it first."),
}


def read_file(path: Path, *, notes: list[str] | None = None, **how: Unpack[Reading]) -> Iterator[Row | Rejected]:
    """Read every row of a corpus file, in order; rows that cannot be used are values in the same stream.

    `notes` gets a line on columns that are not read. Files are .json (an array, or one object a line), .jsonl, .ndjson,
    .csv, .tsv, each also as .gz, and .parquet. They are streamed, except a JSON array, whose text is held in memory.
    """
    yield from rows(records(path), str(path), notes, **how)


def read_hub(
    dataset: str,
    *,
    split: str = "train",
    revision: str = "",
    notes: list[str] | None = None,
    **how: Unpack[Reading],
) -> Iterator[Row | Rejected]:
    """Read every row of a data set, a name on the hub or a local folder, as it is asked for."""
    yield from rows(_hub_records(dataset, split, revision), f"{dataset} ({split})", notes, **how)


def records(path: Path) -> Records:
    """Read every row of a file by its column names, in order.

    The content decides first (gzip, Parquet, a JSON array in a .jsonl), then the suffix. Of a file that is cut or
    damaged everything before that place is read.
    """
    name, inner = printable(path.name), path
    try:
        with io.BufferedReader(io.FileIO(path), _BUFFER) as file:
            stream: Stream = file
            for _ in range(_LAYERS):
                if stream.peek(len(_GZIP)).startswith(_GZIP):
                    stream = io.BufferedReader(_Unpacked(stream), _BUFFER)
                    inner = inner.with_suffix("") if inner.suffix.lower() == ".gz" else inner
            if stream.peek(len(_PARQUET)).startswith(_PARQUET):
                yield from parquet_records(path if stream is file else io.BytesIO(stream.read()), name)
            else:
                yield from _text_records(stream, path, inner.suffix.lower())
    except OSError as error:
        remedy = "Check the path in the recipe."
        raise DataError(f"{path} cannot be read: {error.strerror or error}", remedy=remedy) from error


class _Unpacked(io.RawIOBase):
    """The content of a gzip file, up to where it is cut or damaged; `damage` says which of the two."""

    def __init__(self, packed: BinaryIO) -> None:
        self._stream = gzip.GzipFile(fileobj=packed)
        self.damage = ""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.damage = self.damage if whence else ""
        return self._stream.seek(offset, whence)

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer)
        try:
            chunk = b"" if self.damage else self._stream.read1(len(view))
        except EOFError:
            self.damage, chunk = CUT, b""
        except (zlib.error, gzip.BadGzipFile):
            self.damage, chunk = DAMAGED, b""
        view[: len(chunk)] = chunk
        return len(chunk)


def _text_records(stream: Stream, path: Path, suffix: str) -> Records:
    name, start = printable(path.name), stream.peek(_BUFFER)
    mark = len(BOM_UTF8) * start.startswith(BOM_UTF8)
    start = start[mark:].lstrip()
    for beginning, (kind, remedy) in _STRANGERS.items():
        if start[:_BATCH].lower().startswith(beginning):
            raise DataError(f"{path} is {kind}", remedy=remedy)

    def lines() -> Lines:
        stream.seek(0)
        stream.read(mark)
        return _lines(stream)

    stream.read(mark)
    row: Record | Rejected | None = None
    read: Records = iter(())
    if suffix in _SEPARATORS and not _BEGINS_JSON.match(start):
        read = delimited_records(lines, name, _SEPARATORS[suffix])
    elif start.startswith(b"[") or _goes_on(start, suffix):
        read = _json_values(stream, name)
    elif suffix in _JSON or start.startswith(b"{"):
        read = _json_lines(_lines(stream), name)
    elif start:
        remedy = "Bring .json, .jsonl, .csv or .tsv, plain or as .gz, or .parquet."
        raise DataError(f"{path} is in no format known here", remedy=remedy)
    for row in read:
        yield row
    damage = getattr(stream.raw, "damage", "")
    if damage and not (isinstance(row, Rejected) and row.reason == CUT):
        yield Rejected(f"after {row.place}" if row else f"{name}:1", damage, "")


def _goes_on(start: bytes, suffix: str) -> bool:
    """Return whether the object that begins a file goes on in its second line, so that it is no file of lines."""
    first, end, _ = start.partition(b"\n")
    first = first.rstrip()
    if first == b"{" or not (end and first.startswith(b"{") and suffix == ".json"):
        return first == b"{"
    try:
        json.loads(first.removesuffix(b","))
    except _UNREADABLE:
        return first.endswith((b"[", b"{", b","))
    return False


def _lines(stream: Stream) -> Lines:
    """Yield number and bytes of every line, ended by the line feed alone, without one that damage cuts short."""
    for number, line in enumerate(stream, 1):
        if line.endswith(b"\n") or not getattr(stream.raw, "damage", ""):
            yield number, line


def _json_lines(lines: Lines, name: str) -> Records:
    for number, line in lines:
        place = f"{name}:{number}"
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8-sig")  # files that were joined have a mark in the middle
            yield _record(json.loads(text.rstrip().removesuffix(",")), place, text)  # a comma behind it is allowed
        except UnicodeDecodeError:
            yield Rejected(place, "not UTF-8", printable(line))
        except _UNREADABLE:
            yield Rejected(place, _NOT_JSON if line.endswith((b"\n", b"}")) else CUT, printable(line))


def _record(value: Any, place: str, raw: str) -> Record | Rejected:
    return Record(place, value, raw) if isinstance(value, dict) else Rejected(place, "not an object", printable(raw))


def _json_values(stream: Stream, name: str) -> Records:
    """Read the objects of an array, or one after the other; behind one that is broken go on at the next."""
    pieces = iter(lambda: stream.read1(_BUFFER), b"")  # read() would lose what stands before the damage
    text = b"".join(pieces).decode("utf-8", "surrogateescape")
    decoder, row, line, counted, at = json.JSONDecoder(), 1, 1, 0, _end_of_blanks(text, 0)
    end = "]" if text.startswith("[", at) else "}"
    at = _end_of_blanks(text, at + 1) if end == "]" else at
    filled = next((place for place in range(len(text), 0, -1) if not text[place - 1].isspace()), 0)
    closed = text.endswith(end, 0, filled)  # a stripped text would be a copy of the whole
    last = filled - 1 if closed and end == "]" else len(text)
    while at < last:
        place = f"{name} row {row}"
        try:
            value, after = decoder.raw_decode(text, at)
        except _UNREADABLE:
            further = _NEXT_OBJECT.search(text, at)
            whole = further or text.startswith("]", at) or closed
            after = further.end() if further else len(text)
            line, counted = line + text.count("\n", counted, at), at
            shown = text[at : min(after, at + SHOWN)].rstrip(" \t\r\n,")
            yield Rejected(f"{place} (line {line})", _NOT_JSON if whole else CUT, printable(shown))
            if not further:
                return
        else:
            yield _record(value, place, text[at : min(after, at + SHOWN)])
        row, at = row + 1, _end_of_blanks(text, after)
    if end == "]" and not closed:
        yield Rejected(f"{name} row {row}", CUT, "")


def _end_of_blanks(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks else at


def _hub_records(dataset: str, split: str, revision: str) -> Iterator[Record]:
    require("api", "datasets")
    import datasets

    row = 0
    try:
        stream: Any = datasets.load_dataset(dataset, split=split, revision=revision or None, streaming=True)
        tables = stream.with_format("arrow").iter(batch_size=_BATCH)  # images and audio stay as they are stored
        for row, fields in enumerate((fields for table in tables for fields in table_rows(table)), 1):
            yield Record(f"{printable(dataset)}/{split} row {row}", fields)
    except _HUB_ERRORS as error:
        place = f" after row {row}" if row else ""
        raise DataError(
            f"{dataset} ({split}) cannot be read{place}: {error}",
            remedy="Check the name, the split and the revision; a private data set needs the token HF_TOKEN.",
        ) from error
