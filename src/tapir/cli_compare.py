"""The command line: `tapir compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tapir.study import StudyResult

compares = typer.Typer(rich_markup_mode=None)


@compares.command()
def compare(
    study: Annotated[str, typer.Argument(help="A TOML file or the name of a shipped study.")] = "gym",
    folder: Annotated[Path | None, typer.Option("--dir", help="Folder of the study; studies/NAME by default.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs beside each other.")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of each run.")] = 1,
    only: Annotated[list[str] | None, typer.Option("--only", help="A variant; repeatable. All by default.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="A seed; repeatable. All by default.")] = None,
    *,
    dry: Annotated[bool, typer.Option("--plan", help="Check every recipe and say what would be run.")] = False,
) -> None:
    """Run a grid of variants and seeds at the same budget, and say what it shows; stopped, it goes on."""
    from tapir import study as studies

    grid = studies.read(study)
    place = folder or Path("studies") / grid.name
    wanted = studies.jobs(grid, only or (), seeds or ())
    if dry:
        studies.check(grid, wanted)
        for job in wanted:
            plan = job.recipe.curriculum
            typer.echo(f"{job.variant:<24} seed {job.seed:<6} {plan.alpha().rounds} x {plan.size} examples")
        typer.echo(f"{len(wanted)} runs; nothing was run")
        return
    found = studies.compare(grid, place, wanted, at_once=jobs, threads=threads, say=typer.echo)
    _show(found, place)
    if found.failed:
        raise typer.Exit(1)


def _show(found: StudyResult, folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from tapir.study import words
    from tapir.terminal import PLAIN_WIDTH

    console = Console(highlight=False, width=None if sys.stdout.isatty() else max(PLAIN_WIDTH, 200))
    table = Table(title=f"study {found.study.name}: mean over the seeds [95 % interval]", title_justify="left")
    for place, column in enumerate(words.head(found)):
        table.add_column(column, justify="right" if place else "left", overflow="fold")
    for row in words.rows(found):
        table.add_row(*row, style="bold" if row[0] == found.study.baseline else "")
    console.print(table)
    if found.missing:
        failed = f", {len(found.failed)} of them failed" if found.failed else ""
        console.print(f"{len(found.missing)} runs are not finished{failed}; the same command goes on with them")
    names = [name for name in ("results.md", "results.json", "figure.svg", "figure.png") if (folder / name).exists()]
    console.print(f"written: {', '.join(str(folder / name) for name in names)}", soft_wrap=True)
