"""Reader of tables as text (CSV, TSV): its separator, how quotes are escaped, and rows that are broken or too long."""

from __future__ import annotations

import csv
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeAlias

from tapir.data.records import Record, printable
from tapir.domain.errors import DataError
from tapir.domain.roles import Rejected

Records: TypeAlias = Iterator[Record | Rejected]
Lines: TypeAlias = Iterator[tuple[int, bytes]]

CUT = "the file is cut"
DAMAGED = "the file is damaged"

_LONGEST_FIELD = 1 << 20  # characters
_NO_LIMIT = (1 << 31) - 1  # of the csv module: it would stop in the middle of a field, not behind it
_OTHERS = ",;\t|"
_HEAD = 50  # lines that the separator is found from
_HINT = re.compile(rb"sep=(.)\s*")  # the first line of a file that Excel shall read
_ESCAPE = re.compile(r'\\(["\\]?)')


def delimited_records(lines: Callable[[], Lines], name: str, separator: str) -> Records:
    """Read a table by its header; `lines` begins at its first line again each time.

    Another separator is taken where the header has only that one. Where quotes within quotes are written with a
    backslash, which shows in fewer broken rows, the whole table is read so.
    """
    csv.field_size_limit(_NO_LIMIT)
    separator = _separator([line for _, line in islice(lines(), _HEAD)], separator)
    backslash = any(b'\\"' in line for _, line in lines())
    if backslash:
        faults = _faults(_Source(lines(), separator))
        backslash = faults > 0 and _faults(_Source(lines(), separator, backslash=True)) < faults
    return _rows(_Source(lines(), separator, backslash=backslash), name)


def _separator(head: list[bytes], usual: str) -> str:
    """Return the separator of a table from its first lines: the usual one, or the only other that its header has."""
    if head and (hint := _HINT.fullmatch(head[0])):
        return hint[1].decode("latin-1")
    text = [line.decode("utf-8", "replace").replace("\r", " ") for line in head]
    fitting = []
    for separator in (usual, *_OTHERS.replace(usual, "")):
        widths = [len(fields) for fields in csv.reader(text, delimiter=separator) if fields]
        if widths and widths[0] > 1 and widths.count(widths[0]) * 2 >= len(widths):
            fitting.append(separator)
    return fitting[0] if usual in fitting or len(fitting) == 1 else usual


def _faults(source: _Source) -> float:
    try:
        return sum(isinstance(row, Rejected) for row in _rows(source, ""))
    except DataError:
        return float("inf")


class _Source:
    """The lines of a table, and which of them the last row took; they can be put back but the first.

    With `backslash` one stands before a quote within quotes.
    """

    def __init__(self, lines: Lines, separator: str, *, backslash: bool = False) -> None:
        self._lines = ((number, line) for number, line in lines if number > 1 or not _HINT.fullmatch(line))
        self._again: deque[tuple[int, bytes]] = deque()
        self._separator, self._backslash = separator, backslash
        self.taken: list[tuple[int, bytes]] = []

    def row(self) -> list[str]:
        """Read one row; raises csv.Error where its quotes are broken, StopIteration at the end."""
        self.taken.clear()
        escape = "\\" if self._backslash else None
        return next(csv.reader(self._texts(), delimiter=self._separator, escapechar=escape, strict=True))

    def put_back(self) -> None:
        """Put back what the last row took, but for its first line."""
        self._again.extendleft(reversed(self.taken[1:]))

    def _texts(self) -> Iterator[str]:
        while line := self._again.popleft() if self._again else next(self._lines, None):
            self.taken.append(line)
            text = line[1].decode("utf-8", "surrogateescape")
            # for the csv module, to which a backslash before anything else is to be one
            yield _ESCAPE.sub(lambda met: met[0] if met[1] else "\\\\", text) if self._backslash else text


def _rows(source: _Source, name: str) -> Records:
    """Yield the rows; where quotes are broken, reject the first line and go on at the next."""
    header = list[str]()
    while True:
        try:
            fields = source.row()
        except StopIteration:
            return
        except csv.Error as error:
            number, line = source.taken[0]
            if not header:
                remedy = "Name the columns in the first line, and end lines with a line feed (LF or CRLF)."
                raise DataError(f"{name}:{number} is no header: {error}", remedy=remedy) from error
            why = "a carriage return outside quotes" if "new-line" in str(error) else "broken quotes"
            yield Rejected(f"{name}:{number}", why, printable(line))
            source.put_back()
            continue
        if not header:
            header = _header(fields, name)
        elif fields:
            raw = b"".join(line for _, line in source.taken).decode("utf-8", "surrogateescape")
            yield _record(f"{name}:{source.taken[0][0]}", header, fields, raw)


def _record(place: str, header: list[str], fields: list[str], raw: str) -> Record | Rejected:
    if any(len(field) > _LONGEST_FIELD for field in fields):
        return Rejected(place, "field too long", printable(raw))
    if len(fields) < len(header) or any(fields[len(header) :]):  # empty ones at the end come from a spreadsheet
        return Rejected(place, "wrong number of fields", printable(raw))
    return Record(place, dict(zip(header, fields, strict=False)), raw)


def _header(fields: list[str], name: str) -> list[str]:
    header = [field.strip() for field in fields]
    if twice := sorted(field for field, count in Counter(header).items() if field and count > 1):
        raise DataError(f"{name} has two columns called {twice[0]!r}", remedy="Rename one of them.")
    return header
