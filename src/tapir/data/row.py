"""What the readers give: rows, and rows that had to be set aside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Format: TypeAlias = Literal["auto", "alpaca", "sharegpt", "messages"]

SHOWN = 500


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a file are called; "" means that there is none.

    A name that no row has as it stands is taken as a path: `instances.0.output` is the output of the first
    instance.

    Attributes:
        conversation: "" stands for `conversations` or `messages`, whichever the layout calls for.
        category: a label that comes with the row, such as its task in the source.
    """

    instruction: str = "instruction"
    input: str = "input"
    response: str = "output"
    conversation: str = ""
    category: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One readable row.

    Attributes:
        text: the instruction, with its input below it where there is a real one.
        response: the answer that came with it; "" where there is none.
        place: where it was read, as in `BadRow`.
    """

    text: str
    response: str
    place: str
    category: str = ""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        place: "corpus.jsonl:17" is line 17 of the file; "corpus.json row 17" is the 17th row of a JSON array,
            of Parquet or of a hub data set. Both count from 1.
        reason: why, in a few words without values, so that reasons can be counted.
        text: the beginning of the row, at most 500 printable characters.
    """

    place: str
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """A row by its column names, before it is known what they mean; `raw` is the line it came from, if any."""

    place: str
    fields: dict[str, Any]
    raw: str = ""


Records: TypeAlias = Iterator[Record | BadRow]


def printable(raw: str | bytes) -> str:
    """The beginning of a row as text that any terminal and any table can hold."""
    start = raw[:SHOWN]
    text = start.decode("utf-8", "backslashreplace") if isinstance(start, bytes) else start
    return "".join(character if character.isprintable() else _escaped(character) for character in text)[:SHOWN]


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
