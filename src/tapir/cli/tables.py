"""Tables and JSON on the terminal, and the options that every command shares."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from tapir.domain.evaluation import EvalResult
    from tapir.report.estimators import Agreement
    from tapir.report.summary import Summary
    from tapir.report.training import Training

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # bidi ones too
_VERDICTS = {True: "yes", False: "NO", None: "open"}
PLAIN_WIDTH = 120  # columns where the output is not a terminal
_AT_HOME = re.compile(r"^(--[\w-]+=)?~(?=/|$)")
_LEAST_TEXT, _FRAME, _ANY_WIDTH = 12, 3, 10_000  # of a folded text, of the frame around a cell, of any table


class HomeGroup(TyperGroup):
    """Commands whose every argument may begin with ~ for the home folder: shells leave --out=~/x as it is."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of any command below."""
        return super().parse_args(
            ctx, [_AT_HOME.sub(lambda found: f"{found[1] or ''}{Path.home()}", arg) for arg in args]
        )


out_option = partial(typer.Option, "--out")
"""Returns the option --out of a command, with its `help`."""

RecipeName = Annotated[str, typer.Argument(help="TOML file, or name of a shipped recipe.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="key=value that replaces one of the recipe; repeatable.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text (default: no).")]


def print_json(content: object) -> None:
    """Print dataclasses, mappings, sequences and plain values as JSON; a number that is not finite is null."""
    from tapir.data.files import nan_to_null

    escaped = sys.stdout.encoding.lower() != "utf-8"
    text = json.dumps(nan_to_null(content), indent=1, ensure_ascii=escaped, default=str)
    typer.echo(_CONTROLS.sub(lambda sign: f"\\u{ord(sign[0]):04x}", text))


def print_result(content: object, lines: Iterable[str], *, as_json: bool) -> None:
    """Print a result as JSON, or as its lines."""
    if as_json:
        print_json(content)
        return
    for line in lines:
        typer.echo(visible(line))


def visible(text: str) -> str:
    r"""Return a text with its control characters, which a terminal would obey, written out as in `\x1b`."""
    return _CONTROLS.sub(lambda sign: repr(sign[0])[1:-1], text)


def new_console(file: TextIO | None = None, *, plain_width: int = PLAIN_WIDTH) -> Console:
    """Return a console without markup, on stdout unless given: as wide as the terminal, elsewhere of a fixed width."""
    from rich.console import Console

    class VisibleConsole(Console):
        def render_str(self, text: str, **style: Any) -> Text:
            return super().render_str(visible(text), **style)

    width = None if (file or sys.stdout).isatty() else plain_width
    return VisibleConsole(file=file, highlight=False, markup=False, emoji=False, width=width)


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print a line as it is, however long: a path in it stays whole."""
    console.print(text, style=style, soft_wrap=True)


def new_table(title: str, texts: Iterable[str], numbers: Iterable[str], **style: Any) -> Table:
    """Return an empty table with columns of text to the left and of numbers to the right."""
    from rich.table import Column, Table

    columns = [Column(name, overflow="fold") for name in texts] + [Column(name, justify="right") for name in numbers]
    return Table(*columns, title=title, title_justify="left", **style)


def print_table(console: Console, table: Table) -> None:
    """Print a table; where it is too wide, figures break between words and the frame goes before one is cut off."""
    if console.measure(table, options=console.options.update_width(_ANY_WIDTH)).maximum > console.width:
        for column in table.columns:
            column.min_width = _least_width(column)
            column.max_width = column.min_width if column.justify == "right" else None
        if sum(_least_width(column) + _FRAME for column in table.columns) > console.width:
            table.box, table.padding = None, (0, 1, 0, 0)
    console.print(table, crop=False)


def _least_width(column: Column) -> int:
    """Return the width of a column's longest word, or of its longest line where it may not break."""
    from rich.cells import cell_len

    cells = [str(cell) for cell in (column.header, *column.cells)]
    width = max(cell_len(part) for cell in cells for part in (cell.split("\n") if column.no_wrap else cell.split(" ")))
    return width if column.no_wrap or column.justify == "right" else min(width, _LEAST_TEXT)


def result_table(summary: Summary, benchmark: str) -> Table:
    """Return success by task for S_0, each round, and the change in percentage points."""
    from tapir.report.summary import tasks_of

    rounds, gain = summary.benchmark(benchmark), summary.gains.get(benchmark)
    title = f"success on {benchmark} ({rounds[0].overall.n} held-out instructions)"
    table = new_table(title, ["task"], ["n", *(f"S_{result.round}" for result in rounds), "change"])
    for task in tasks_of(rounds):
        results = [result.tasks.get(task) for result in rounds]
        n = max(result.n for result in results if result)
        table.add_row(task, str(n), *map(_percent, results), _change(gain.tasks.get(task) if gain else None, n))
    table.add_section()
    overall = [result.overall for result in rounds]
    cells = map(_percent, overall)
    table.add_row("mean of the tasks", str(overall[0].n), *cells, str(gain) if gain else "-", style="bold")
    return table


def _percent(result: EvalResult | None) -> str:
    return f"{100 * result.value:.{int(result.n >= 100)}f} %" if result else "-"  # noqa: PLR2004


def _change(change: tuple[float, int] | None, shown: int) -> str:
    return f"{change[0]:+.1f}" + f" (n = {change[1]})" * (change[1] != shown) if change else "-"


def show_result(console: Console, summary: Summary, student: str, report: Path | None) -> None:
    """Print the results of a run, its checks and warnings, and what it took."""
    print_table(console, result_table(summary, summary.benchmarks[0]))
    for line in result_lines(summary, summary.benchmarks[1:]):
        print_line(console, line)
    for alarm in summary.alarms:
        if alarm.raised:
            print_line(console, f"warning: {alarm.name} {alarm.figure}. {alarm.meaning}", "yellow")
    path = report or "none; pip install 'tapir-distill[report]', then `tapir report`"
    working_time = f"working time {summary.seconds / 60:.1f} min{_paid(summary)}"
    for line in (working_time, f"student: {student}", f"report: {path}"):
        print_line(console, line)


def result_lines(summary: Summary, benchmarks: Sequence[str]) -> Iterator[str]:
    """Yield a line for each of these benchmarks, each training, each check, and the agreement of estimators."""
    for name in benchmarks:
        rounds = summary.benchmark(name)
        values = " -> ".join(f"{100 * result.overall.value:.1f} %" for result in rounds)
        yield f"{name} (n = {rounds[0].overall.n}): {values}"
    yield from map(training_line, summary.trainings)
    for check in summary.checks:
        yield f"{_VERDICTS[check.holds]:<4} {check.claim}: {check.figures}"
    yield from agreement_lines(summary.agreements)


def _paid(summary: Summary) -> str:
    from tapir.report.summary import sum_spending

    sums = sum_spending(summary.spending)
    paid = f", {sums.calls:,} calls to models" + (f", {sums.cost:.4f} spent" if sums.cost else "") if sums.calls else ""
    return paid + (f", {possibly_billed(sums.possible_calls, sums.possible_cost)}" if sums.possible_calls else "")


def possibly_billed(calls: int, cost: float) -> str:
    """Return how many calls ended without a reply and may have been billed all the same, and their cost at most."""
    return f"possibly billed: {calls:,} calls, at most {cost:.4f}"


def status_lines(summary: Summary, folder: Path, last_event: str) -> Iterator[str]:
    """Yield the state of a run, a line for each benchmark, and what it took so far."""
    from tapir.data.run.store import resume_command

    state = "finished" if summary.finished else f"unfinished; `{resume_command(folder)}` goes on"
    yield f"{folder}: {state}, {summary.seconds / 60:.1f} min of work{_paid(summary)}"
    for name in summary.benchmarks:
        results = summary.benchmark(name)
        yield f"  {name}: " + ", ".join(f"S_{result.round} {100 * result.overall.value:.1f} %" for result in results)
    yield from (f"  {training_line(training)}" for training in summary.trainings[-1:])
    yield from (f"  {line}" for line in agreement_lines(summary.agreements))
    if last_event and not summary.finished:
        yield f"  last: {last_event}"


def training_line(training: Training) -> str:
    """Return a training in a line, without what was not recorded."""
    from tapir.report.training import format_loss

    parts = [
        f"loss {' -> '.join(map(format_loss, training.ends))}" if training.ends else "",
        f"{training.steps:,} steps" if training.steps else "",
        f"{training.tokens_per_second:,.0f} tokens/s" if training.tokens_per_second else "",
        f"{training.seconds:,.0f} s" if training.seconds else "",
        f"{training.too_long} examples left out as too long" if training.too_long else "",
        f"{training.unfit} left out as unfit for the chat template" if training.unfit else "",
        f"{training.cut} cut" if training.cut else "",
        f"{training.preferences} preference pairs" if training.preferences else "",
    ]
    return f"training, {training.name}: {', '.join(filter(None, parts)) or 'done'}"


def agreement_lines(agreements: Sequence[Agreement]) -> Iterator[str]:
    """Yield the rank correlations between estimators of difficulty; nothing where only one was measured."""
    if agreements:
        pairs = "; ".join(f"{agreement.first} and {agreement.second} {agreement.figure}" for agreement in agreements)
        yield f"difficulty, Spearman's rank correlation (95 % interval): {pairs}"
