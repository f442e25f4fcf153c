"""Typed tables: a frozen dataclass is the row, its annotations are the Parquet schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, get_type_hints

from tapir.errors import TableCorrupt
from tapir.store.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa


class Row(Protocol):
    """Any dataclass of strings, numbers, truth values and tuples of strings."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


RowT = TypeVar("RowT", bound=Row)


def schema_of(row: type[Row]) -> pa.Schema:
    """The Parquet schema of a row class."""
    import pyarrow as pa

    types: dict[object, pa.DataType] = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
        tuple[str, ...]: pa.list_(pa.string()),
    }
    types |= {kind | None: types[kind] for kind in (str, int, float)}
    hints = get_type_hints(row)
    return pa.schema([(field.name, types[hints[field.name]]) for field in dataclasses.fields(row)])


def write_rows(path: Path, row: type[RowT], rows: Sequence[RowT]) -> None:
    """Replace a Parquet table atomically; equal rows give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = schema_of(row)
    columns = {name: [getattr(item, name) for item in rows] for name in schema.names}
    with replacing(path) as draft:
        pq.write_table(pa.table(columns, schema=schema), draft, compression="zstd")


def read_rows(path: Path, row: type[RowT]) -> list[RowT]:
    """Read a table back as its rows.

    Raises:
        TableCorrupt: the file is not such a table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, schema=schema_of(row), memory_map=False)
    except (pa.ArrowException, OSError) as error:
        raise corrupt(path, str(error).splitlines()[0]) from error
    lists = {field.name for field in table.schema if pa.types.is_list(field.type)}
    columns = [
        [tuple(cell) for cell in table[name].to_pylist()] if name in lists else table[name].to_pylist()
        for name in table.column_names
    ]
    return [row(*cells) for cells in zip(*columns, strict=True)]


def corrupt(path: Path, why: str) -> TableCorrupt:
    """The one error for a table that is not what was written."""
    return TableCorrupt(
        f"{path} is not the table that was written: {why}",
        remedy=f"Delete it (rm {path}) and run `tapir resume`: it is made again with equal bytes.",
    )
