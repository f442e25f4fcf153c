"""The command line: `tapir eval mt-bench`."""

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

    from tapir.evaluation.mtbench import Figure, MtBench, TurnGrade, TurnPair

mtbench_evals = typer.Typer(rich_markup_mode=None)
SEED = 0
WIDTH = 120


@mtbench_evals.command("mt-bench")
def mt_bench(  # noqa: PLR0913, PLR0917 (one parameter for each option)
    student: Annotated[
        str,
        typer.Argument(
            metavar="[SOURCE]", help="A run, a model, or answers of FastChat's form; none with --judgments."
        ),
    ] = "",
    questions: Annotated[Path | None, typer.Option("--questions", help="FastChat's question.jsonl.")] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            "--references", help="Reference answers to mathematics, reasoning and coding, of FastChat's form."
        ),
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="Whose judge and endpoints judge; a run's own without.")] = "",
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe.")] = None,
    folder: Annotated[Path | None, typer.Option("--dir", help="Folder of this evaluation.")] = None,
    number: Annotated[int | None, typer.Option("--round", help="The student of this round of a run.")] = None,
    against: Annotated[
        str, typer.Option("--against", help="Another SOURCE: compare in pairs, in both orders, in place of grades.")
    ] = "",
    model: Annotated[str, typer.Option("--model", help="Whose answers to take from a file with several models'.")] = "",
    judgments: Annotated[
        list[Path] | None, typer.Option("--judgments", help="Recorded judgments: scores from them, without a call.")
    ] = None,
    *,
    without_references: Annotated[
        bool, typer.Option("--without-references", help="Grade mathematics, reasoning and coding without references.")
    ] = False,
) -> None:
    """Two-turn questions in eight categories, graded from 1 to 10, or in pairs (MT-Bench)."""
    from tapir import two_turns_ready as ready
    from tapir.comparing import Asked

    if judgments:
        _refuse_with_judgments(
            {
                "SOURCE": student,
                "--references": references,
                "--recipe": recipe,
                "--against": against,
                "--dir": folder,
                "--model": model,
                "--round": number,
                "--set": changes,
                "--without-references": without_references,
            }
        )
        _show_recorded(ready.recorded_judgments(tuple(judgments), questions))
        return
    if not student or questions is None or folder is None:
        raise RecipeError(
            "SOURCE, --questions and --dir are needed to grade answers",
            remedy="For example: tapir eval mt-bench SOURCE --questions question.jsonl --references gpt-4.jsonl"
            " --recipe judge.toml --dir out",
        )
    if (references is None) != without_references:
        raise RecipeError(
            "either --references FILE or --without-references, and not both",
            remedy="Mathematics, reasoning and coding are graded with references: bring a file, or say there is none.",
        )
    if model and against:
        _see_that_sides_differ(student, against, model)
    from tapir import terminal

    asked = Asked(student, recipe, tuple(changes or ()), number)
    one = ready.prepared(asked, ready.Material(questions, references), folder, against, model)
    attended = terminal.Attended(folder, shlex.join(["tapir", *sys.argv[1:]]), 0, one.desk.calls.meter)
    attended.do(one.run, lambda console, found: _show(console, found, folder, official=ready.official(references)))


def _see_that_sides_differ(student: str, against: str, model: str) -> None:
    if Path(student).resolve() == Path(against).resolve():
        raise RecipeError(
            f"--model {model} is meant for both sides, and {student} is both: its answers would be compared with"
            " themselves",
            remedy="Write the answers of the two models into files of their own.",
        )


def _refuse_with_judgments(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None and value is not False and value != "":  # round 0 is a round
            raise RecipeError(
                f"{name} has no effect with --judgments, which are recorded already", remedy="Leave one of the two out."
            )


def _show(console: Console, found: Sequence[TurnGrade] | Sequence[TurnPair], folder: Path, *, official: bool) -> None:
    from tapir.evaluation.mtbench import compared, graded
    from tapir.evaluation.mtbench_json import as_json, grades_of, pairs_of
    from tapir.store.files import write_json

    pairs = pairs_of(found)
    result = compared(pairs, seed=SEED) if pairs else graded(grades_of(found), seed=SEED)
    write_json(folder / "mt-bench.json", as_json(result))
    _print(console, result, "")
    if official:
        console.print(
            "these are FastChat's own reference answers: 13 of the 30 have been found wrong by others; grades of"
            " mathematics, reasoning and coding are worth more with corrected ones (--references)",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _show_recorded(found: object) -> None:
    from rich.console import Console

    from tapir.evaluation.mtbench import compared, graded
    from tapir.evaluation.mtbench_recorded import Judgments

    if not isinstance(found, Judgments):
        raise TypeError(f"{found!r} are no judgments")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    for judge, grades in found.grades.items():
        for name in dict.fromkeys(one.model for one in grades):
            _print(console, graded([one for one in grades if one.model == name], seed=SEED), judge)
    for judge, pairs in found.pairs.items():
        for sides in dict.fromkeys((one.model, one.other) for one in pairs):
            _print(console, compared([one for one in pairs if (one.model, one.other) == sides], seed=SEED), judge)


def _print(console: Console, one: MtBench, judge: str) -> None:
    """The table of one model, and what its figures do not contain."""
    console.print(_table(one, judge))
    if one.failures:
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in one.failures.items())
        what = "lost" if one.other else "graded 1"
        console.print(f"no answer, counted as {what}: {kinds}", markup=False, soft_wrap=True)
    if one.flips[1]:
        share = 100 * one.flips[0] / one.flips[1]
        text = f"order: the verdict changed with it in {one.flips[0]:,} of {one.flips[1]:,} pairs ({share:.1f} %)"
        console.print(text, markup=False, soft_wrap=True)
    if one.overall.unscored:
        reasons = ", ".join(f"{why} ({count:,})" for why, count in one.overall.unscored.items())
        text = f"not in these figures: {sum(one.overall.unscored.values()):,} answers without a judgment: {reasons}"
        console.print(text, style="yellow", markup=False, soft_wrap=True)


def _table(one: MtBench, judge: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    what = (
        f"share of pairs that {one.model} wins against {one.other}, in %"
        if one.other
        else f"grades of {one.model}, 1 to 10"
    )
    table = Table(title=f"{what}{f', by {judge}' if judge else ''}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("category")
    graded = sorted({turn for _, turn in one.by if turn})
    turns = [*graded, 0] if len(graded) > 1 else graded  # 0 is both
    for turn in turns:
        table.add_column(f"turn {turn}" if turn else "both turns", justify="right")
        table.add_column("95 % interval", justify="right")
        table.add_column("n", justify="right")
    scale = 100 if one.other else 1
    for name in dict.fromkeys(category for category, _ in one.by if category):
        table.add_row(name, *(cell for turn in turns for cell in _cells(one.by, name, turn, scale)))
    table.add_section()
    table.add_row("all", *(cell for turn in turns for cell in _cells(one.by, "", turn, scale)), style="bold")
    return table


def _cells(by: Mapping[tuple[str, int], Figure], name: str, turn: int, scale: int) -> tuple[str, str, str]:
    figure = by[name, turn]
    left = sum(figure.unscored.values())
    if figure.result is None:
        return "-", "-", f"0 of {left:,}"
    one = figure.result
    interval = f"{scale * one.low:.2f} to {scale * one.high:.2f}" if math.isfinite(one.low) else "-"
    return f"{scale * one.value:.2f}", interval, f"{one.n:,} of {one.n + left:,}" if left else f"{one.n:,}"
