"""Atomic writing, errors of the file system, locks, digests."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from tapir.domain.errors import RecipeError, RunLocked, StoreError, StoreFull, TapirError

GO_ON = "give the same command again (of a run: `tapir resume`)"
MADE_AGAIN = f"Delete this file and {GO_ON}; it is made again."
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_SIGNS = (  # the compiled parts of torch and safetensors raise no OSError
    "No space left on device",
    *(f"os error {number}" for number in _FULL),
    "PytorchStreamWriter",
    "inline_container",
)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise errors of the system, torch and safetensors about `path` with a remedy."""
    try:
        yield
    except TapirError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise full(path) from error
        if not isinstance(error, OSError):
            raise
        remedy = "Make it readable and writable, or choose another folder."
        raise StoreError(f"{path}: {error.strerror or error}", remedy=remedy) from error


def is_disk_full(error: BaseException | str) -> bool:
    """Return whether an error, or a line that a program has printed, says that no space is left."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(sign in str(error) for sign in _FULL_SIGNS)


def full(path: Path) -> StoreFull:
    """Return the error for a full disk."""
    return StoreFull(
        f"no space left while writing {path}",
        remedy=f"Free some space and {GO_ON}; everything finished is kept.",
    )


def existing(key: str, name: str) -> Path:
    """Return the file that a key of the recipe, or an option, names, once it could be opened."""
    path, remedy = Path(name).expanduser(), f"The path is relative to {Path.cwd()}; fix it."
    try:
        if path.is_file():
            path.open("rb").close()
            return path
        fault = "this is a folder, not a file" if path.is_dir() else "there is no such file"
    except OSError as error:
        fault, remedy = f"it cannot be read ({error.strerror})", "Make it readable, or name another file."
    raise RecipeError(f"{key} = {name!r}: {fault}", remedy=remedy)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a draft to write to, which replaces `path` once it is on disk."""
    draft = path.with_name(f".{path.name}.draft")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            sync(draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write to, which replaces `folder` once all is written."""
    draft, old = (folder.with_name(f".{folder.name}.{what}") for what in ("draft", "old"))
    try:
        with disk_errors(folder):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            yield draft
            sync(draft)
            shutil.rmtree(old, ignore_errors=True)
            if folder.exists():
                folder.replace(old)
            draft.replace(folder)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sync(path: Path) -> None:
    """Have a file or a folder on the disk, not in a cache: what is only renamed may be empty after a loss of power."""
    for written in (*path.rglob("*"), path):
        descriptor = os.open(written, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def share(folder: Path) -> None:
    """Give everything in a folder the permissions of what the user creates; some libraries write for the owner only."""
    probe = folder / ".probe"
    probe.touch()
    mode = probe.stat().st_mode & 0o666
    probe.unlink()
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(mode | (mode & 0o444) >> 2 if path.is_dir() else mode)


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Replace a JSON file atomically; keys keep their order, so equal content is equal bytes."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def nan_to_null(value: Any) -> Any:
    """Return the same as JSON can hold it: NaN and infinity are null, a dataclass is an object, keys are strings."""
    return to_jsonable_python(value, inf_nan_mode="null", fallback=dict)


def read_json(path: Path, remedy: str = MADE_AGAIN) -> Any:
    """Read a JSON file of a run."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else f"is damaged: {error}"
        raise StoreError(f"{path} {reason}", remedy=remedy) from error


def whole_lines(path: Path, place: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield where each line of a growing file begins, from a place on, and the line; an unfinished one does not count.

    Its process is still writing it, or died while it did. A file that is not there has no lines.
    """
    if path.exists():
        with path.open("rb") as file:
            file.seek(place)
            for line in takewhile(lambda line: line.endswith(b"\n"), file):
                yield place, line
                place += len(line)


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the folder's lock, or `wait` for it; the system releases it when the process ends, however it ends."""
    path = folder / ".lock"
    with disk_errors(path):
        handle = path.open("a+")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise RunLocked(
                f"process {owner} is already running in {folder}",
                remedy="Wait for it (`tapir status` shows how far it is), or choose another folder with --out.",
            ) from error
        except OSError as error:
            remedy = "Choose a folder on a local disk with --out, or mount this one with locks."
            raise StoreError(f"{path}: this file system has no locks ({error.strerror})", remedy=remedy) from error
        with disk_errors(path):
            handle.truncate(0)
            handle.write(f"{os.getpid()}\n")
            handle.flush()
        yield
