"""The command line: `tapir run | plan | resume | status | show | report | check | recipe` and the other groups."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapir.cli.evaluate import evals
from tapir.cli.export import export, ledgers, push
from tapir.cli.judge import audit, review
from tapir.cli.plan import plan
from tapir.cli.study import study
from tapir.cli.tables import (
    AsJson,
    Changes,
    HomeGroup,
    RecipeName,
    Run,
    new_console,
    out_option,
    print_json,
    print_line,
    print_result,
    show_result,
    status_lines,
    visible,
)
from tapir.domain.errors import TapirError, require
from tapir.models.memory import limit_threads
from tapir.version import __version__

if TYPE_CHECKING:
    from tapir.config.recipe import Recipe
    from tapir.domain.training import Example


app = typer.Typer(
    cls=HomeGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Task-aware curriculum planning for distilling instruction following.",
)
recipes = typer.Typer(name="recipe", no_args_is_help=True, help="List and print recipes.", rich_markup_mode=None)


def main() -> None:
    """Run the command line; report an error of the user in a few lines, without a traceback."""
    limit_threads()  # before a command loads torch
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # not every terminal is UTF-8
    try:
        app()
    except TapirError as error:
        console = new_console(sys.stderr)
        console.print("error: ", style="bold red", end="")
        print_line(console, str(error))
        if error.remedy:
            print_line(console, f"  {error.remedy}")
        sys.exit(error.exit_code)


@app.callback(invoke_without_command=True)
def _version(
    *, version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False
) -> None:
    if version:
        typer.echo(f"tapir {__version__}")
        raise typer.Exit


@app.command()
def run(
    recipe: RecipeName = "gym",
    folder: Annotated[Path | None, out_option(help="Folder to write the run to (default: runs/NAME).")] = None,
    changes: Changes = None,
) -> None:
    """Run a recipe, or resume an unfinished run of the same recipe in the same folder."""
    from tapir.config.toml import load

    chosen = load(recipe, changes or ())
    _run(chosen, folder or Path("runs") / chosen.name)


@app.command()
def resume(folder: Run, changes: Changes = None) -> None:
    """Resume a run that was stopped; nothing finished is done again."""
    from tapir.runs import session

    _run(session.stored_recipe(folder, changes or ()), folder)


@app.command()
def check(
    recipe: RecipeName,
    changes: Changes = None,
    *,
    reach: Annotated[
        bool,
        typer.Option("--reach", help="Call every endpoint of every role once, and say what it cost (default: no)."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a recipe and everything it names, without running it."""
    from tapir.config.toml import load, toml_value
    from tapir.runs import session
    from tapir.runs.endpoints import try_roles

    chosen = load(recipe, changes or ())
    plan, lines = chosen.curriculum, list(session.check(chosen))
    rounds, size = plan.alpha().rounds, toml_value(plan.size)
    trials = try_roles(chosen) if reach else []
    lines += [trial.line for trial in trials]
    if chosen.endpoints and not reach:
        lines.append("no endpoint was called; `tapir check --reach` calls each once")
    unusable = ", ".join(dict.fromkeys(trial.role for trial in trials if trial.problem))
    verdict = f"cannot be used yet: {unusable}" if unusable else f"good ({rounds} rounds of {size} examples)"
    content = {"recipe": recipe, "rounds": rounds, "size": plan.size, "checks": lines, "trials": trials}
    print_result(content, [*lines, f"{recipe}: {verdict}"], as_json=as_json)
    if unusable:
        raise typer.Exit(1)


