"""The command line: `tapir eval` for the gym, and two checkpoints side by side."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapir.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tapir.assemble.suites import GymSuite
    from tapir.domain.round import EvalResult, Evaluation
    from tapir.evaluation.paired import Contrast, PairedResult
    from tapir.store.rows import EvaluationRow
    from tapir.terminal import TerminalWatch

gym_evals = typer.Typer(rich_markup_mode=None)

RESULTS = "gym.json"
_LEAST = 0.001  # p-values below this are written so

Prompts = Annotated[int, typer.Option(min=0, help="In-distribution prompts for each skill; 0 leaves them out.")]
Harder = Annotated[int, typer.Option(min=0, help="Prompts one level harder, for each skill.")]
Unseen = Annotated[int, typer.Option(min=0, help="Prompts for each skill that is never trained on.")]
Perturbed = Annotated[int, typer.Option(min=0, help="Prompts for each skill that are asked in other words too.")]
Sample = Annotated[int, typer.Option(min=0, help="Which draw of prompts.")]
RecipeName = Annotated[str, typer.Option(help="Recipe of a source that is no run.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe; repeatable.")]


@dataclass(frozen=True, slots=True)
class _Measured:
    """What `tapir eval gym` found.

    Attributes:
        trouble: answers by benchmark and kind of trouble.
        drops: each perturbation minus its unperturbed twin.
        left_out: by perturbation, the prompts that cannot be perturbed so.
    """

    evaluations: Sequence[Evaluation]
    trouble: dict[str, dict[str, int]]
    drops: Sequence[PairedResult]
    left_out: dict[str, int]


@gym_evals.command("gym")
def eval_gym(  # noqa: PLR0913 (a command has as many options as it has)
    source: Annotated[str, typer.Argument(help="nano, a run, a model folder, a hub id, or a file with answers.")],
    *,
    folder: Annotated[Path, typer.Option("--dir", help="Folder of this evaluation; the same command goes on there.")],
    per_task: Prompts = 30,
    harder: Harder = 10,
    unseen: Unseen = 20,
    perturbed: Perturbed = 10,
    sample: Sample = 0,
    recipe: RecipeName = "gym",
    changes: Changes = None,
    number: Annotated[int | None, typer.Option("--round", min=0, help="Round of a run; its last by default.")] = None,
) -> None:
    """Measure a student on the gym: in-distribution, one level harder, unseen skills, perturbed instructions."""
    from tapir import evaluating, examinee, terminal
    from tapir.assemble import suites
    from tapir.evaluation.endings import NotingStudent

    who = examinee.source(source, recipe, changes or (), number)
    sizes = {"per_task": per_task, "harder": harder, "unseen": unseen, "perturbed": perturbed, "sample": sample}
    suite = suites.gym_suite(who.recipe, **sizes)
    facts = {"evaluation": "gym", **who.facts, **sizes, "skills": list(suite.skills), "prompts": suite.digest}
    evaluating.claim(folder, facts)
    asked = replace(who.who, student=NotingStudent(who.who.student, folder))

    def work(watch: TerminalWatch) -> _Measured:
        chunk, seed = who.recipe.chunk, suite.seed
        found = evaluating.measure(folder, asked, suite.benchmarks, chunk=chunk, seed=seed, watch=watch)
        return _measured(folder, who.name, suite, found)

    resume = "the same command again"
    terminal.Attended(folder, resume).do(work, lambda console, found: _show(console, folder, who.name, found))


@gym_evals.command("gym-prompts")
def gym_prompts(  # noqa: PLR0913 (a command has as many options as it has)
    out: Annotated[Path, typer.Argument(help="JSON Lines file to write.")],
    *,
    per_task: Prompts = 30,
    harder: Harder = 10,
    unseen: Unseen = 20,
    perturbed: Perturbed = 10,
    sample: Sample = 0,
    recipe: RecipeName = "gym",
    changes: Changes = None,
) -> None:
    """Write the prompts of `tapir eval gym`, to be answered elsewhere: add an "output" to every line."""
    import json

    from tapir.assemble import suites
    from tapir.recipe_file import load
    from tapir.store.files import write_text

    sizes = {"per_task": per_task, "harder": harder, "unseen": unseen, "perturbed": perturbed, "sample": sample}
    suite = suites.gym_suite(load(recipe, changes or ()), **sizes)
    texts = dict.fromkeys(one.instruction.text for each in suite.benchmarks for one in each.prompts())
    write_text(out, "".join(json.dumps({"instruction": text}, ensure_ascii=False) + "\n" for text in texts))
    typer.echo(f"{out}: {len(texts):,} prompts")


def _measured(folder: Path, name: str, suite: GymSuite, found: Sequence[Evaluation]) -> _Measured:
    """Read what was answered, set every perturbation beside its twin, and write it all down."""
    from tapir.assemble.suites import beside_plain
    from tapir.evaluating import graded
    from tapir.evaluation.endings import endings
    from tapir.evaluation.paired import paired
    from tapir.evaluation.resampling import holm
    from tapir.evaluation.side_by_side import as_json, plain
    from tapir.store.files import write_json

    rows = graded(folder)
    if all(row.failure == "missing" for row in rows):
        raise DataError(
            f"{name} has no answer to any of the {len(rows)} prompts, the first of which is"
            f" {rows[0].instruction[:80]!r}",
            remedy="`tapir eval gym-prompts FILE` writes the prompts that want an answer; give it the same sizes.",
        )
    trouble = {
        one.benchmark: dict(endings((row for row in rows if row.benchmark == one.benchmark), folder).most_common())
        for one in found
    }
    drops = [paired(*beside_plain(one, rows), one.name) for one in suite.changed]
    left_out = {one.name: len(one.left_out) for one in suite.changed}
    adjusted = holm({one.benchmark: one.mean_of_tasks.p for one in drops})
    drops = [replace(one, mean_of_tasks=replace(one.mean_of_tasks, p_holm=adjusted[one.benchmark])) for one in drops]
    content = {
        "student": name,
        "benchmarks": [{**asdict(one), "trouble": trouble[one.benchmark]} for one in found],
        "perturbations": [{**as_json(one), "left_out": left_out[one.benchmark]} for one in drops],
    }
    write_json(folder / RESULTS, plain(content))
    return _Measured(found, trouble, drops, left_out)


def _show(console: Console, folder: Path, name: str, found: _Measured) -> None:
    table = _table(f"{name} on the gym: success in %, 95 % interval", ["benchmark"], ["n", "success", "interval"])
    table.add_column("answers in trouble")
    for one in found.evaluations:
        trouble = ", ".join(f"{count} {kind}" for kind, count in found.trouble[one.benchmark].items())
        table.add_row(one.benchmark, str(one.overall.n), *_rate(one.overall), trouble or "none")
    console.print(table)
    if found.drops:
        head = ["n", "left out", "plain", "perturbed", "change", "interval", "p", "p (Holm)"]
        table = _table("perturbed minus plain, the same prompts, mean of the tasks, in points", ["perturbation"], head)
        for each in found.drops:
            mean = each.mean_of_tasks
            figures = [f"{100 * mean.b:.1f}", f"{100 * mean.a:.1f}", *_points(mean.difference)]
            kind = each.benchmark.partition("+")[2]
            counts = [str(mean.n), str(found.left_out[each.benchmark])]
            table.add_row(kind, *counts, *figures, _p(mean.p), _p(mean.p_holm))
        console.print(table)
    console.print(f"results: {folder / RESULTS}", highlight=False, soft_wrap=True, markup=False)


@gym_evals.command("pair")
def eval_pair(
    a: Annotated[
        str, typer.Argument(help="Folder of an evaluation or of a run; RUN:ROUND for a round, else the last.")
    ],
    b: Annotated[str, typer.Argument(help="The other one.")],
    *,
    benchmark: Annotated[str | None, typer.Option(help="Only this benchmark, with its tasks.")] = None,
    common: Annotated[bool, typer.Option("--common", help="Use the prompts both were asked if others differ.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to write all figures to, as JSON.")] = None,
) -> None:
    """Compare two checkpoints on the same prompts: differences with intervals and exact or permutation tests."""
    from rich.console import Console

    from tapir import terminal
    from tapir.evaluation.matching import benchmarks_of
    from tapir.evaluation.paired import paired
    from tapir.evaluation.side_by_side import as_json
    from tapir.store.files import write_json

    left, right = _rows(a), _rows(b)
    here, there = benchmarks_of(left), benchmarks_of(right)
    names = [benchmark] if benchmark else [name for name in here if name in there]
    if not names:
        raise DataError(
            f"A has the benchmarks {', '.join(here) or 'none'} and B {', '.join(there) or 'none'}: none is in both",
            remedy="Compare evaluations of the same kind.",
        )
    found = [paired(left, right, name, common=common) for name in names]
    passed = [] if benchmark else [*(f"{one} (only A)" for one in here if one not in there),
                                   *(f"{one} (only B)" for one in there if one not in here)]  # fmt: skip
    console = Console(highlight=False, width=None if sys.stdout.isatty() else terminal.PLAIN_WIDTH)
    console.print(f"A: {a}\nB: {b}", markup=False, soft_wrap=True)
    _show_pairs(console, found, passed)
    if out:
        write_json(out, {"a": a, "b": b, "benchmarks": [as_json(one) for one in found], "passed over": passed})
        console.print(f"all figures: {out}", markup=False, soft_wrap=True)


def _rows(text: str) -> list[EvaluationRow]:
    """The graded answers of an evaluation or of a round of a run.

    Raises:
        DataError: there is no finished evaluation.
    """
    from tapir.evaluating import TABLE
    from tapir.store.rows import EvaluationRow
    from tapir.store.run import RunStore

    place, number = Path(text), None
    if not place.exists() and (parts := text.rpartition(":"))[2].isdigit():
        place, number = Path(parts[0]), int(parts[2])
    store = RunStore(place)
    if (place / "evaluation.json").is_file() and number is None:
        if store.has(TABLE):
            return store.read(TABLE, EvaluationRow)
        raise DataError(
            f"{place} has no graded answers: it is not finished, or not of a benchmark with right and wrong answers",
            remedy="Give the same `tapir eval` again; gym, ifeval, gsm8k and bbh can be compared.",
        )
    if not (place / "recipe.json").is_file():
        raise DataError(
            f"{text} is neither the folder of an evaluation nor of a run",
            remedy="Name what `tapir eval ... --dir` or `tapir run --dir` was given; RUN:2 is round 2 of a run.",
        )
    rounds = sorted(
        int(folder.name.removeprefix("round-"))
        for folder in place.glob("round-*")
        if folder.name[6:].isdigit() and store.has(f"{folder.name}/evaluation")
    )
    if not rounds or (number is not None and number not in rounds):
        raise DataError(
            f"{place} has no evaluation" + ("" if number is None else f" of round {number}") + f"; rounds: {rounds}",
            remedy=f"Name one of them, or go on with `tapir resume {place}`.",
        )
    return store.read(f"round-{rounds[-1] if number is None else number}/evaluation", EvaluationRow)


def _show_pairs(console: Console, found: Sequence[PairedResult], passed: Sequence[str]) -> None:
    from tapir.evaluation.side_by_side import remarks

    head = ["n", "A", "B", "A-B", "interval", "p", "A wins", "B wins", "ties", "score A-B", "p (score)"]
    table = _table("success in %, A minus B in points", ["benchmark", "mean"], head)
    for one in found:
        for mean, each in (("of tasks", one.mean_of_tasks), ("of prompts", one.prompts)):
            table.add_row(one.benchmark if mean == "of tasks" else "", mean, *_contrast(each))
    console.print(table)
    for one in found:
        if len(found) == 1 and len(one.tasks) > 1:
            table = _table(f"{one.benchmark} by task; p corrected for {len(one.tasks)} tasks (Holm)", ["task"], head)
            for task, each in one.tasks.items():
                table.add_row(task, *_contrast(each))
            console.print(table)
        for line in remarks(one):
            console.print(f"{one.benchmark}: {line}", style="yellow", markup=False)
    if passed:
        console.print(f"passed over: {', '.join(passed)}", style="yellow", markup=False)


def _contrast(one: Contrast) -> list[str]:
    p = one.p if one.p_holm is None else one.p_holm
    score_p = one.score_p if one.score_p_holm is None else one.score_p_holm
    return [
        str(one.n),
        f"{100 * one.a:.1f}",
        f"{100 * one.b:.1f}",
        *_points(one.difference),
        _p(p),
        *map(str, (one.wins, one.losses, one.ties)),
        f"{one.score.value:+.3f}",
        _p(score_p),
    ]


def _table(title: str, texts: Sequence[str], figures: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for name in texts:
        table.add_column(name)
    for name in figures:
        table.add_column(name, justify="right")
    return table


def _rate(one: EvalResult) -> list[str]:
    return [f"{100 * one.value:.1f}", f"{100 * one.low:.1f} to {100 * one.high:.1f}"]


def _points(one: EvalResult) -> list[str]:
    bounds = "none" if math.isnan(one.low) else f"{100 * one.low:+.1f} to {100 * one.high:+.1f}"
    return [f"{100 * one.value:+.1f}", bounds]


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return f"<{_LEAST}" if value < _LEAST else f"{value:.3f}"
