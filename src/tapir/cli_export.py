"""The command line: `tapir export | push`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tapir.errors import RecipeError

exports = typer.Typer(rich_markup_mode=None)


class What(StrEnum):
    """What leaves the run."""

    student = "student"
    dataset = "dataset"
    mixture = "mixture"


@exports.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    what: Annotated[
        What,
        typer.Option(
            "--what",
            help="The student with a model card; the data with a data card; or the mixture as files and"
            " configurations for other trainers.",
        ),
    ] = What.student,
    number: Annotated[
        int | None, typer.Option("--round", help="Of this round; the last student, or the data of all rounds, without.")
    ] = None,
    base: Annotated[
        str, typer.Option("--base", help="Model that the configurations of a mixture train, e.g. a hub id.")
    ] = "",
    *,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="An adapter as it is, without merging it into its model.")
    ] = False,
) -> None:
    """Write what a run made, as others can load it."""
    from tapir import assemble, session
    from tapir.export.dataset import export_dataset
    from tapir.export.mixture import export_mixture
    from tapir.export.model import export_model
    from tapir.store.run import RunStore

    recipe, store = session.stored_recipe(run), RunStore(run)
    if adapter and what is not What.student:
        raise RecipeError(f"--adapter has no effect with --what {what.value}", remedy="Leave it out.")
    if base and what is not What.mixture:
        raise RecipeError(f"--base has no effect with --what {what.value}", remedy="Leave it out.")
    if what is What.student:
        found = export_model(store, out, number, adapter=adapter, settings=assemble.model_settings(recipe))
    elif what is What.dataset:
        found = export_dataset(store, out, number)
    else:
        found = export_mixture(store, out, number, base=base)
    for note in found.notes:
        typer.echo(note)
    typer.echo(str(found.folder))


@exports.command()
def push(
    folder: Annotated[Path, typer.Argument(help="An export.")],
    repo: Annotated[str, typer.Argument(help="Repository of the hub, as in owner/name.")],
    *,
    public: Annotated[bool, typer.Option("--public", help="Everybody may see a new repository.")] = False,
    message: Annotated[str, typer.Option("--message", help="Of the commit.")] = "",
) -> None:
    """Upload an export to the Hugging Face hub; nothing else ever uploads anything."""
    from tapir.export.push import push as upload

    done = upload(folder, repo, private=not public, message=message)
    for note in done.notes:
        typer.echo(note)
    typer.echo(done.url)
