"""Instruction corpora as people have them: files here, data sets of the hub in `tapir.data.hub`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tapir.data.formats import records
from tapir.data.hub import read_hub
from tapir.data.layouts import rows
from tapir.data.row import BadRow, Columns, Format, Row

__all__ = ["BadRow", "Columns", "Format", "Row", "read_file", "read_hub"]

_USUAL = Columns()


def read_file(path: Path, *, layout: Format = "auto", columns: Columns = _USUAL) -> Iterator[Row | BadRow]:
    """Every row of a corpus file, in order; rows that cannot be used are values in the same stream.

    Files are .json (an array, or one object a line), .jsonl, .ndjson, .csv, .tsv, each also as .gz, and .parquet.
    They are streamed, except a JSON array, whose text is held in memory.

    Of a conversation the first question and the first answer to it are read, with what the system said
    before; later turns are left out.

    Raises:
        DataError: while iterating: the file cannot be opened, holds no rows, is in a format not known here, or
            lacks a column that was asked for.
    """
    yield from rows(records(path), layout, columns, str(path))
