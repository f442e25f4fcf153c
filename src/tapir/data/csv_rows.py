"""Rows of CSV and TSV with a header."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

from tapir.data.lines import Line, damaged
from tapir.data.row import BadRow, Record, Records, printable
from tapir.errors import DataError

_LONGEST_FIELD = 1 << 20  # characters; it bounds what an open quote can swallow


class _Lines:
    """Lines of a table, decoded; those of the row being read are kept, so that they can be read again.

    Attributes:
        cut: where and why the file ended too early, once it has.
    """

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._again: deque[tuple[int, str]] = deque()
        self._taken: list[tuple[int, str]] = []
        self.cut: Line | None = None

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self._again:
            line = self._again.popleft()
        else:
            read = next(self._lines)
            if read.damage:
                self.cut = read
                raise StopIteration
            line = (read.number, read.raw.decode("utf-8", "surrogateescape"))
        self._taken.append(line)
        return line[1]

    def done(self) -> tuple[int, str]:
        """Number and text of the row just read."""
        number, text = self._taken[0][0], "".join(line for _, line in self._taken)
        self._taken.clear()
        return number, text

    def first_only(self) -> tuple[int, str]:
        """Number and text of the first line of the row that could not be read; the others are read again."""
        (number, text), *rest = self._taken
        self._again.extendleft(reversed(rest))
        self._taken.clear()
        return number, text


def csv_rows(read: Iterator[Line], name: str, separator: str) -> Records:
    """Rows of a table by the names in its header.

    Where the quotes of a row are broken, its first line is set aside and reading goes on at the next line.

    Raises:
        DataError: the header cannot be read, or names two columns alike.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    lines = _Lines(read)
    header: list[str] = []
    while True:
        try:
            fields = next(csv.reader(lines, delimiter=separator, strict=True))
        except StopIteration:
            break
        except csv.Error as error:
            number, text = lines.first_only()
            if not header:
                raise DataError(
                    f"{name}:{number} is no header: {error}", remedy="Name the columns in the first line."
                ) from error
            yield BadRow(f"{name}:{number}", "broken quotes", printable(text))
            continue
        number, text = lines.done()
        if not header:
            header = _header(fields, name)
        elif len(fields) == len(header):
            yield Record(f"{name}:{number}", dict(zip(header, fields, strict=True)), text)
        elif fields:
            yield BadRow(f"{name}:{number}", "wrong number of fields", printable(text))
    if lines.cut and lines.cut.damage:
        yield damaged(f"{name}:{lines.cut.number}", lines.cut.damage)


def _header(fields: list[str], name: str) -> list[str]:
    header = [field.strip() for field in fields]
    twice = sorted({field for field in header if header.count(field) > 1})
    if twice:
        raise DataError(f"{name} has two columns called {twice[0]!r}", remedy="Rename one of them.")
    return header
