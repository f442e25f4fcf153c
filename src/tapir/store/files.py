"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tapir.errors import StoreError, StoreFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors about `path` into ours, with the remedy.

    Raises:
        StoreFull: no space is left.
        StoreError: the path cannot be written or read.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise full(path) from error
        raise StoreError(
            f"{path}: {error.strerror or error}", remedy="Choose a folder you can write to with --dir."
        ) from error


def full(path: Path) -> StoreFull:
    """The one error for a full disk."""
    return StoreFull(
        f"no space left while writing {path}",
        remedy="Free some space and run `tapir resume` on the same folder; everything finished is kept.",
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` once it is safely on disk."""
    draft = path.with_name(f".{path.name}.draft")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            with draft.open("rb") as written:
                os.fsync(written.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Replace a JSON file atomically; keys keep their order, so equal content is equal bytes."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, remedy: str = "Delete this file and run `tapir resume`; it is made again.") -> Any:
    """Parse a JSON file of ours.

    Raises:
        StoreError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", remedy=remedy) from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}", remedy=remedy) from error
