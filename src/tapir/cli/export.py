"""The command line: `tapir export | push`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tapir.cli.tables import AsJson, new_console, new_table, out_option, possibly_billed, print_json, print_table
from tapir.domain.errors import RecipeError

if TYPE_CHECKING:
    from tapir.domain.completion import Usage


def export(
    run: Annotated[Path, typer.Argument(help="Folder of the run.")],
    out: Annotated[Path, out_option(help="Folder to write.")],
    what: Annotated[
        Literal["student", "dataset", "mixture"],
        typer.Option(
            "--what",
            help="student: with a model card; dataset: Parquet with a data card; mixture: files in the layouts of"
            " other trainers.",
        ),
    ] = "student",
    number: Annotated[
        int | None,
        typer.Option("--round", help="Round to export (default: the last student, or the data of all rounds)."),
    ] = None,
    *,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Export a LoRA adapter as it is, without merging it into its base.")
    ] = False,
) -> None:
    """Export the student or the training data of a run."""
    from tapir.data.run.store import RunStore
    from tapir.models.local.loading import ModelSettings
    from tapir.report.export.dataset import export_dataset, export_mixture
    from tapir.report.export.model import export_model
    from tapir.runs import session

    recipe, store = session.stored_recipe(run), RunStore(run)
    if adapter and what != "student":
        raise RecipeError(f"--adapter has no effect with --what {what}", remedy="Leave it out.")
    if what == "student":
        remarks = export_model(store, out, number, adapter=adapter, settings=ModelSettings.of(recipe.student))
    else:
        remarks = (export_dataset if what == "dataset" else export_mixture)(store, out, number)
    for line in (*remarks, out):
        typer.echo(str(line))


def push(
    folder: Annotated[Path, typer.Argument(help="Folder that `tapir export` wrote.")],
    repo: Annotated[str, typer.Argument(help="Repository on the hub: owner/name.")],
    *,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public (default: private).")] = False,
    message: Annotated[str, typer.Option("--message", help="Commit message.")] = "",
) -> None:
    """Upload an export to the Hugging Face hub; no other command uploads anything."""
    from tapir.report.export.folder import push as upload

    for line in upload(folder, repo, private=not public, message=message):
        typer.echo(line)


ledgers = typer.Typer(name="ledger", no_args_is_help=True, help="Ledgers of paid calls.", rich_markup_mode=None)

LedgerFile = Annotated[Path, typer.Argument(help="Ledger, e.g. runs/NAME/ledger.sqlite.")]


@ledgers.command("stats")
def ledger_stats(ledger: LedgerFile, *, as_json: AsJson = False) -> None:
    """Print calls, tokens and money of a ledger by model and by purpose."""
    from tapir.runs.build import open_ledger

    with closing(open_ledger(ledger)) as calls:
        models = _sums(((model,), count, usage, cost) for model, count, usage, cost in calls.models())
        purposes = _sums(
            ((row.purpose.run[:8], str(row.purpose.round), row.purpose.stage), row.calls, row.usage, row.cost)
            for row in calls.spent()
        )
        possible = calls.spent(possibly=True)
    more = sum(row.calls for row in possible), sum(row.cost for row in possible)
    tables = {"models": (["model"], models), "purposes": (["run", "round", "stage"], purposes)}
    if as_json:
        content: dict[str, object] = {
            title: [dict(zip((*names, "calls", "tokens_in", "tokens_out", "money"), row, strict=True)) for row in rows]
            for title, (names, rows) in tables.items()
        }
        content["possibly_billed"] = dict(zip(("calls", "money"), more, strict=True))
        print_json(content | {"bytes": ledger.stat().st_size})
        return
    for names, rows in tables.values():
        table = new_table("", names, ("calls", "tokens in", "tokens out", "money"))
        for *key, count, read, wrote, cost in rows:
            table.add_row(*key, f"{count:,.0f}", f"{read:,.0f}", f"{wrote:,.0f}", f"{cost:.4f}")
        print_table(new_console(), table)
    if more[0]:
        typer.echo(possibly_billed(*more))
    typer.echo(f"{ledger}: {ledger.stat().st_size / 1e6:,.1f} MB")


def _sums(rows: Iterable[tuple[tuple[str, ...], int, Usage, float]]) -> list[tuple[Any, ...]]:
    """Return names, calls, tokens read, tokens written and money; rows with the same names are added up."""
    sums: dict[tuple[str, ...], list[float]] = {}
    for names, count, usage, money in rows:
        amounts = (float(count), usage.prompt_tokens, usage.completion_tokens, money)
        sums[names] = [*map(sum, zip(sums.get(names, [0.0] * 4), amounts, strict=True))]
    return [(*names, *amounts) for names, amounts in sums.items()]


@ledgers.command("export")
def ledger_export(
    ledger: LedgerFile,
    out: Annotated[Path | None, out_option(help="File to write (default: the terminal).")] = None,
) -> None:
    """Write every call as a line of JSON: request, reply, purpose, cost."""
    from tapir.data.files import replacing
    from tapir.runs.build import open_ledger

    with closing(open_ledger(ledger)) as calls:
        rows = (
            {"digest": digest.hex(), **asdict(purpose), "cost": cost}
            | {"request": json.loads(request), "reply": json.loads(reply)}
            for digest, request, reply, purpose, cost in calls.export()
        )
        seen = out is None and sys.stdout.isatty()  # a terminal obeys control characters
        lines = (json.dumps(row, ensure_ascii=seen) for row in rows)
        if out is None:
            for line in lines:
                typer.echo(line)
            return
        with replacing(out) as draft, draft.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)


@ledgers.command("merge")
def ledger_merge(
    into: Annotated[Path, typer.Argument(help="Ledger to add to; made if it does not exist.")],
    others: Annotated[list[Path], typer.Argument(help="Ledgers to read; they stay as they are.")],
) -> None:
    """Copy the replies of other ledgers into one, so that they are not paid for again."""
    from tapir.models.api.ledger import merge_ledgers

    for other, new in zip(others, merge_ledgers(into, others), strict=True):
        typer.echo(f"{other}: {new:,} new")
