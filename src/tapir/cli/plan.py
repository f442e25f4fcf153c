"""`tapir plan`: the dry run of a recipe as a table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapir.cli.tables import AsJson, Changes, RecipeName, new_console, new_table, print_json, print_line, print_table
from tapir.domain.progress import duration

if TYPE_CHECKING:
    from rich.table import Table

    from tapir.runs.plan import Plan
    from tapir.runs.plan.costs import CallCost
    from tapir.runs.plan.tokens import Bounds

_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def plan(
    recipe: RecipeName = "gym",
    changes: Changes = None,
    folder: Annotated[
        Path | None, typer.Option("--run", help="Earlier run whose measurements replace assumptions (default: none).")
    ] = None,
    *,
    time: Annotated[bool, typer.Option(help="Time the student; minutes for a large one (default: yes).")] = True,
    reach: Annotated[
        bool, typer.Option("--reach", help="Use the network: check that every endpoint answers (default: no).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Estimate the calls, tokens, money and time of a run; write and spend nothing."""
    from tapir.cli.progress import quiet
    from tapir.config.toml import load
    from tapir.runs import plan as planning

    chosen = load(recipe, changes or ())
    if time and not as_json:
        typer.echo("reading the corpus, then timing the student for some batches (--no-time skips that) ...", err=True)
    with quiet(Path(os.devnull)):
        result = planning.plan(chosen, measure=time, folder=folder, reach=reach)
    if as_json:
        print_json({"recipe": chosen.name, "plan": result, "total": result.total, "seconds": result.seconds})
        return
    screen = new_console()
    print_table(screen, plan_table(result, chosen.name))
    for line in plan_lines(result):
        print_line(screen, line)


def plan_table(plan: Plan, name: str) -> Table:
    """Return the stages of a plan, with a total where calls are made."""
    paid = ["calls", "tokens in", "tokens out", *(["money"] if plan.priced else [])] if plan.pays else []
    table = new_table(f"plan of {name}: expected \u2264 at most", (), (), box=None, padding=(0, 1))
    for column in ["round", "stage", "items", *paid, "time", *([] if plan.pays else ["by"])]:
        table.add_column(column, justify="left" if column in {"stage", "by"} else "right")
    for stage in plan.stages:
        costs, who = (_costs(plan, stage.cost), []) if plan.pays else ([], [stage.who])
        items = _cell(stage.items, "{:,.0f}".format)
        table.add_row(str(stage.round), stage.stage, items, *costs, _time(stage.seconds), *who)
    if plan.pays:
        table.add_row("", "all", "", *_costs(plan, plan.total), _time(plan.seconds))
    return table


def _costs(plan: Plan, cost: CallCost) -> list[str]:
    cells = [_cell(amount, _count) for amount in (cost.calls, cost.read, cost.written)]
    cells += [_cell(cost.money, _money)] if plan.priced else []
    return cells if cost.calls.most else [""] * len(cells)


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield what stands below the table of a plan."""
    total, seconds = plan.total, plan.seconds
    if not plan.pays:
        yield "paid calls: none (no role calls a server)"
    elif plan.priced:
        expected, most = _money(total.money.expected), _money(total.money.most)
        yield f"money: expected {expected}, at most {most} (in the currency of the recipe's prices)"
    else:
        yield "money: no endpoint has a price (price_input, price_output)"
    yield f"disk: about {plan.disk / 1e6:,.0f} MB"
    if seconds is not None:
        yield f"time: about {duration(seconds.expected)} on this machine (the student measured just now)"
    elif plan.pays:
        yield (
            f"time: about {duration(total.seconds.expected)} of calls; the student's own work was not measured"
            " (with --no-time, or where its weights are not on this machine)"
        )
    yield from (f"warning: {warning}" for warning in plan.warnings)
    yield from ("assumed:", *(f"  - {line}" for line in plan.assumed))
    yield from (f"not ready: {obstacle}" for obstacle in plan.obstacles)


def _cell(amount: Bounds, text: Callable[[float], str]) -> str:
    expected, most = text(amount.expected), text(amount.most)
    return expected if expected == most else f"{expected} \u2264 {most}"


def _count(value: float) -> str:
    """Return a number in three digits where it is large, e.g. "12.3k"."""
    if value < 10_000:  # noqa: PLR2004 (short enough to be exact)
        return f"{value:,.0f}"
    rounded = float(f"{value:.3g}")
    size, letter = next(unit for unit in _UNITS if rounded >= unit[0])
    return f"{rounded / size:.3g}{letter}"


def _money(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 or not value else f"{value:.2g}"


def _time(seconds: Bounds | None) -> str:
    if seconds is None:
        return "?"
    return duration(seconds.expected) if seconds.most else ""
