"""Requests that wait for a batch, on disk: their number takes no memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tapir.store.files import disk_errors

MOST_LINES = 50_000  # requests in one batch, as the protocol allows
MOST_BYTES = 100_000_000  # in one file, likewise
CHAT = "/v1/chat/completions"  # the protocol wants this path, wherever the server itself is

_LINE = b'{"custom_id":"%s","method":"POST","url":"' + CHAT.encode() + b'","body":%s}\n'
# Some readers of lines take these for line breaks; in JSON they only stand inside of strings.
_BREAKS = tuple((one.encode(), b"\\u%04x" % ord(one)) for one in "\x85\u2028\u2029")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the spool a request's body begins, and its length in bytes."""

    start: int
    length: int


class Scratch:
    """A file without a name, gone when it is closed or the process is killed.

    Raises:
        StoreError: the disk is full or not writable.
    """

    def __init__(self, folder: Path) -> None:
        """An empty file on the disk of this folder."""
        self._folder = folder
        with disk_errors(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def write(self, piece: bytes) -> None:
        """Add to its end; not after `read`."""
        with disk_errors(self._folder):
            self._file.write(piece)

    def clear(self) -> None:
        """Begin again."""
        with disk_errors(self._folder):
            self._file.seek(0)
            self._file.truncate()

    def read(self) -> IO[bytes]:
        """The file, at its beginning."""
        with disk_errors(self._folder):
            self._file.seek(0)
        return self._file


class Spool:
    """The bodies of requests, one behind the other."""

    def __init__(self, folder: Path) -> None:
        """An empty spool on the disk of this folder.

        Raises:
            StoreError: nothing can be written there.
        """
        self._folder = folder
        self._end = 0
        with disk_errors(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by close)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def scratch(self) -> Scratch:
        """Another file on the same disk."""
        return Scratch(self._folder)

    def add(self, sent: bytes) -> Place:
        """Keep a body.

        Raises:
            StoreError: the disk is full.
        """
        for plain, escaped in _BREAKS:
            sent = sent.replace(plain, escaped)
        place = Place(self._end, len(sent))
        with disk_errors(self._folder):
            self._file.seek(self._end)
            self._file.write(sent)
        self._end += len(sent)
        return place

    def body(self, place: Place) -> bytes:
        """A body that was kept."""
        with disk_errors(self._folder):
            self._file.seek(place.start)
            return self._file.read(place.length)

    def line(self, digest: bytes, place: Place) -> bytes:
        """A request as a line of a batch, known by its digest."""
        return _LINE % (digest.hex().encode(), self.body(place))


def line_length(digest: bytes, place: Place) -> int:
    """Bytes of a request's line."""
    return len(_LINE % (b"", b"")) + 2 * len(digest) + place.length


def portions(requests: Iterable[tuple[bytes, Place]]) -> Iterator[list[tuple[bytes, Place]]]:
    """The requests in their order, as many together as one batch may hold."""
    portion: list[tuple[bytes, Place]] = []
    size = 0
    for digest, place in requests:
        length = line_length(digest, place)
        if portion and (len(portion) == MOST_LINES or size + length > MOST_BYTES):
            yield portion
            portion, size = [], 0
        portion.append((digest, place))
        size += length
    if portion:
        yield portion
