"""Records as a source holds them, before their layout is known."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

from tapir.domain.roles import Rejected

SHOWN = 500

_KEYS = ("data", "rows", "train", "examples", "instances", "items", "records", "samples")  # that rows stand under
_NUMBER = re.compile(r"(:| row )\d+$")


class Record(NamedTuple):
    """A row by its column names, before its layout is known.

    Its place, "corpus.jsonl:17", is line 17 of the file; "corpus.json row 17" is the 17th row of a JSON array, of
    Parquet or of a data set of the hub.
    """

    place: str
    fields: dict[str, Any]
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that a file holds and Python cannot; a row that needs it is rejected with the reason."""

    reason: str


def printable(raw: str | bytes) -> str:
    """Return the beginning of a row, at most 500 characters, with everything else than printable text escaped."""
    start = raw[:SHOWN]
    text = start.decode("utf-8", "backslashreplace") if isinstance(start, bytes) else start
    escaped = (sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)
    return "".join(escaped)[:SHOWN]


def unwrapped(
    records: Iterable[Record | Rejected], wanted: Collection[str], notes: list[str] | None = None
) -> Iterator[Record | Rejected]:
    """Yield the records; where the only one has none of the columns wanted, the rows under one of its keys."""
    records = iter(records)
    head = list(islice(records, 2))
    if len(head) == 1 and isinstance(head[0], Record) and (inner := _inner_rows(head[0].fields, wanted))[0]:
        others = [key for key, value in head[0].fields.items() if key != inner[0] and isinstance(value, list)]
        if notes is not None and others:
            notes.append(f"rows read: those under {printable(inner[0])}, not under {printable(', '.join(others))}")
        name = _NUMBER.sub("", head[0].place)
        return (Record(f"{name} row {number}", fields) for number, fields in enumerate(inner[1], 1))
    return chain(head, records)


def _inner_rows(fields: dict[str, Any], wanted: Collection[str]) -> tuple[str, Sequence[dict[str, Any]]]:
    """Return a key of an object and the rows that stand under it; none where the object is a row itself."""
    if any(name.split(".")[0] in fields for name in wanted):
        return "", ()
    lists = {
        key: [row["row"] if isinstance(row.get("row"), dict) else row for row in values]
        for key, values in fields.items()
        if isinstance(values, list) and values and all(isinstance(value, dict) for value in values)
    }
    fitting = (key for key in (*_KEYS, *lists) if key in lists and any(name in lists[key][0] for name in wanted))
    key = next(fitting, next((key for key in _KEYS if key in lists), ""))
    return key, lists.get(key, ())
