"""The command line: `tapir audit`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from tapir.audit.auditing import Audit, Column, Section

audits = typer.Typer(rich_markup_mode=None)

_COLUMNS = 3  # judges side by side in one table
_HEAD = 26  # columns of the name above one


@audits.command("audit")
def audit(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Files of judged pairs or ratings, or folders of runs.")
    ],
    labels: Annotated[
        list[Path] | None,
        typer.Option("--labels", help="A file of labels, e.g. reviews.jsonl of `tapir review`; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write every figure to this file, as JSON.")] = None,
    layout: Annotated[
        str, typer.Option("--format", help="Force a format of the sources; seen from the rows by default.")
    ] = "auto",
    judge: Annotated[str, typer.Option(help="What the judge is called, where the rows do not say.")] = "",
    reference: Annotated[str, typer.Option(help="The judge to compare the others with, instead of people.")] = "",
    number: Annotated[
        int | None,
        typer.Option("--round", help="Of a run: the round whose judgements are audited; the first by default."),
    ] = None,
) -> None:
    """Audit a judge from recorded judgements, without a call: agreement, biases, variance, cost."""
    from rich.console import Console

    from tapir.audit.auditing import audit as audited
    from tapir.audit.sources import Reading, open_all
    from tapir.audit.words import as_json
    from tapir.store.files import write_json
    from tapir.terminal import PLAIN_WIDTH

    found = audited(open_all(sources, labels or (), Reading(layout, judge, number), reference))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    _show(console, found)
    if out:
        write_json(out, as_json(found))
        console.print(f"all figures: {out}", markup=False, soft_wrap=True)


def _show(console: Console, found: Audit) -> None:
    """The tables, what stands out, what could not be computed, and what was read."""
    from tapir.audit.words import TITLES, findings, missing

    for section in found.sections:
        judges = [one for one in section.columns if not one.is_reference]
        beside = [one for one in section.columns if one.is_reference]
        width = _COLUMNS - bool(beside)
        against = f" (reference: {found.reference})" if found.reference and section.kind != "difficulty" else ""
        for start in range(0, max(1, len(judges)), width):
            console.print()
            console.print(f"{TITLES[section.kind]}{against}", style="bold", markup=False)
            console.print(_table(section, [*judges[start : start + width], *beside]))
        for line in findings(section, found.reference):
            console.print(line, markup=False)
    for section in found.sections:
        if line := missing(section):
            console.print(line, markup=False, style="dim")
    for line in found.notes:
        console.print(line, markup=False, style="dim")


def _table(section: Section, columns: Sequence[Column]) -> object:
    from rich import box
    from rich.table import Table

    from tapir.audit.words import cell, rows

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("value [95 % interval] n", no_wrap=True)
    for one in columns:
        table.add_column("\n".join(wrap(one.name, _HEAD)), justify="right", no_wrap=True)
    for row in rows(section):
        table.add_row(row.title, *(cell(row, one.figures.get(row.key)) for one in columns))
    return table
