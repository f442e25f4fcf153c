"""The terminal: progress that tells the truth, the closing table, and quiet from everybody else."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO, TypeAlias, TypeVar

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
from rich.table import Table

from tapir.domain.completion import Usage
from tapir.domain.round import EvalResult
from tapir.errors import Interrupted, TapirError
from tapir.report.estimators import Agreement
from tapir.report.summary import Summary, tasks_of
from tapir.report.training import Training, written
from tapir.store.files import disk_errors

LOG = "log.txt"
Counted: TypeAlias = tuple[Sequence[str], int, Usage, float]
"""What was paid for, calls, tokens, money."""

_FIGURES = {"loss": "loss {:.3f}", "tokens_per_second": "{:,.0f} tokens/s"}
_EVERY = 10.0  # seconds between two plain lines of one stage


class TerminalWatch:
    """Rich bars on a terminal, plain lines elsewhere; the first Ctrl-C stops in order."""

    def __init__(self, console: Console, rounds: int, meter: Callable[[], str] | None = None) -> None:
        """Write to `console`; `rounds` is N; `meter` says what was spent so far."""
        self._meter = meter or str
        self._console = console
        self._rounds = rounds
        self._stopping = False
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._total = self._done = self._before = 0
        self._label = self._figures = ""
        self._began = self._spoke = 0.0

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        """A stage begins; `done` items are there already."""
        before = "before round 1  " if self._rounds else ""
        self._label = f"round {number}/{self._rounds}  {stage}" if number else f"{before}{stage}"
        self._total, self._done, self._before = total, done, done
        self._figures = ""
        self._began = self._spoke = time.monotonic()
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
            self._task = self._progress.add_task(self._label, total=total, completed=done, meter=self._beside())

    def advance(self, items: int = 1) -> None:
        """Items are finished and on disk."""
        self._done += items
        if self._progress:
            self._progress.update(self._task, completed=self._done, meter=self._beside())
        elif time.monotonic() - self._spoke > _EVERY:
            self._spoke = time.monotonic()
            left = (self._spoke - self._began) / max(1, self._done - self._before) * (self._total - self._done)
            self._console.print(
                f"{self._label}  {self._done}/{self._total}  about {left:.0f} s left  {self._beside()}".rstrip(),
                highlight=False,
            )

    def finish(self) -> None:
        """The stage is complete."""
        self._close()
        seconds = time.monotonic() - self._began
        kept = f", {self._before} from before" if self._before else ""
        self._console.print(
            f"{self._label:<26}  {self._total:>5}{kept}  {seconds:6.1f} s  {self._beside()}".rstrip(), highlight=False
        )

    def note(self, text: str) -> None:
        """A fact worth a line."""
        self._console.print(f"  {text}", style="yellow", highlight=False, markup=False)

    def measure(self, **figures: float) -> None:
        """How the stage is doing, beside its bar."""
        self._figures = "  ".join(text.format(figures[name]) for name, text in _FIGURES.items() if name in figures)

    @property
    def stopping(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._stopping

    def check(self) -> None:
        """Raise `Interrupted` after Ctrl-C."""
        if self._stopping:
            raise Interrupted("stopped; everything finished is on disk")

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._close()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While inside, the first Ctrl-C (or SIGTERM) stops in order and the second at once."""
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

    def _beside(self) -> str:
        return f"{self._figures}  {self._meter()}".strip()

    def _close(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None


@contextmanager
def quiet(log: Path) -> Iterator[TextIO]:
    """Send everything that other libraries print to `log`; yield the real terminal to write to.

    Standard output and error are redirected at the level of the system, so that progress bars, warnings
    and messages of compiled code go to the log too.
    """
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
        with os.fdopen(os.dup(saved[0]), "w", encoding="utf-8") as terminal:
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


ResultT = TypeVar("ResultT")
PLAIN_WIDTH = 120  # columns where the output is not a terminal


@dataclass(frozen=True, slots=True)
class Attended:
    """A person at a terminal watches work in a folder; what libraries print goes to the folder's log.

    Attributes:
        resume: the command that goes on with work that was stopped.
        rounds: N; 0 where there are none.
        meter: says what was spent so far.
    """

    folder: Path
    resume: str
    rounds: int = 0
    meter: Callable[[], str] | None = None

    def do(self, work: Callable[[TerminalWatch], ResultT], show: Callable[[Console, ResultT], None]) -> None:
        """Do the work with progress on the terminal, then show what it gave.

        Raises:
            Interrupted: it was stopped; the remedy is the command to go on with.
        """
        with quiet(self.folder / LOG) as screen:
            console = Console(file=screen, width=None if screen.isatty() else PLAIN_WIDTH)
            watch = TerminalWatch(console, self.rounds, self.meter)
            try:
                with watch.listening():
                    result = work(watch)
            except Interrupted as error:
                raise type(error)(str(error), remedy=error.remedy or f"Go on with: {self.resume}") from error
            except TapirError:
                raise
            except Exception:
                console.print(f"unexpected error; libraries wrote to {self.folder / LOG}", style="red", markup=False)
                console.print(f"what is finished is kept: {self.resume}", markup=False)
                raise
            finally:
                watch.close()
            show(console, result)


def result_table(summary: Summary, benchmark: str) -> Table:
    """Success by task for S_0, each round, and the change in percentage points."""
    found = summary.benchmark(benchmark)
    table = Table(title=f"success on {benchmark} ({found[0].overall.n} held-out instructions)", title_justify="left")
    table.add_column("task")
    table.add_column("n", justify="right")
    for one in found:
        table.add_column(f"S_{one.round}", justify="right")
    table.add_column("change", justify="right")
    for task in tasks_of(found):
        results = [one.tasks.get(task) for one in found]
        n = max(one.n for one in results if one)
        table.add_row(task, str(n), *("-" if one is None else _percent(one) for one in results), _change(results))
    table.add_section()
    overall = [one.overall for one in found]
    table.add_row("mean of the tasks", str(overall[0].n), *map(_percent, overall), _change(overall), style="bold")
    return table


def _percent(result: EvalResult) -> str:
    return f"{100 * result.value:.0f} %" if result.n < 100 else f"{100 * result.value:.1f} %"  # noqa: PLR2004


def _change(results: Sequence[EvalResult | None]) -> str:
    first, last = results[0], results[-1]
    return f"{100 * (last.value - first.value):+.1f}" if first and last else "-"


def show_result(console: Console, summary: Summary, student: str, report: Path | None) -> None:
    """What a person wants to know at the end."""
    first, *others = summary.benchmarks
    console.print(result_table(summary, first))
    for name in others:
        found = summary.benchmark(name)
        values = " -> ".join(f"{100 * one.overall.value:.1f} %" for one in found)
        console.print(f"{name} (n = {found[0].overall.n}): {values}", highlight=False)
    for training in summary.trainings:
        console.print(training_line(training), highlight=False)
    for check in summary.checks:
        console.print(f"{'yes' if check.holds else 'NO ':<4} {check.claim}: {check.figures}", highlight=False)
    if line := agreement_line(summary.agreements):
        console.print(line, highlight=False)
    for alarm in summary.alarms:
        if alarm.raised:
            console.print(f"look {alarm.name}: {alarm.figure}. {alarm.meaning}", highlight=False, style="yellow")
    spent = sum(one.cost for one in summary.spending)
    calls = sum(one.calls for one in summary.spending)
    paid = f", {calls:,} calls to models" + (f", {spent:.4f} spent" if spent else "") if calls else ""
    console.print(f"working time {summary.seconds / 60:.1f} min{paid}", highlight=False)
    console.print(f"student: {student}", highlight=False, soft_wrap=True, markup=False)
    if report:
        console.print(f"report: {report}", highlight=False, soft_wrap=True, markup=False)
    else:
        console.print(
            "no report: pip install 'tapir-distill[report]', then `tapir report`", highlight=False, markup=False
        )


def training_line(one: Training) -> str:
    """One training in a line; what was not recorded is left out."""
    ends = f"loss {written(one.ends[0])} -> {written(one.ends[1])}" if one.ends else ""
    figures = [
        ends,
        f"{one.steps:,} steps" if one.steps else "",
        f"{one.tokens_per_second:,.0f} tokens/s" if one.tokens_per_second else "",
        f"{one.seconds:,.0f} s" if one.seconds else "",
        f"{one.too_long} examples left out as too long" if one.too_long else "",
        f"{one.cut} cut" if one.cut else "",
        f"{one.preferences} preference pairs" if one.preferences else "",
    ]
    return f"training, {one.name}: {', '.join(filter(None, figures)) or 'done'}"


def agreement_line(found: Sequence[Agreement]) -> str:
    """Rank correlations between estimators of difficulty in a line; empty where only one was measured."""
    pairs = "; ".join(f"{one.first} and {one.second} {one.figure}" for one in found)
    return f"difficulty, Spearman's rank correlation (95 % interval): {pairs}" if pairs else ""


def money_table(names: Sequence[str], rows: Iterable[Counted]) -> Table:
    """Calls, tokens and money by whatever the names say; rows of the same name are added up."""
    table = Table()
    for name in names:
        table.add_column(name)
    for name in ("calls", "tokens in", "tokens out", "money"):
        table.add_column(name, justify="right")
    totals: dict[tuple[str, ...], list[float]] = {}
    for key, count, usage, money in rows:
        total = totals.setdefault(tuple(key), [0.0, 0.0, 0.0, 0.0])
        for place, value in enumerate((count, usage.prompt_tokens, usage.completion_tokens, money)):
            total[place] += value
    for key, (calls, read, wrote, cost) in totals.items():
        table.add_row(*key, f"{calls:,.0f}", f"{read:,.0f}", f"{wrote:,.0f}", f"{cost:.4f}")
    return table
