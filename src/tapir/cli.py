"""The command line: `tapir run | plan | resume | status | show | report | export | push | check | recipe | ledger`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapir import __version__
from tapir.cli_audit import audits
from tapir.cli_compare import compares
from tapir.cli_eval import evaluates
from tapir.cli_export import exports
from tapir.cli_ledger import ledgers
from tapir.cli_review import reviews
from tapir.errors import TapirError

if TYPE_CHECKING:
    from tapir.recipe import Recipe
    from tapir.roles import Example, Roles
    from tapir.session import RunResult
    from tapir.terminal import TerminalWatch

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Task-aware curriculum planning for distilling instruction following.",
)
recipes = typer.Typer(no_args_is_help=True, help="Look at recipes.", rich_markup_mode=None)
app.add_typer(recipes, name="recipe")
app.add_typer(ledgers, name="ledger")
for commands in (exports, evaluates, audits, reviews, compares):
    app.add_typer(commands)

RecipeName = Annotated[str, typer.Argument(help="A TOML file or the name of a shipped recipe.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. curriculum.rounds=2; repeatable.")]
Folder = Annotated[Path, typer.Argument(help="The folder of a run.")]


def main() -> None:
    """Run the command line; every mistake of a user is one clear error, never a traceback."""
    try:
        app()
    except TapirError as error:
        _complain(error)
        sys.exit(error.exit_code)


@app.callback(invoke_without_command=True)
def _version(*, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"tapir {__version__}")
        raise typer.Exit


@app.command()
def run(
    recipe: RecipeName = "gym",
    folder: Annotated[Path | None, typer.Option("--dir", help="Folder of the run; runs/NAME by default.")] = None,
    changes: Changes = None,
) -> None:
    """Run a recipe; in a folder with an unfinished run of the same recipe, go on."""
    from tapir import session

    chosen = _load(recipe, changes)
    place = folder or Path("runs") / chosen.name
    _attended(chosen, place, lambda watch, people: session.run(chosen, place, watch, people))


@app.command()
def resume(folder: Folder, changes: Changes = None) -> None:
    """Go on with a run that was stopped; nothing finished is done again."""
    from tapir import session

    chosen = session.stored_recipe(folder, changes or ())
    _attended(chosen, folder, lambda watch, people: session.run(chosen, folder, watch, people))


@app.command()
def plan(
    recipe: RecipeName = "gym",
    changes: Changes = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="An earlier run whose figures take the place of assumptions.")
    ] = None,
    *,
    time: Annotated[bool, typer.Option(help="Time the student for a few seconds to estimate the whole.")] = True,
    reach: Annotated[bool, typer.Option("--reach", help="Also ask every endpoint whether it is there.")] = False,
) -> None:
    """Say what a run would do and take; nothing is written or spent."""
    from rich.console import Console
    from rich.table import Table

    from tapir import planning, terminal
    from tapir.planning import words

    chosen = _load(recipe, changes)
    with terminal.quiet(Path(os.devnull)):
        found = planning.plan(chosen, measure=time, folder=folder, reach=reach)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else terminal.PLAIN_WIDTH)
    table = Table(
        title=f"plan of {chosen.name}: expected \u2264 at most", title_justify="left", box=None, padding=(0, 1)
    )
    for column in words.head(found):
        table.add_column(column, justify="left" if column in {"stage", "by"} else "right")
    for row in words.rows(found):
        table.add_row(*row)
    console.print(table)
    for line in words.lines(found):
        console.print(line, markup=False, soft_wrap=True)


@app.command()
def check(recipe: RecipeName, changes: Changes = None) -> None:
    """Check a recipe and everything it names, without running it."""
    from tapir import session

    chosen = _load(recipe, changes)
    for line in session.check(chosen):
        typer.echo(line)
    typer.echo(f"{recipe}: good ({chosen.curriculum.alpha().rounds} rounds of {chosen.curriculum.size} examples)")


@app.command()
def status(folder: Folder) -> None:
    """Say how far a run is."""
    from tapir import session, terminal
    from tapir.report.summary import summarise
    from tapir.store.run import RunStore

    session.stored_recipe(folder)
    summary = summarise(RunStore(folder))
    state = "finished" if summary.finished else f"unfinished; `tapir resume {folder}` goes on"
    typer.echo(f"{folder}: {state}, {summary.seconds / 60:.1f} min of work")
    for name in summary.benchmarks:
        values = ", ".join(f"S_{one.round} {100 * one.overall.value:.1f} %" for one in summary.benchmark(name))
        typer.echo(f"  {name}: {values}")
    if summary.trainings:
        typer.echo(f"  {terminal.training_line(summary.trainings[-1])}")
    if line := terminal.agreement_line(summary.agreements):
        typer.echo(f"  {line}")
    if summary.spending:
        calls, cost = sum(one.calls for one in summary.spending), sum(one.cost for one in summary.spending)
        typer.echo(f"  {calls:,} calls to models" + (f", {cost:.4f} spent" if cost else ""))
    last = _last_event(folder)
    if not summary.finished and last:
        typer.echo(f"  last: {last}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="An instruction's id, its beginning, or its text.")],
    folder: Annotated[Path, typer.Option("--dir", help="The folder of a run.")] = Path("runs/gym"),
    *,
    mask: Annotated[
        bool, typer.Option("--mask", help="Show it as it is trained on, with what is learnt in colour.")
    ] = False,
) -> None:
    """Tell the life of one instruction: parents, answers, scores, task, rounds."""
    from tapir import session
    from tapir.life import life, trained_on
    from tapir.store.run import RunStore

    recipe = session.stored_recipe(folder)
    if mask:
        _show_mask(recipe, trained_on(RunStore(folder), name))
        return
    for what, text in life(RunStore(folder), name):
        head, *more = text.split("\n")
        typer.echo(f"{what:<28}  {head}")
        for line in more:
            typer.echo(f"{'':<28}  {line}")


@app.command()
def report(folder: Folder) -> None:
    """Write report.html again."""
    from tapir import session
    from tapir.errors import MissingExtra
    from tapir.report.page import write_report
    from tapir.report.summary import summarise
    from tapir.store.run import RunStore

    session.stored_recipe(folder)
    store = RunStore(folder)
    page = write_report(store, summarise(store))
    if page is None:
        raise MissingExtra("the chart library is not installed", remedy="pip install 'tapir-distill[report]'")
    typer.echo(str(page))


@recipes.command("list")
def list_recipes() -> None:
    """Name the shipped recipes."""
    from tapir.recipe_file import shipped

    for name in shipped():
        typer.echo(name)


@recipes.command("show")
def show_recipe(recipe: RecipeName = "gym") -> None:
    """Print a recipe as commented TOML with every key: a file to start from."""
    from tapir.recipe_file import as_toml

    typer.echo(as_toml(_load(recipe, None)), nl=False)


@recipes.command("schema")
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from tapir.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=1))


def _show_mask(recipe: Recipe, rows: Sequence[tuple[str, Example]]) -> None:
    """The example of every round as tokens see it; what carries loss is green, and in brackets without colours."""
    from rich.console import Console
    from rich.text import Text

    from tapir import assemble

    console = Console(highlight=False, soft_wrap=True)
    for where, example in rows:
        console.print(where, style="bold")
        line = Text()
        for piece, learnt in assemble.mask(recipe, example):
            plain = f"[[{piece}]]" if learnt and not console.is_terminal else piece
            line.append(plain, style="green" if learnt else "dim")
        console.print(line)


def _load(recipe: str, changes: list[str] | None) -> Recipe:
    from tapir.recipe_file import load

    return load(recipe, changes or ())


def _attended(recipe: Recipe, folder: Path, work: Callable[[TerminalWatch, Roles], RunResult]) -> None:
    """Do the work with progress on the terminal and everything else in the run's log."""
    from tapir import session, terminal

    roles = session.preflight(recipe)
    session.claim(recipe, folder, roles)
    rounds, meter = recipe.curriculum.alpha().rounds, roles.calls.meter if roles.calls else None
    terminal.Attended(folder, f"tapir resume {folder}", rounds, meter).do(
        lambda watch: work(watch, roles),
        lambda console, result: terminal.show_result(console, result.summary, result.student.path, result.report),
    )


def _complain(error: TapirError) -> None:
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("error: ", style="bold red", end="")
    console.print(str(error), markup=False)
    if error.remedy:
        console.print(f"  {error.remedy}", markup=False)


def _last_event(folder: Path) -> str:
    path = folder / "events.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    for line in reversed(lines):
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        facts = ", ".join(f"{key} {value}" for key, value in event.items() if key not in {"time", "event"})
        return f"{event['event']} {facts}"
    return ""


if __name__ == "__main__":
    main()
