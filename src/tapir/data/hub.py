"""Corpora from the Hugging Face hub, or from a folder laid out like one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tapir.data.layouts import rows
from tapir.data.row import BadRow, Columns, Format, Record, Row, printable
from tapir.errors import DataError, MissingExtra

_USUAL = Columns()
_TROUBLE = (OSError, ValueError, RuntimeError)  # what `datasets` raises: no such name, no network, damaged, a script


def read_hub(
    dataset: str, *, split: str = "train", revision: str = "", layout: Format = "auto", columns: Columns = _USUAL
) -> Iterator[Row | BadRow]:
    """Every row of a data set, read as it is asked for.

    Args:
        dataset: a name on the hub, or the path of a local folder.
        split: one of its splits.
        revision: a branch, tag or commit; "" is the newest. A local folder has none.
        layout: as for files.
        columns: as for files.

    Raises:
        MissingExtra: the library `datasets` is not installed.
        DataError: while iterating: there is no such data set or split, it cannot be read to its end, holds no
            rows, or lacks a column that was asked for.
    """
    yield from rows(_records(dataset, split, revision), layout, columns, f"{dataset} ({split})")


def _records(dataset: str, split: str, revision: str) -> Iterator[Record]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra(
            "the library datasets is not installed", remedy="pip install 'tapir-distill[api]'"
        ) from error
    row = 0
    try:
        stream: Any = datasets.load_dataset(dataset, split=split, revision=revision or None, streaming=True)
        for row, fields in enumerate(stream, 1):
            yield Record(f"{printable(dataset)}/{split} row {row}", dict(fields))
    except _TROUBLE as error:
        place = f" after row {row}" if row else ""
        raise DataError(
            f"{dataset} ({split}) cannot be read{place}: {error}",
            remedy="Check the name, the split and the revision; a private data set needs the token HF_TOKEN.",
        ) from error
