"""The command line: `tapir eval` for what a program can check: IFEval, GSM8K, BBH, and the evaluation harness."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tapir.errors import DataError, RecipeError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tapir.domain.round import EvalResult
    from tapir.evaluation.exact import Figures
    from tapir.examinee import Source
    from tapir.roles import Benchmark
    from tapir.store.rows import EvaluationRow

task_evals = typer.Typer(rich_markup_mode=None)

Who = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="Whose answers: the folder of a run, a model (folder or hub id), or a file with answers."
    ),
]
Prompts = Annotated[Path, typer.Option("--prompts", help="The benchmark's own file: JSON Lines, plain or as .gz.")]
Folder = Annotated[Path, typer.Option("--dir", help="Folder of the evaluation; the same command goes on in it.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="key=value, e.g. student.max_new_tokens=1280; repeatable.")
]
Round = Annotated[int | None, typer.Option("--round", help="Of a run: the student after this round; its last without.")]


class Ask(StrEnum):
    """How a question is put."""

    steps = "steps"
    question = "question"


Asked = Annotated[
    Ask, typer.Option(help="steps: think aloud and end with the answer; question: nothing but the question.")
]


@task_evals.command("ifeval")
def ifeval(
    source: Who,
    prompts: Prompts,
    folder: Folder,
    changes: Changes = None,
    number: Round = None,
) -> None:
    """IFEval: instructions that a program can verify, strict and loose, by prompt and by instruction."""
    from tapir.evaluation import ifeval as task
    from tapir.store.files import replacing

    items = task.read(_rows(prompts))
    who = _source(source, changes, number)

    def finish(rows: Sequence[EvaluationRow]) -> Figures:
        verdicts, figures = task.graded(items, rows, who.name)
        with replacing(folder / "checks.jsonl") as draft:
            lines = (json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in verdicts)
            draft.write_text("".join(lines), encoding="utf-8")
        return figures

    facts = {"prompts": _digest([(one.prompt, one.instructions) for one in items])}
    _Job(who, folder, facts).do(task.IfevalBenchmark(lambda: items), finish)


@task_evals.command("gsm8k")
def gsm8k(  # noqa: PLR0913 (one parameter for each option)
    source: Who,
    prompts: Prompts,
    folder: Folder,
    changes: Changes = None,
    number: Round = None,
    *,
    ask: Asked = Ask.steps,
    shots: Annotated[int, typer.Option(min=0, help="Worked examples from --train before every question.")] = 0,
    train: Annotated[Path | None, typer.Option(help="File of GSM8K to take worked examples from.")] = None,
) -> None:
    """GSM8K: the final number, as it is asked for (strict) or wherever it stands (flexible)."""
    from tapir.evaluation import gsm8k as task

    if bool(shots) != (train is not None):
        raise RecipeError("--shots and --train need each other", remedy="Give both, or leave both out.")
    if shots and ask is Ask.question:
        raise RecipeError("--ask has no effect with --shots", remedy="Leave one of them out.")
    problems = task.read(_rows(prompts))
    who = _source(source, changes, number)
    worked = task.chosen_shots(task.read(_rows(train)), problems, shots, who.recipe.seed) if train else ()
    asking = task.Asking(ask.value, worked)
    facts = {
        "prompts": _digest([asdict(one) for one in problems]),
        "asked": "shots" if worked else ask.value,
        "shots": _digest([asdict(one) for one in worked]) if worked else "",
    }
    _Job(who, folder, facts).do(
        task.Gsm8kBenchmark(lambda: problems, asking),
        lambda rows: task.figures(problems, asking, rows, who.name),
    )


@task_evals.command("bbh")
def bbh(
    source: Who,
    prompts: Prompts,
    folder: Folder,
    changes: Changes = None,
    number: Round = None,
    ask: Asked = Ask.steps,
) -> None:
    """BIG-Bench Hard: exact answers to 27 tasks, by task and as the mean of the tasks."""
    from tapir.evaluation import bbh as task

    problems = task.read(_rows(prompts))
    who = _source(source, changes, number)
    facts = {"prompts": _digest([asdict(one) for one in problems]), "asked": ask.value}
    _Job(who, folder, facts).do(
        task.BbhBenchmark(lambda: problems, ask.value), lambda rows: task.figures(problems, ask.value, rows, who.name)
    )


@task_evals.command("harness")
def harness(  # noqa: PLR0913 (one parameter for each option)
    source: Who,
    tasks: Annotated[str, typer.Option(help="Tasks of the harness, separated by commas, e.g. ifeval,gsm8k.")],
    folder: Folder,
    options: Annotated[
        list[str] | None, typer.Argument(help="After --: more options of the harness, e.g. -- --limit 50.")
    ] = None,
    python: Annotated[
        str, typer.Option(help="Python of the environment that has lm_eval.")
    ] = ".venv-lm-eval/bin/python",
    changes: Changes = None,
    number: Round = None,
    *,
    chat: Annotated[bool, typer.Option(help="Put prompts in the student's chat template.")] = True,
) -> None:
    """Run lm-evaluation-harness, in its own environment, on a checkpoint."""
    from tapir import evaluating
    from tapir.evaluation import harness as program
    from tapir.terminal import Attended

    who = _source(source, changes, number)
    if "answers" in who.facts:
        raise RecipeError(f"{source} holds answers; the harness asks a model", remedy="Give a run or a model.")
    for one in changes or ():
        if one.startswith("student."):
            raise RecipeError(
                f"--set {one} has no effect: the harness generates with settings of its own",
                remedy='Give them after --, e.g. -- --gen_kwargs "max_gen_toks=1280".',
            )
    job = program.Harness(
        python, who.who.checkpoint.path, program.tasks_of(tasks), tuple(options or ()), chat, who.recipe.seed
    )
    evaluating.claim(folder, program.facts(job, job.check(), who.facts))
    Attended(folder, _command()).do(
        lambda watch: _kept(folder, who.name, job.run(folder, watch)),
        lambda console, found: _show(console, found, who.name, folder),
    )


@dataclass(frozen=True, slots=True)
class _Job:
    """One evaluation of one source in its folder."""

    who: Source
    folder: Path
    facts: Mapping[str, Any]

    def do(self, benchmark: Benchmark, finish: Callable[[Sequence[EvaluationRow]], Figures]) -> None:
        """Answer, grade, keep the figures, and show them."""
        from tapir import evaluating
        from tapir.terminal import Attended, TerminalWatch

        recipe = self.who.recipe
        facts = {
            **self.who.facts,
            **self.facts,
            "benchmark": benchmark.name,
            "chunk": recipe.chunk,
            "seed": recipe.seed,
        }

        def work(watch: TerminalWatch) -> Figures:
            evaluating.measure(
                self.folder, self.who.who, [benchmark], chunk=recipe.chunk, seed=recipe.seed, watch=watch
            )
            return _kept(self.folder, self.who.name, finish(evaluating.graded(self.folder)))

        evaluating.claim(self.folder, facts)
        Attended(self.folder, _command()).do(
            work, lambda console, found: _show(console, found, self.who.name, self.folder)
        )


def _command() -> str:
    """What goes on where this evaluation was stopped."""
    return shlex.join(["tapir", *sys.argv[1:]])


def _source(text: str, changes: Sequence[str] | None, number: int | None) -> Source:
    from tapir import examinee

    return examinee.source(text, "gym", changes or (), number)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Place and fields of every row.

    Raises:
        DataError: the file or a row of it cannot be read; an evaluation set is whole or it is another one.
    """
    from tapir.data.formats import records
    from tapir.data.row import BadRow

    for one in records(path):
        if isinstance(one, BadRow):
            raise DataError(
                f"{one.place}: {one.reason}: {one.text[:80]}", remedy="Mend the row, or fetch the file again."
            )
        yield one.place, one.fields


