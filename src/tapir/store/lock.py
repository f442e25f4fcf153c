"""One writer per run directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tapir.errors import RunLocked
from tapir.store.files import disk_errors


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system releases it when the process ends, however it ends.

    Raises:
        RunLocked: another process holds it.
    """
    path = folder / ".lock"
    with disk_errors(path):
        handle = path.open("a+")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise RunLocked(
                f"process {owner} is already running in {folder}",
                remedy="Wait for it (`tapir status` shows how far it is), or choose another folder with --dir.",
            ) from error
        with disk_errors(path):
            handle.seek(0)
            handle.truncate()
            handle.write(f"{os.getpid()}\n")
            handle.flush()
        yield
