"""Typed tables: a frozen dataclass is the row, its annotations are the Parquet schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, get_type_hints

from tapir.data.files import GO_ON, replacing
from tapir.domain.errors import TableCorrupt
from tapir.domain.instruction import Turn

if TYPE_CHECKING:
    import pyarrow as pa


class TableRow(Protocol):
    """A dataclass of strings, numbers, truth values, and tuples of strings, of whole numbers or of turns."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


RowT = TypeVar("RowT", bound=TableRow)

_GROUP = 2048  # rows in memory at once while a table is written or read


def schema_of(row: type[TableRow]) -> pa.Schema:
    """Return the Parquet schema of a row class."""
    import pyarrow as pa

    types: dict[object, pa.DataType] = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
        tuple[str, ...]: pa.list_(pa.string()),
        tuple[int, ...]: pa.list_(pa.int64()),
        tuple[Turn, ...]: pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    }
    types |= {kind | None: types[kind] for kind in (str, int, float)}
    hints = get_type_hints(row)
    return pa.schema([(field.name, types[hints[field.name]]) for field in dataclasses.fields(row)])


def write_rows(path: Path, row: type[RowT], rows: Iterable[RowT]) -> int:
    """Replace a Parquet table atomically, and return how many rows there were.

    Equal rows give equal bytes, and few of them are in memory at once.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = schema_of(row)
    source, count = iter(rows), 0
    with replacing(path) as draft, pq.ParquetWriter(draft, schema, compression="zstd") as table:
        while group := list(islice(source, _GROUP)):
            columns = {name: [getattr(item, name) for item in group] for name in schema.names}
            table.write_table(pa.table(columns, schema=schema))
            count += len(group)
    return count


def read_rows(path: Path, row: type[RowT]) -> Iterator[RowT]:
    """Read the rows of a table in order, a group at a time.

    Columns that an earlier version did not write have their default.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = schema_of(row)
    lists = {field.name for field in schema if pa.types.is_list(field.type)}
    try:
        with pq.ParquetFile(path, memory_map=False) as table:
            fields = dataclasses.fields(row)
            needed = sum(field.default is dataclasses.MISSING for field in fields)  # those with a default are the last
            schema = pa.schema(list(schema)[: max(needed, len(table.schema_arrow))])
            if not table.schema_arrow.equals(schema):
                raise corrupt(path, "its columns are others")
            for batch in table.iter_batches(_GROUP):
                columns = [
                    list(map(_items, batch[name].to_pylist())) if name in lists else batch[name].to_pylist()
                    for name in schema.names
                ]
                yield from map(row, *columns)
    except (pa.ArrowException, OSError) as error:
        raise corrupt(path, str(error).splitlines()[0]) from error


def _items(cell: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(Turn(**item) if isinstance(item, dict) else item for item in cell)


def corrupt(path: Path, why: str) -> TableCorrupt:
    """Return the error for a table that is not what was written."""
    return TableCorrupt(
        f"{path} is not the table that was written: {why}",
        remedy=f"Delete it (rm {path}) and {GO_ON}: it is made again with equal bytes.",
    )
