"""Files as records: JSON, JSON Lines, CSV, TSV and Parquet, plain or gzipped, damaged or not.

Lines end at the line feed only: other Unicode line breaks are part of the text. Everything is streamed, except a JSON
array, whose text is held in memory at once.
"""

from __future__ import annotations

import gzip
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import replace
from itertools import chain
from pathlib import Path

from tapir.data.csv_rows import csv_rows
from tapir.data.json_rows import json_rows
from tapir.data.lines import Stream, lines_of
from tapir.data.parquet_rows import parquet_rows
from tapir.data.row import Records, printable
from tapir.errors import DataError

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON = (".json", ".jsonl", ".ndjson")


def records(path: Path) -> Records:
    """Every row of a file, in order.

    The content decides first (gzip, Parquet, a JSON array in a .jsonl), then the suffix. A row that cannot be
    read is set aside and the next one is read. Of a file that is cut everything before the cut is given.

    Raises:
        DataError: the file cannot be opened, is not text, or is in a format not known here.
    """
    name = printable(path.name)
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start == _PARQUET:
                yield from parquet_rows(path, name)
            elif start.startswith(_GZIP):
                with gzip.open(file) as stream:
                    yield from _text(stream, path.with_suffix("") if path.suffix.lower() == ".gz" else path, name)
            else:
                yield from _text(file, path, name)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}", remedy="Check the path in the recipe."
        ) from error


def _text(stream: Stream, path: Path, name: str) -> Records:
    """Rows of a text format."""
    suffix = path.suffix.lower()
    lines = lines_of(stream)
    first = next((line for line in lines if line.damage or line.raw.removeprefix(BOM_UTF8).strip()), None)
    if first is None:
        return
    if first.raw.startswith((BOM_UTF16_BE, BOM_UTF16_LE)):
        raise DataError(f"{path} is UTF-16", remedy="Save it as UTF-8.")
    first = replace(first, raw=first.raw.removeprefix(BOM_UTF8))
    lines = chain([first], lines)
    if suffix in _SEPARATORS:
        yield from csv_rows(lines, name, _SEPARATORS[suffix])
    elif suffix in _JSON or first.raw.lstrip().startswith((b"{", b"[")):
        yield from json_rows(lines, first.raw, name)
    else:
        raise DataError(
            f"{path} is in no format known here",
            remedy="Bring .json, .jsonl, .csv or .tsv, plain or as .gz, or .parquet.",
        )
