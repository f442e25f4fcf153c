"""Rows of Arrow tables and Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tapir.data.delimited import DAMAGED, Records
from tapir.data.records import Record, Unreadable, printable
from tapir.data.turns import NOT_UTF8
from tapir.domain.errors import DataError
from tapir.domain.roles import Rejected

_BATCH = 1_000  # rows that are read together
_JSON = "extension<arrow.json>"
# A time zone that is not known, and JSON that is broken or too deep, too.
_INCONVERTIBLE = (ValueError, OverflowError, LookupError, NotImplementedError, RecursionError)


def parquet_records(file: Path | BinaryIO, name: str) -> Records:
    """Read every row of a Parquet file, up to where it is damaged."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        source = parquet.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        remedy = "Write or download it again; Parquet needs its end."
        raise DataError(f"{name} is cut or damaged: {error}", remedy=remedy) from error
    row = 0
    with source:
        try:
            for batch in source.iter_batches(batch_size=_BATCH):
                for fields in table_rows(batch):
                    row += 1
                    yield Record(f"{name} row {row}", fields)
        except (pa.ArrowException, OSError) as error:
            yield Rejected(f"{name} row {row + 1}", DAMAGED, printable(str(error)))


def table_rows(table: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table; a value that Python cannot hold is `Unreadable`."""
    names = table.schema.names
    columns = [_values(name, table.column(place)) for place, name in enumerate(names)]
    return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _values(name: str, column: Any) -> list[Any]:
    try:
        values = list(column.to_pylist())
        return [_parsed(value, column.type) for value in values] if _JSON in str(column.type) else values
    except _INCONVERTIBLE:
        return [_value(name, each) for each in column]


def _value(name: str, scalar: Any) -> Any:
    try:
        return _parsed(scalar.as_py(), scalar.type)
    except UnicodeDecodeError:
        return Unreadable(NOT_UTF8)
    except _INCONVERTIBLE:
        return Unreadable(f"the value in {name} cannot be read")


def _parsed(value: Any, kind: Any) -> Any:
    """Return a value of a type with the JSON in it parsed, as which `datasets` stores what differs from row to row."""
    if value is None or _JSON not in str(kind):
        return value
    if isinstance(value, str):
        return json.loads(value)
    if isinstance(value, dict):
        return {field.name: _parsed(value[field.name], field.type) for field in kind}
    return [_parsed(each, kind.value_type) for each in value] if hasattr(kind, "value_type") else value
