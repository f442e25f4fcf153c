"""Rows of JSON: one object a line, an array, or objects one after the other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tapir.data.lines import CUT, Line, damaged
from tapir.data.row import BadRow, Record, Records, printable

_NOT_JSON = "not JSON"
_UNREADABLE = (ValueError, RecursionError)  # not JSON, or nested deeper than the parser can go
_BETWEEN = re.compile(r"[\s,]*")
_NEXT_OBJECT = re.compile(r"\}[\s,]*(?=\{)")
_SHOWN = 1_000


def json_rows(lines: Iterator[Line], first: bytes, name: str) -> Records:
    """Rows of a JSON file whose first line is `first`; an array is held in memory as text."""
    return _whole(lines, name) if _spans_lines(first) else _one_a_line(lines, name)


def _one_a_line(lines: Iterator[Line], name: str) -> Records:
    """One object a line; a comma behind it is allowed."""
    for line in lines:
        place = f"{name}:{line.number}"
        if line.damage:
            yield damaged(place, line.damage)
        elif line.raw.strip():
            yield _line(line.raw, place)


def _line(line: bytes, place: str) -> Record | BadRow:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return BadRow(place, "not UTF-8", printable(line))
    try:
        value = json.loads(text.rstrip().removesuffix(","))
    except _UNREADABLE:
        whole = line.endswith(b"\n")
        return BadRow(place, _NOT_JSON if whole else CUT, printable(text))
    return _as_record(value, place, text)


def _as_record(value: Any, place: str, raw: str) -> Record | BadRow:
    if isinstance(value, dict):
        return Record(place, value, raw)
    return BadRow(place, "not an object", printable(raw))


def _spans_lines(first: bytes) -> bool:
    """Whether the JSON that begins with this line is an array of rows, or an object over several lines."""
    if first.strip() == b"{":
        return True
    if not first.lstrip().startswith(b"["):
        return False
    try:
        value = json.loads(first)
    except _UNREADABLE:
        return True
    return not value or any(isinstance(row, dict) for row in value)


def _whole(lines: Iterator[Line], name: str) -> Records:
    """Rows of a JSON array, or of objects one after the other."""
    read = list(lines)
    damage = read[-1].damage
    text = b"".join(line.raw for line in read).decode("utf-8", "surrogateescape")
    read.clear()
    last: Record | BadRow = BadRow(f"{name} row 1", "", "")
    for last in _values(text, name):
        yield last
    if damage and not (isinstance(last, BadRow) and last.reason == CUT):
        yield damaged(last.place, damage)


def _values(text: str, name: str) -> Records:
    """Parse value after value; behind one that cannot be parsed go on at the next object."""
    decoder = json.JSONDecoder()
    row, at = 0, _after_blanks(text, 0)
    bracketed = text.startswith("[", at)
    end_mark = "]" if bracketed else ""
    end_of_rows = len(text.rstrip().removesuffix(end_mark))
    at += bracketed
    while True:
        at = _after_blanks(text, at)
        if at >= end_of_rows and text[end_of_rows:].strip() == end_mark:
            return
        row += 1
        place = f"{name} row {row}"
        try:
            value, end = decoder.raw_decode(text, at)
        except _UNREADABLE:
            further = _NEXT_OBJECT.search(text, at)
            whole = further or text.startswith("]", at) or text.rstrip().endswith(end_mark or "}")
            yield BadRow(place, _NOT_JSON if whole else CUT, printable(text[at : at + _SHOWN]))
            if not further:
                return
            at = further.end()
        else:
            yield _as_record(value, place, "" if isinstance(value, dict) else text[at : at + _SHOWN])
            at = end


def _after_blanks(text: str, at: int) -> int:
    """Where the white space and commas that begin at `at` end."""
    blanks = _BETWEEN.match(text, at)
    return blanks.end() if blanks else at
