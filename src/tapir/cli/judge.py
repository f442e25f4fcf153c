"""The command line: `tapir audit` and `tapir review`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from tapir.cli.tables import AsJson, new_console, new_table, print_json, print_table
from tapir.domain.errors import DataError, RecipeError

if TYPE_CHECKING:
    from rich.console import Console

    from tapir.config.recipe import Recipe
    from tapir.evaluation.audit.audit import Audit
    from tapir.report.review.sample import ReviewSample

_COLUMNS = 3  # judges side by side in one table
_HEAD = 26  # width of the name above a column


def audit(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Files of judged pairs, or folders of runs.")
    ],
    labels: Annotated[
        list[Path] | None,
        typer.Option("--labels", help="A file of labels, e.g. reviews.jsonl of `tapir review`; repeatable."),
    ] = None,
    judge: Annotated[str, typer.Option(help="Name of the judge where the rows have none (default: judge).")] = "",
    reference: Annotated[
        str, typer.Option(help="Judge to compare the others with (default: the people in the sources and labels).")
    ] = "",
    number: Annotated[
        int | None, typer.Option("--round", help="Round of a run whose judgements are audited (default: the first).")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Audit a judge from recorded judgements, without a call: agreement, biases, variance, cost."""
    from tapir.evaluation.audit.audit import audit as compute
    from tapir.evaluation.audit.audit import to_json
    from tapir.evaluation.audit.readers import open_all

    result = compute(open_all(sources, labels or (), reference=reference, judge=judge, number=number))
    if as_json:
        print_json(to_json(result))
    else:
        _show_audit(new_console(), result)


def _show_audit(console: Console, result: Audit) -> None:
    """Print the tables, the findings, what could not be computed, and what was read."""
    from rich.box import SIMPLE_HEAD

    from tapir.evaluation.audit.audit import TITLES, cell, findings, missing, rows

    for section in result.sections:
        judges = [column for column in section.columns if not column.reference]
        references = [column for column in section.columns if column.reference]
        width = _COLUMNS - bool(references)
        against = f" (reference: {result.reference})" if result.reference and section.kind != "difficulty" else ""
        for start in range(0, max(1, len(judges)), width):
            console.print()
            console.print(f"{TITLES[section.kind]}{against}", style="bold")
            columns = [*judges[start : start + width], *references]
            names = ["\n".join(wrap(column.name, _HEAD)) for column in columns]
            style = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "show_edge": False}
            table = new_table("", ["value [95 % interval] n"], names, **style)
            for head in table.columns:
                head.no_wrap = True
            for row in rows(section):
                table.add_row(row.title, *(cell(row, column.figures.get(row.key)) for column in columns))
            print_table(console, table)
        for line in findings(section, result.reference):
            console.print(line)
    for line in [*filter(None, map(missing, result.sections)), *result.notes]:
        console.print(line, style="dim")


def review(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    size: Annotated[int, typer.Option("--n", min=1, help="Number of pairs to rate.")] = 50,
    rater: Annotated[str, typer.Option(help="Name of the rater (default: your login).")] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1 (default: any free one).")] = 0,
    number: Annotated[int, typer.Option("--round", min=0, help="Round whose answers are rated.")] = 0,
    *,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Rate a sample of a run's pairs blind on a local page: the better answer, difficulty, task."""
    import asyncio

    from tapir.data.run.reader import RunReader
    from tapir.data.run.reviews import ReviewFile
    from tapir.data.run.store import RunStore
    from tapir.report.review.sample import BANDS, draw
    from tapir.report.review.server import ReviewSession, serve
    from tapir.runs import session

    recipe = session.stored_recipe(run)
    name = _rater_name(rater)
    sample = draw(RunReader(RunStore(run)), number, recipe.seed, size)
    file = ReviewFile(run / ("reviews.jsonl" if number == 0 else f"reviews-round-{number}.jsonl"))
    again = ["tapir", "review", str(run), "--n", str(size), "--rater", name, *(["--round", str(number)] * bool(number))]
    review_session = ReviewSession(
        run=recipe.name,
        rater=name,
        sample=sample,
        tasks=_labels(recipe, sample),
        file=file,
        after=shlex.join(["tapir", "audit", str(run), "--labels", str(file.path)]),
        again=shlex.join(again),
    )
    seen, count = len(review_session.rated()), len(sample.pairs)
    spread = ", ".join(f"{sample.bands[band]} {band}" for band in BANDS if sample.bands.get(band))
    typer.echo(f"{count} of {sample.available:,} pairs: {spread}")
    if count < size:
        typer.echo(f"asked for {size} pairs; there are no more than these {count}")
    typer.echo(f"rater {name}: {seen} of {count} seen before" if seen else f"rater {name}")
    asyncio.run(serve(review_session, port, lambda address: _ready(address, show=show)))
    rated = review_session.rated()
    skipped = sum(each.skipped for each in rated.values())
    also = f", {skipped} skipped" if skipped else ""
    typer.echo(f"{len(rated) - skipped} of {count} pairs rated by {name}{also}: {file.path}")
    typer.echo(f"next: {review_session.after if len(rated) == count else review_session.again}")


def _rater_name(rater: str) -> str:
    import getpass

    from tapir.data.run.reviews import LONGEST_NAME

    try:
        name = rater.strip() or getpass.getuser()
    except (OSError, KeyError) as error:
        raise DataError("the login name is unknown", remedy="Pass --rater NAME.") from error
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise DataError(
            f"--rater {name[:40]!r}: a name has at most {LONGEST_NAME} printable characters",
            remedy="Choose a shorter name without line breaks.",
        )
    return name


def _labels(recipe: Recipe, sample: ReviewSample) -> tuple[str, ...]:
    """Return the labels of the run's taxonomy, or those that the tagger gave where its file is gone."""
    from tapir.runs.corpus import taxonomy

    try:
        return taxonomy(recipe).labels
    except RecipeError as error:
        typer.echo(f"the taxonomy cannot be read, so the tasks are those that were tagged: {error}")
        return sample.tasks


def _ready(address: str, *, show: bool) -> None:
    import webbrowser

    typer.echo(f"open {address}")
    typer.echo("every rating is on disk at once; Ctrl-C ends the review and the same command goes on")
    sys.stdout.flush()
    if show and (sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(address)  # where there is no screen it would start a browser in this terminal
