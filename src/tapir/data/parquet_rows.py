"""Rows of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tapir.data.lines import DAMAGED
from tapir.data.row import BadRow, Record, Records, printable
from tapir.errors import DataError

_BATCH = 1_000


def parquet_rows(path: Path, name: str) -> Records:
    """Rows of a Parquet file, a thousand at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is cut or damaged: {error}", remedy="Write or download it again; Parquet needs its end."
        ) from error
    row = 0
    with file:
        batches = file.iter_batches(batch_size=_BATCH)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                yield BadRow(f"{name} row {row + 1}", DAMAGED, printable(str(error)))
                return
            if batch is None:
                return
            for found in _batch_rows(batch):
                row += 1
                place = f"{name} row {row}"
                yield BadRow(place, "not UTF-8", printable(found)) if isinstance(found, bytes) else Record(place, found)


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | bytes]:
    """Rows of an Arrow batch; bytes stand for a row that has text which is not UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            yield error.object
            return
        for at in range(batch.num_rows):
            yield from _batch_rows(batch.slice(at, 1))
