"""Lines of a file, plain or gzipped, up to where it is cut or damaged."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tapir.data.row import BadRow

CUT = "the file is cut"
DAMAGED = "the file is damaged"

_CHUNK = 1 << 16
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file with its line feed; `damage` says why the file ends within it, where it should not."""

    number: int
    raw: bytes
    damage: Exception | None = None


class Stream(Protocol):
    """A file, plain or unpacked as it is read."""

    def read1(self, size: int, /) -> bytes:
        """At most so many bytes, in one step."""


def lines_of(stream: Stream) -> Iterator[Line]:
    """Lines, ended by the line feed alone."""
    number = 1
    parts: list[bytes] = []
    damage: Exception | None = None
    while True:
        try:
            chunk = stream.read1(_CHUNK)
        except _DAMAGE as error:
            damage = error
            break
        if not chunk:
            break
        *ended, rest = chunk.split(b"\n")
        for end in ended:
            yield Line(number, b"".join((*parts, end, b"\n")))
            number += 1
            parts.clear()
        parts.append(rest)
    last = b"".join(parts)
    if last or damage:
        yield Line(number, last, damage)


def damaged(place: str, error: Exception) -> BadRow:
    """What stands for everything after the place where a file ends too early or is not what was packed."""
    return BadRow(place, CUT if isinstance(error, EOFError) else DAMAGED, "")