@app.command()
def status(folder: Run, *, as_json: AsJson = False) -> None:
    """Show the progress and the latest results of a run."""
    from tapir.data.run.reader import RunReader
    from tapir.data.run.store import RunStore
    from tapir.report.summary import summarise
    from tapir.runs import session

    session.stored_recipe(folder)
    store = RunStore(folder)
    summary, last = summarise(store, brief=True), dict(next(reversed([*RunReader(store).events()]), {}))
    names = ("finished", "seconds", "evaluations", "trainings", "agreements", "spending")
    content = {"folder": folder, **{name: getattr(summary, name) for name in names}, "last": last}
    facts = ", ".join(f"{key} {value}" for key, value in last.items() if key not in {"time", "event"})
    lines = status_lines(summary, folder, f"{last['event']} {facts}" if last else "")
    print_result(content, lines, as_json=as_json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="Id of an instruction, its beginning, or the text.")],
    folder: Annotated[Path, typer.Option("--run", help="Folder of the run (default: runs/gym).")] = Path("runs/gym"),
    *,
    mask: Annotated[
        bool, typer.Option("--mask", help="Show it as tokens, with those that carry loss in colour (default: no).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the history of one instruction: parents, answers, scores, task, rounds."""
    from tapir.data.run.store import RunStore
    from tapir.report.history import history, training_examples
    from tapir.runs import session

    recipe = session.stored_recipe(folder)
    if mask:
        _show_mask(recipe, training_examples(RunStore(folder), name), as_json=as_json)
        return
    events = list(history(RunStore(folder), name))
    lines = ((what, place, line) for what, text in events for place, line in enumerate(text.split("\n")))
    print_result(
        [{"what": what, "text": text} for what, text in events],
        (f"{'' if place else what:<28}  {line}" for what, place, line in lines),
        as_json=as_json,
    )


@app.command()
def report(folder: Run) -> None:
    """Write report.html of a run."""
    from tapir.data.run.store import RunStore
    from tapir.report.page import write_report
    from tapir.report.summary import summarise
    from tapir.runs import session

    session.stored_recipe(folder)
    store = RunStore(folder)
    require("report", "altair", "vl_convert")
    typer.echo(str(write_report(store, summarise(store))))


@recipes.command("list")
def list_recipes(*, as_json: AsJson = False) -> None:
    """List the shipped recipes."""
    from tapir.config.toml import shipped

    print_result(shipped(), shipped(), as_json=as_json)


@recipes.command("show")
def show_recipe(recipe: RecipeName = "gym", *, as_json: AsJson = False) -> None:
    """Print a recipe as commented TOML with every key: a file to start from."""
    from tapir.config.toml import as_toml, load

    chosen = load(recipe)
    print_result(chosen.resolved(), [as_toml(chosen).removesuffix("\n")], as_json=as_json)


@recipes.command("schema")
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from tapir.config.recipe import Recipe

    print_json(Recipe.model_json_schema())


for command in (plan, export, push, audit, review, study):
    app.command()(command)
for commands in (recipes, ledgers, evals):
    app.add_typer(commands)


def _run(recipe: Recipe, folder: Path) -> None:
    from tapir.cli.progress import attend
    from tapir.data.run.store import resume_command
    from tapir.runs import session

    recipe = session.dated(recipe, folder)
    roles = session.preflight(recipe, folder)
    session.claim(recipe, folder, roles)
    rounds, meter = recipe.curriculum.alpha().rounds, roles.calls.meter if roles.calls else None
    attend(
        folder,
        lambda progress: session.execute(recipe, folder, roles, progress),
        lambda console, result: show_result(console, result.summary, result.student.path, result.report),
        meter=meter,
        resume=resume_command(folder),
        rounds=rounds,
    )


def _show_mask(recipe: Recipe, rows: Sequence[tuple[str, Example]], *, as_json: bool) -> None:
    """Print the example of every round as tokens; those with loss are green, or in brackets without colours."""
    from rich.text import Text

    from tapir.runs.build import render_loss_mask

    if as_json:
        print_json([{"round": where, "tokens": render_loss_mask(recipe, example)} for where, example in rows])
        return
    console = new_console()
    for where, example in rows:
        print_line(console, where, "bold")
        line = Text()
        for piece, learnt in render_loss_mask(recipe, example):
            plain = visible(f"[[{piece}]]" if learnt and not console.is_terminal else piece)
            line.append(plain, style="green" if learnt else "dim")
        console.print(line, soft_wrap=True)


if __name__ == "__main__":
    main()
