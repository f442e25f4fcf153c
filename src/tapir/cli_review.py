"""The command line: `tapir review`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tapir.recipe import Recipe
    from tapir.review.sample import Sample
    from tapir.review.server import Desk

reviews = typer.Typer(rich_markup_mode=None)
"""A small local page where a person rates pairs blind."""


@reviews.command("review")
def review(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    size: Annotated[int, typer.Option("--n", min=1, help="Pairs to rate; more begin with the same ones.")] = 50,
    rater: Annotated[str, typer.Option(help="Who rates; your login by default.")] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    number: Annotated[int, typer.Option("--round", min=0, help="Whose answers: those of this round.")] = 0,
    *,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Rate a sample of a run's pairs blind, on a page of this machine: which is better, how hard, which task."""
    import asyncio

    from tapir import session
    from tapir.review.book import ReviewBook
    from tapir.review.sample import Source, draw
    from tapir.review.server import Desk, serve
    from tapir.store.run import RunStore

    recipe = session.stored_recipe(run)
    name = _named(rater)
    sample = draw(Source(RunStore(run), number, recipe.seed), size)
    book = ReviewBook(run / ("reviews.jsonl" if number == 0 else f"reviews-round-{number}.jsonl"))
    again = ["tapir", "review", str(run), "--n", str(size), "--rater", name, *(["--round", str(number)] * bool(number))]
    desk = Desk(
        run=recipe.name,
        rater=name,
        sample=sample,
        tasks=_labels(recipe, sample),
        book=book,
        after=shlex.join(["tapir", "audit", str(run), "--labels", str(book.path)]),
        again=shlex.join(again),
    )
    seen = len(desk.rated())
    _say_sample(sample, size)
    typer.echo(f"rater {name}: {seen} of {len(sample.pairs)} seen before" if seen else f"rater {name}")
    asyncio.run(serve(desk, port, lambda address: _ready(address, show=show)))
    _say_end(desk)


def _named(rater: str) -> str:
    """The rater's name, on one line.

    Raises:
        DataError: it cannot be one.
    """
    import getpass

    from tapir.errors import DataError
    from tapir.review.book import LONGEST_NAME

    try:
        name = rater.strip() or getpass.getuser()
    except (OSError, KeyError) as error:
        raise DataError("this system does not know who you are", remedy="Say it: --rater NAME.") from error
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise DataError(
            f"--rater {name[:40]!r}: a name has at most {LONGEST_NAME} printable characters",
            remedy="Choose a shorter name without line breaks.",
        )
    return name


def _labels(recipe: Recipe, sample: Sample) -> tuple[str, ...]:
    """The run's taxonomy; where its file is gone, the labels that the run's tagger gave."""
    from tapir import assemble
    from tapir.errors import RecipeError

    try:
        return assemble.taxonomy(recipe).labels
    except RecipeError as error:
        typer.echo(f"the taxonomy cannot be read, so the tasks are those that were tagged: {error}")
        return sample.tasks


def _say_sample(sample: Sample, wanted: int) -> None:
    from tapir.review.sample import BANDS

    count = len(sample.pairs)
    spread = ", ".join(f"{sample.bands[band]} {band}" for band in BANDS if sample.bands.get(band))
    typer.echo(f"{count} of {sample.available:,} pairs: {spread}")
    if count < wanted:
        typer.echo(f"asked for {wanted} pairs; there are no more than these {count}")


def _ready(address: str, *, show: bool) -> None:
    import webbrowser

    typer.echo(f"open {address}")
    typer.echo("every rating is on disk at once; Ctrl-C ends the review and the same command goes on")
    sys.stdout.flush()
    if show and (sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(address)  # where there is no screen it would start a browser in this terminal


def _say_end(desk: Desk) -> None:
    said = desk.rated()
    skipped = sum(one.skipped for one in said.values())
    typer.echo(
        f"{len(said) - skipped} of {len(desk.sample.pairs)} pairs rated by {desk.rater}"
        f"{f', {skipped} skipped' if skipped else ''}: {desk.book.path}"
    )
    typer.echo(f"next: {desk.after if len(said) == len(desk.sample.pairs) else desk.again}")
