"""The command line: `tapir eval alpaca`."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapir.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console
    from rich.table import Table

    from tapir.comparing import Compared
    from tapir.domain.round import EvalResult
    from tapir.evaluation.winrate_all import Rated

alpaca_evals = typer.Typer(rich_markup_mode=None)
SEED = 0


@alpaca_evals.command("alpaca")
def alpaca(  # noqa: PLR0913, PLR0917 (options)
    student: Annotated[
        str, typer.Argument(metavar="[SOURCE]", help="A run, a model, or a file with answers; none with --annotations.")
    ] = "",
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="The answers to compare with, e.g. a model_outputs.json.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="The prompts that count, in order; all of the baseline's without.")
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="Whose judge and endpoints judge; a run's own without.")] = "",
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe.")] = None,
    folder: Annotated[Path | None, typer.Option("--dir", help="Folder of this evaluation.")] = None,
    number: Annotated[int | None, typer.Option("--round", help="The student of this round of a run.")] = None,
    annotations: Annotated[
        list[Path] | None,
        typer.Option(
            "--annotations",
            help="Recorded annotations. Without SOURCE: the rates of every model in them, without a call. With it:"
            " other models, from which the difficulty of the prompts is estimated too.",
        ),
    ] = None,
    difficulty: Annotated[
        Path | None, typer.Option("--difficulty", help="instruction_difficulty.csv of the official package.")
    ] = None,
    gamed: Annotated[Path | None, typer.Option("--gamed", help="df_gamed.csv of the official package.")] = None,
    *,
    without_unjudged: Annotated[
        bool, typer.Option("--without-unjudged", help="Leave out prompts that were not judged; they are counted.")
    ] = False,
) -> None:
    """Win rate against a baseline's answers, raw and at equal lengths (AlpacaEval 2.0)."""
    from tapir import comparing
    from tapir.evaluation.length_files import read_given

    wanted = comparing.Wanted(read_given(difficulty, gamed), tuple(annotations or ()), SEED, without_unjudged)
    if not student:
        _refuse_without_source(baseline, recipe, changes, number)
        from rich.console import Console

        console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
        show(console, comparing.recorded_rates(wanted, prompts, folder))
        return
    if baseline is None or folder is None:
        raise RecipeError(
            f"{student}: --baseline and --dir are needed to compare its answers",
            remedy="For example: tapir eval alpaca SOURCE --baseline model_outputs.json --recipe judge.toml --dir out",
        )
    from tapir import terminal

    one = comparing.prepared(comparing.Asked(student, recipe, tuple(changes or ()), number), baseline, prompts, folder)
    attended = terminal.Attended(folder, shlex.join(["tapir", *sys.argv[1:]]), 0, one.desk.calls.meter)
    attended.do(lambda watch: comparing.measured(one, wanted, watch), lambda console, found: show(console, *found))


def _refuse_without_source(baseline: Path | None, recipe: str, changes: list[str] | None, number: int | None) -> None:
    given = {"--baseline": baseline, "--recipe": recipe, "--set": changes, "--round": number}
    for name, value in given.items():
        if value:
            raise RecipeError(
                f"{name} has no effect without a SOURCE whose answers are compared", remedy=f"Give one, or drop {name}."
            )


def show(console: Console, found: Sequence[Rated], compared: Compared | None = None) -> None:
    """The rates of every model, and for a single one all that is known of it."""
    from tapir.evaluation.length_control import MEANING, LengthControlled

    console.print(_rates(found))
    first = found[0] if compared is None else next(one for one in found if one.raw.model == compared.rows[0].model)
    for line in _facts(first) if len(found) == 1 or compared else []:
        console.print(line, markup=False, soft_wrap=True)
    if compared:
        weighted, of = compared.weighted
        said = f"{weighted:,} of {of:,} verdicts weighted by log-probabilities" if weighted else "discrete verdicts"
        asks = "" if weighted else " (judge.expected_score = true asks for log-probabilities)"
        console.print(f"judge: {said}{asks}; answers cut off: {compared.cut:,}", markup=False, soft_wrap=True)
    if first.raw.categories and (len(found) == 1 or compared):
        console.print(_categories(first.raw.categories))
    ways = {one.equal.how for one in found if isinstance(one.equal, LengthControlled)}
    for how in sorted(ways):
        console.print(f"at equal lengths ({how}): {MEANING[how]}", markup=False, soft_wrap=True)
    for one in found:
        if not isinstance(one.equal, LengthControlled):
            reason = f"{one.raw.model}: no rate at equal lengths: {one.equal.reason}"
            console.print(reason, style="yellow", markup=False, soft_wrap=True)
        if one.raw.unjudged:
            left = ", ".join(f"{why} ({count:,})" for why, count in one.raw.unjudged.items())
            text = f"{one.raw.model}: {sum(one.raw.unjudged.values()):,} prompts left out, not judged: {left}"
            console.print(text, style="yellow", markup=False, soft_wrap=True)


def _rates(found: Sequence[Rated]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from tapir.evaluation.length_control import LengthControlled

    table = Table(title=f"win rate against {found[0].raw.baseline}, in %", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("model", overflow="fold")
    for name in ("n", "win rate", "95 % interval", "equal lengths", "95 % interval", "w/d/l", "chars"):
        table.add_column(name, justify="right")
    for one in found:
        raw, equal = one.raw, one.equal
        controlled = (
            (_percent(equal.rate.value), _interval(equal.rate)) if isinstance(equal, LengthControlled) else ("-", "-")
        )
        table.add_row(
            raw.model,
            f"{raw.rate.n:,}",
            _percent(raw.rate.value)
            + (f" \u00b1 {_percent(raw.standard_error)}" if math.isfinite(raw.standard_error) else ""),
            _interval(raw.rate),
            *controlled,
            f"{raw.wins}/{raw.draws}/{raw.losses}",
            f"{raw.lengths.model:,.0f}",
        )
    return table


def _facts(one: Rated) -> list[str]:
    """What lies behind a rate, a line each."""
    raw, lengths = one.raw, one.raw.lengths
    found = [f"discrete win rate {_percent(raw.discrete)} % (a win counts 1, a draw a half)"]
    if raw.flips[1]:
        share = 100 * raw.flips[0] / raw.flips[1]
        found.append(
            f"order: the verdict changed with it in {raw.flips[0]:,} of {raw.flips[1]:,} pairs ({share:.1f} %)"
        )
    if raw.shown_first[1]:
        found[-1] += (
            f"; the answer shown first won {100 * raw.shown_first[0] / raw.shown_first[1]:.1f} % of the verdicts"
        )
    found.append(
        f"length: {lengths.model:,.0f} characters against {lengths.baseline:,.0f}; longer in "
        f"{100 * lengths.longer:.1f} % of the prompts (win rate there {_percent(lengths.rate_longer)} %, where shorter "
        f"{_percent(lengths.rate_shorter)} %)"
    )
    if raw.failures:
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in raw.failures.items())
        found.append(f"no answer, counted as lost: {kinds}")
    if not math.isfinite(raw.rate.low):
        found.append("no interval: all preferences are equal")
    return found


def _categories(categories: Mapping[str, EvalResult]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("category")
    for name in ("n", "win rate", "95 % interval"):
        table.add_column(name, justify="right")
    for name, one in categories.items():
        table.add_row(name, f"{one.n:,}", _percent(one.value), _interval(one))
    return table


def _percent(value: float) -> str:
    return f"{100 * value:.2f}" if math.isfinite(value) else "-"


def _interval(one: EvalResult) -> str:
    return f"{100 * one.low:.2f} to {100 * one.high:.2f}" if math.isfinite(one.low) else "-"
