"""The command line: `tapir study`."""

from __future__ import annotations

from functools import partial
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapir.cli.tables import (
    AsJson,
    new_console,
    new_table,
    out_option,
    print_json,
    print_line,
    print_result,
    print_table,
)

if TYPE_CHECKING:
    from tapir.runs.study.results import StudyResult


def study(  # noqa: PLR0913 (the options of a command)
    source: Annotated[str, typer.Argument(metavar="STUDY", help="A TOML file or the name of a shipped study.")] = "gym",
    folder: Annotated[Path | None, out_option(help="Folder to write the study to (default: studies/NAME).")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Number of runs in parallel.")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of each run.")] = 1,
    only: Annotated[list[str] | None, typer.Option("--only", help="A variant; repeatable (default: all).")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="A seed; repeatable (default: all).")] = None,
    *,
    plan: Annotated[bool, typer.Option("--plan", help="Check every recipe and list the runs; run nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a grid of variants and seeds at the same budget and tabulate the results; stopped, it goes on."""
    from tapir.runs import study as package
    from tapir.runs.study.format import to_json

    grid = package.read(source)
    place = folder or Path("studies") / grid.name
    runs = package.runs_of(grid, only or (), seeds or ())
    if plan:
        package.check(grid, runs)
        plans = [
            (run.variant, run.seed, run.recipe.curriculum.alpha().rounds, run.recipe.curriculum.size) for run in runs
        ]
        content = [dict(zip(("variant", "seed", "rounds", "size"), each, strict=True)) for each in plans]
        lines = [*starmap("{:<24} seed {:<6} {} x {} examples".format, plans), f"{len(runs)} runs; nothing was run"]
        print_result(content, lines, as_json=as_json)
        return
    result = package.execute(grid, place, runs, parallel=jobs, threads=threads, report=partial(typer.echo, err=as_json))
    if as_json:
        print_json(to_json(result))
    else:
        _show(result, place)
    if result.failed:
        raise typer.Exit(1)


def _show(result: StudyResult, folder: Path) -> None:
    from tapir.runs.study import format as formatting

    console = new_console(plain_width=200)
    first, *columns = formatting.head(result)
    table = new_table(f"study {result.study.name}: mean over the seeds [95 % interval]", [first], columns)
    for row in formatting.rows(result):
        table.add_row(*row, style="bold" if row[0] == result.study.baseline else "")
    print_table(console, table)
    if result.missing:
        failed = f", {len(result.failed)} of them failed" if result.failed else ""
        print_line(console, f"{len(result.missing)} runs are not finished{failed}; the same command goes on with them")
    names = [name for name in ("results.md", "results.json", "figure.svg", "figure.png") if (folder / name).exists()]
    print_line(console, f"written: {', '.join(str(folder / name) for name in names)}")
