"""Event log of a run, and the sessions of its resources and calls."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field

from tapir.data.files import read_json, write_json
from tapir.data.run.store import RunStore
from tapir.domain.progress import Progress
from tapir.domain.roles import Calls, Resource
from tapir.version import __version__

_INTERVAL = 30.0  # seconds between two lines about the progress of a stage, at least
_REST = 20.0  # times what a line took, until the next one: to add up a large ledger takes seconds


@dataclass(slots=True)
class EventLog:
    """Progress callbacks that also write events.jsonl and spending.json."""

    progress: Progress
    store: RunStore
    calls: Calls | None = None
    _open: tuple[int, str, float] = field(default=(0, "", 0.0))
    _done: int = 0
    _total: int = 0
    _logged: float = 0.0
    _took: float = 0.0

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        """Log that a stage begins."""
        self._open = (number, stage, time.monotonic())
        self._done, self._total, self._logged = done, total, time.monotonic()
        if self.calls:
            self.calls.enter(number, stage)
        self.store.event("stage", round=number, stage=stage, total=total, done=done)
        self.progress.start(number, stage, total, done)

    def advance(self, items: int = 1) -> None:
        """Report finished items; now and then log how many there are, and save what was spent."""
        self._done += items
        if (now := time.monotonic()) - self._logged > max(_INTERVAL, _REST * self._took):
            number, stage, _ = self._open
            self.store.event("progress", round=number, stage=stage, total=self._total, done=self._done)
            write_spending(self.store, self.calls)
            self._logged = time.monotonic()
            self._took = self._logged - now
        self.progress.advance(items)

    def finish(self) -> None:
        """Log that the stage is complete, and save what was spent."""
        number, stage, began = self._open
        self.store.event("finished", round=number, stage=stage, seconds=round(time.monotonic() - began, 3))
        write_spending(self.store, self.calls)
        self.progress.finish()

    def note(self, text: str) -> None:
        """Log a fact worth a line."""
        self.store.event("note", text=text)
        self.progress.note(text)

    def measure(self, **figures: float) -> None:
        """Log metrics of the running stage."""
        self.store.event("figures", round=self._open[0], stage=self._open[1], **figures)
        self.progress.measure(**figures)

    @property
    def stopping(self) -> bool:
        """Whether the user asked to stop."""
        return self.progress.stopping

    def check(self) -> None:
        """Raise `Interrupted` if the user asked to stop."""
        self.progress.check()


def write_spending(store: RunStore, calls: Calls | None) -> None:
    """Save what was paid so far in spending.json, for the report and `tapir status`; nothing where nobody is called."""
    if calls:
        write_json(store.folder / "spending.json", [asdict(spending) for spending in calls.spent()])


@contextmanager
def open_resources(resources: Sequence[Resource], store: RunStore, progress: Progress) -> Iterator[None]:
    """Open a session of every resource; all are released at the end."""
    with ExitStack() as stack:
        for resource in resources:
            stack.callback(resource.close)
            resource.open(store.folder, progress)
        yield


@contextmanager
def open_calls(calls: Calls | None, store: RunStore, progress: Progress) -> Iterator[None]:
    """Open a session of calls to paid models; what was spent is saved at the end."""
    if calls is None:
        yield
        return
    run = read_json(store.folder / "manifest.json").get("run", "")
    calls.open(store.folder, run, progress)
    with closing(calls):
        try:
            yield
        finally:
            write_spending(store, calls)


@contextmanager
def record_session(store: RunStore) -> Iterator[None]:
    """Log when a session begins and how it ends."""
    store.event("session", pid=os.getpid(), tapir=__version__)
    try:
        yield
    except BaseException as error:
        store.event("stopped", why=type(error).__name__, message=str(error))
        raise
    store.event("done")
