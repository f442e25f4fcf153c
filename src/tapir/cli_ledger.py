"""The command line: `tapir ledger stats | export | merge`."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

ledgers = typer.Typer(no_args_is_help=True, help="Look at ledgers of paid calls.", rich_markup_mode=None)

LedgerFile = Annotated[Path, typer.Argument(help="A ledger, e.g. runs/NAME/ledger.sqlite.")]
MEGABYTE = 1_000_000


@ledgers.command("stats")
def ledger_stats(ledger: LedgerFile) -> None:
    """Say what is in a ledger: calls, tokens and money by model and by purpose."""
    from rich.console import Console

    from tapir import assemble, terminal

    with closing(assemble.ledger(ledger)) as found:
        models = [((model,), calls, usage, cost) for model, calls, usage, cost in found.models()]
        purposes = [
            ((one.purpose.run[:8], str(one.purpose.round), one.purpose.stage), one.calls, one.usage, one.cost)
            for one in found.spent()
        ]
    console = Console(highlight=False)
    console.print(terminal.money_table(["model"], models))
    console.print(terminal.money_table(["run", "round", "stage"], purposes))
    typer.echo(f"{ledger}: {ledger.stat().st_size / MEGABYTE:,.1f} MB")


@ledgers.command("export")
def ledger_export(
    ledger: LedgerFile,
    out: Annotated[Path | None, typer.Option(help="File to write; the terminal by default.")] = None,
) -> None:
    """Write every call as a line of JSON: what was asked, what was answered, for what, at what cost."""
    from tapir import assemble
    from tapir.store.files import replacing

    with closing(assemble.ledger(ledger)) as found:
        lines = (
            json.dumps(
                {
                    "digest": digest.hex(),
                    **asdict(purpose),
                    "cost": cost,
                    "request": json.loads(request),
                    "reply": json.loads(reply),
                },
                ensure_ascii=False,
            )
            for digest, request, reply, purpose, cost in found.export()
        )
        if out is None:
            for line in lines:
                typer.echo(line)
            return
        with replacing(out) as draft, draft.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)


@ledgers.command("merge")
def ledger_merge(
    into: Annotated[Path, typer.Argument(help="The ledger that takes over; made if it is not there.")],
    others: Annotated[list[Path], typer.Argument(help="Ledgers to take from; they stay as they are.")],
) -> None:
    """Take over the replies of other ledgers, so that they are not paid for again."""
    from tapir import assemble

    for other, new in zip(others, assemble.merge_ledgers(into, others), strict=True):
        typer.echo(f"{other}: {new:,} new")
