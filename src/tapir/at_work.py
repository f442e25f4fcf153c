"""While work is done in a folder: what is held, who can be called, and how it ended."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tapir import __version__
from tapir.roles import Calls, Resource, Watch
from tapir.store.files import read_json
from tapir.store.run import RunStore
from tapir.watching import write_spending


@contextmanager
def opened(resources: Sequence[Resource], store: RunStore, watch: Watch) -> Iterator[None]:
    """While inside, the roles may hold memory, servers and clusters; afterwards they hold nothing."""
    with ExitStack() as held:
        for one in resources:
            held.callback(one.close)
            one.open(store.folder, watch)
        yield


@contextmanager
def connected(calls: Calls | None, store: RunStore, watch: Watch) -> Iterator[None]:
    """While inside, the roles can make their calls; what they cost is written down when it ends."""
    if calls is None:
        yield
        return
    run = read_json(store.folder / "manifest.json").get("run", "")
    calls.open(store.folder, run, watch)
    try:
        yield
    finally:
        try:
            write_spending(store, calls)
        finally:
            calls.close()


@contextmanager
def recorded(store: RunStore) -> Iterator[None]:
    """Write down when work begins and how it ends."""
    store.event("session", pid=os.getpid(), tapir=__version__)
    try:
        yield
    except BaseException as error:
        store.event("stopped", why=type(error).__name__, message=str(error))
        raise
    store.event("done")
