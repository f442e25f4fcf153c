"""Progress on the terminal, and the output of libraries in a log file."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tapir.cli.tables import new_console, print_json, print_line
from tapir.data.files import disk_errors
from tapir.domain.errors import Interrupted, TapirError
from tapir.domain.progress import SilentProgress, duration

LOG = "log.txt"

ResultT = TypeVar("ResultT")

_METRICS = {"loss": "loss {:.3f}", "tokens_per_second": "{:,.0f} tokens/s"}
_FIRST_ESTIMATE = 20  # of so many parts of a stage one must be done
_INTERVAL = 10.0  # seconds between two plain lines of one stage


class TerminalProgress(SilentProgress):
    """Rich bars on a terminal, plain lines elsewhere; the first Ctrl-C stops in order."""

    def __init__(self, console: Console, rounds: int, meter: Callable[[], str] | None = None) -> None:
        """Write to `console`; `rounds` is N; `meter` returns what was spent so far."""
        super().__init__()
        self._console, self._rounds, self._meter = console, rounds, meter or str
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._total = self._done = self._before = 0
        self._label = self._metrics = ""
        self._began = self._printed = 0.0
        self._seen: list[tuple[float, int]] = []  # when a line was printed, and how many items were done

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        """Show the start of a stage of which `done` items are there already; the same one may start again."""
        self.close()
        before = "before round 1  " if self._rounds else ""
        self._label = f"round {number}/{self._rounds}  {stage}" if number else f"{before}{stage}"
        self._total, self._done, self._before, self._metrics = total, done, done, ""
        self._began = self._printed = time.monotonic()
        self._seen = [(self._began, done)]
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description:<26}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[meter]}"),
                console=self._console,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task(self._label, total=total, completed=done, meter=self._suffix())

    def advance(self, items: int = 1) -> None:
        """Count items that are finished and on disk."""
        self._done += items
        if self._progress:
            self._progress.update(self._task, completed=self._done, meter=self._suffix())
        elif time.monotonic() - self._printed > _INTERVAL:
            self._printed = time.monotonic()
            self._seen.append((self._printed, self._done))
            text = f"{self._label}  {self._done}/{self._total}  {self._time_left()}  {self._suffix()}"
            print_line(self._console, text.rstrip())

    def finish(self) -> None:
        """Print the line of a complete stage."""
        self.close()
        seconds = time.monotonic() - self._began
        kept = f", {self._before} from before" if self._before else ""
        text = f"{self._label:<26}  {self._total:>5}{kept}  {seconds:6.1f} s  {self._suffix()}"
        print_line(self._console, text.rstrip())

    def note(self, text: str) -> None:
        """Print a note."""
        print_line(self._console, f"  {text}", "yellow")

    def measure(self, **metrics: float) -> None:
        """Show metrics of the stage behind its bar."""
        self._metrics = "  ".join(text.format(metrics[name]) for name, text in _METRICS.items() if name in metrics)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress:
            self._progress.stop()
            self._progress = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Stop in order at the first Ctrl-C (or SIGTERM) while inside, and at once at the second."""
        screen = self._console.file.fileno()

        def on_signal(number: int, _frame: FrameType | None) -> None:
            """Only system calls: a handler that waits for a lock of the display would never return."""
            if self._stopping:
                os.write(screen, b"\x1b[?25h\n" if self._console.is_terminal else b"\n")
                os._exit(128 + number)
            self._stopping = True
            os.write(screen, b"stopping in order; press Ctrl-C again to stop at once\n")

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _time_left(self) -> str:
        """Return an estimate once a twentieth of the work is done: the first replies come late and all at once.

        The later half of the lines decides: what the ledger holds is there at once, what is new is not.
        """
        (then, before), (now, done) = self._seen[(len(self._seen) - 1) // 2], self._seen[-1]
        if (done - self._before) * _FIRST_ESTIMATE < self._total - self._before:
            return ""
        if done == before:
            then, before = self._seen[0]
        if done == before:
            return ""
        return f"about {duration((now - then) / (done - before) * (self._total - done))} left"

    def _suffix(self) -> str:
        return f"{self._metrics}  {self._meter()}".strip()


@contextmanager
def quiet(log: Path) -> Iterator[TextIO]:
    """Send everything that other libraries print, compiled ones too, to `log`; yield the real terminal to write to."""
    with disk_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        sink = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(sink)
    logging.captureWarnings(capture=True)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)
    try:
        with os.fdopen(os.dup(saved[0]), "w", encoding=sys.stdout.encoding, errors="replace") as terminal:
            yield terminal
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # a log that cannot be written to must not hide what went wrong
                stream.flush()
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        logging.captureWarnings(capture=False)
        logging.getLogger().handlers.clear()


def attend(
    folder: Path,
    work: Callable[[TerminalProgress], ResultT],
    show: Callable[[Console, ResultT], None],
    content: Callable[[ResultT], object] | None = None,
    *,
    meter: Callable[[], str] | None = None,
    resume: str = "",
    rounds: int = 0,
) -> None:
    """Do work in a folder with progress on the terminal, then show its result; what libraries print goes to a log.

    With `content`, that is printed as JSON instead, and progress goes to stderr. `meter` returns what was spent so far;
    `resume` is the command that goes on with work that was stopped: the same one, unless given.
    """
    resume = resume or shlex.join(["tapir", *sys.argv[1:]])
    errors = os.fdopen(os.dup(2), "w", encoding=sys.stderr.encoding, errors="replace")
    with errors, quiet(folder / LOG) as output:
        screen = output if content is None else errors
        console = new_console(screen)
        progress = TerminalProgress(console, rounds, meter)
        try:
            with progress.listening():
                result = work(progress)
        except Interrupted as error:
            raise type(error)(str(error), remedy=error.remedy or f"Go on with: {resume}") from error
        except TapirError:
            raise
        except Exception:
            print_line(console, f"unexpected error; libraries wrote to {folder / LOG}", "red")
            print_line(console, f"what is finished is kept: {resume}")
            raise
        finally:
            progress.close()
        if content is None:
            show(console, result)
    if content is not None:
        print_json(content(result))