def _digest(content: object) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def _kept(folder: Path, source: str, found: Figures) -> Figures:
    from tapir.store.files import write_json

    write_json(folder / f"{found.benchmark}.json", {"source": source, **found.as_json()})
    return found


def _show(console: Console, found: Figures, source: str, folder: Path) -> None:
    console.print(_main_table(found, source))
    if found.groups:
        console.print(_group_table(found))
    for kind, count in found.failures.items():
        console.print(f"{count} of {found.n} prompts: {kind}; they count as wrong", style="yellow", markup=False)
    console.print(f"everything is in {folder / found.benchmark}.json", markup=False, soft_wrap=True)


def _main_table(found: Figures, source: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{found.benchmark}: {source}"), title_justify="left")
    table.add_column("figure")
    for name in ("n", "value", "95 % interval"):
        table.add_column(name, justify="right")
    for name, one in found.results.items():
        table.add_row(Text(name), f"{one.n:,}", _percent(one.value), _interval(one))
    return table


def _group_table(found: Figures) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1))
    columns = list(next(iter(found.groups.values())))
    table.add_column("part")
    table.add_column("n", justify="right")
    for name in columns:
        table.add_column(name, justify="right")
        table.add_column("95 % interval", justify="right")
    for group, results in found.groups.items():
        cells = [cell for name in columns for cell in (_percent(results[name].value), _interval(results[name]))]
        table.add_row(Text(group), f"{results[columns[0]].n:,}", *cells)
    return table


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(one: EvalResult) -> str:
    return "too few" if math.isnan(one.low) else f"{100 * one.low:.1f} to {100 * one.high:.1f}"
