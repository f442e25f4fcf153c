"""The command line: `tapir eval`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tapir.cli.tables import AsJson, Changes, new_console, out_option, print_json, print_line, print_table
from tapir.domain.errors import DataError, RecipeError

if TYPE_CHECKING:
    from rich.console import Console

    from tapir.cli.progress import TerminalProgress
    from tapir.config.evaluation import EvaluationConfig
    from tapir.data.run.rows import EvaluationRow
    from tapir.evaluation.alpaca_eval import ModelRates
    from tapir.evaluation.mt_bench import MtBenchScores
    from tapir.evaluation.paired import PairedResult
    from tapir.gym.robustness import GymSuite

_LONGEST_ANSWER = 1280
"""Tokens of a model's answer to tasks of lm-evaluation-harness: IFEval's limit, the largest of those in use."""

evals = typer.Typer(
    name="eval", no_args_is_help=True, rich_markup_mode=None, help="Evaluate a student, or answers in a file."
)

Target = Annotated[
    str,
    typer.Argument(metavar="TARGET", help="A run, a model (folder, GGUF file, hub id or nano), or file of answers."),
]
Out = Annotated[Path, out_option(help="Folder to write to; the same command resumes in it.")]
Round = Annotated[
    int | None, typer.Option("--round", min=0, help="Round of a run whose student is evaluated (default: the last).")
]
RecipeName = Annotated[str, typer.Option("--recipe", help="Recipe of a target that is no run (default: gym).")]
JudgeRecipe = Annotated[
    str, typer.Option("--recipe", help="Recipe that configures the judge (default: the run's own).")
]


@evals.command("gym")
def eval_gym(  # noqa: PLR0913 (options)
    target: Target,
    *,
    folder: Out,
    per_task: Annotated[int, typer.Option(min=0, help="In-distribution prompts for each skill; 0 skips them.")] = 30,
    harder: Annotated[int, typer.Option(min=0, help="Prompts one level harder, for each skill.")] = 10,
    unseen: Annotated[int, typer.Option(min=0, help="Prompts for each skill that is never trained on.")] = 20,
    perturbed: Annotated[int, typer.Option(min=0, help="Prompts for each skill that are also perturbed.")] = 10,
    sample: Annotated[int, typer.Option(min=0, help="Index of the prompt sample.")] = 0,
    recipe: RecipeName = "",
    changes: Changes = None,
    number: Round = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate on the gym: in-distribution, one level harder, unseen skills, perturbed instructions."""
    from tapir.cli.eval_tables import benchmark_table, drop_table
    from tapir.cli.progress import attend
    from tapir.data.files import nan_to_null, read_json, write_json
    from tapir.evaluation.exact import answer_problems
    from tapir.evaluation.paired import as_json as paired_json
    from tapir.runs.corpus import gym_suite
    from tapir.runs.eval_target import resolve_target
    from tapir.runs.evaluate import claim, graded, measure

    who = resolve_target(target, recipe, changes or (), number, folder)
    sizes = {"per_task": per_task, "harder": harder, "unseen": unseen, "perturbed": perturbed, "sample": sample}
    suite = gym_suite(who.recipe, **sizes)
    claim(folder, {"evaluation": "gym", **who.facts, **sizes, "skills": list(suite.skills), "prompts": suite.digest})
    left_out = {each.name: len(each.left_out) for each in suite.changed}

    def work(progress: TerminalProgress) -> tuple[Any, ...]:
        evaluations = measure(folder, who, suite.benchmarks, progress)
        rows = graded(folder)
        problems, drops = answer_problems(rows), _perturbation_drops(suite, rows)
        content = {
            "student": who.name,
            "benchmarks": [{**nan_to_null(each), "trouble": problems.get(each.benchmark, {})} for each in evaluations],
            "perturbations": [{**paired_json(each), "left_out": left_out[each.benchmark]} for each in drops],
        }
        write_json(folder / "gym.json", nan_to_null(content))
        return evaluations, drops, problems

    def show(console: Console, scores: tuple[Any, ...]) -> None:
        evaluations, drops, problems = scores
        results = {each.benchmark: each.overall for each in evaluations}
        print_table(console, benchmark_table(f"{who.name} on the gym", results, problems))
        if drops:
            print_table(console, drop_table(drops, left_out))
        print_line(console, f"results: {folder / 'gym.json'}")

    attend(folder, work, show, (lambda _: read_json(folder / "gym.json")) if as_json else None)


def _perturbation_drops(suite: GymSuite, rows: Sequence[EvaluationRow]) -> list[PairedResult]:
    """Compare every perturbation with its unperturbed twin."""
    from tapir.evaluation.paired import compare_pairs, with_holm
    from tapir.gym.robustness import paired_with_plain

    drops = [compare_pairs(*paired_with_plain(each, rows), each.name) for each in suite.changed]
    means = with_holm({drop.benchmark: drop.mean_of_tasks for drop in drops}, "p")
    return [replace(drop, mean_of_tasks=means[drop.benchmark]) for drop in drops]


@evals.command("harness")
def eval_harness(  # noqa: PLR0913 (options)
    target: Target,
    tasks: Annotated[str, typer.Option(help="Tasks of lm-evaluation-harness or task files, e.g. ifeval,gsm8k.")],
    folder: Out,
    include: Annotated[str, typer.Option(help="Folder with task files (YAML) of your own (default: none).")] = "",
    limit: Annotated[int, typer.Option(min=0, help="Use the first so many prompts of each task; 0 means all.")] = 0,
    changes: Changes = None,
    number: Round = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Evaluate on tasks of lm-evaluation-harness: its prompts and graders, answered by the student here."""
    from tapir.config.evaluation import HarnessConfig
    from tapir.data.run.store import is_run

    names = tuple(filter(None, (name.strip() for name in tasks.split(","))))
    if not names:
        raise RecipeError("--tasks names no task", remedy="For example --tasks ifeval,gsm8k.")
    section = HarnessConfig(kind="harness", tasks=names, include=include, limit=limit)
    answering = [] if is_run(Path(target).expanduser()) else [f"student.max_new_tokens={_LONGEST_ANSWER}"]
    _eval_section(target, section, folder, ("", [*answering, *(changes or ())], number), as_json=as_json)


@evals.command("custom")
def eval_custom(  # noqa: PLR0913 (options)
    target: Target,
    name: Annotated[str, typer.Option("--class", help='Benchmark class as "package.module:Class".')],
    folder: Out,
    options: Annotated[
        list[str] | None, typer.Option("--option", help="key=value for the class, repeatable (default: none).")
    ] = None,
    recipe: RecipeName = "",
    changes: Changes = None,
    number: Round = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Evaluate on a benchmark class of your own (tapir.domain.roles.Benchmark)."""
    from tapir.config.evaluation import CustomEvaluationConfig

    values = dict(_option(text) for text in options or ())
    try:
        section = CustomEvaluationConfig.model_validate({"kind": "custom", "class": name, "options": values})
    except ValueError as error:
        raise RecipeError(f"--class {name}: this is no class", remedy='Write "package.module:Class".') from error
    _eval_section(target, section, folder, (recipe, changes or (), number), as_json=as_json)


def _option(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign:
        raise RecipeError(f"--option {text}: there is no =", remedy="Write key=value, the value as JSON or plain text.")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _eval_section(
    target: str,
    section: EvaluationConfig,
    folder: Path,
    options: tuple[str, Sequence[str], int | None],
    *,
    as_json: bool,
) -> None:
    """Evaluate on the benchmarks of a section, and write results.json; `options` are recipe, changes and round."""
    from tapir.cli.eval_tables import benchmark_table
    from tapir.cli.progress import attend
    from tapir.config.evaluation import HarnessConfig
    from tapir.data.files import nan_to_null, write_json
    from tapir.evaluation.exact import answer_problems
    from tapir.evaluation.lm_eval import HarnessTask, harness_facts
    from tapir.runs.eval_target import resolve_target
    from tapir.runs.evaluate import build_context, claim_benchmarks, graded, measure

    who = resolve_target(target, *options, folder)
    facts = harness_facts(section) if isinstance(section, HarnessConfig) else {}
    benchmarks = claim_benchmarks(folder, who, section, build_context(who.recipe, judged=False), **facts)

    def work(progress: TerminalProgress) -> dict[str, Any]:
        results = {each.benchmark: each.overall for each in measure(folder, who, benchmarks, progress)}
        rows = graded(folder)
        for task in (benchmark for benchmark in benchmarks if isinstance(benchmark, HarnessTask)):
            results |= {f"{task.name} {name}": value for name, value in task.results(rows).items()}
        content = {"student": who.name, "results": results, "problems": answer_problems(rows)}
        write_json(folder / "results.json", nan_to_null(content))
        return content

    def show(console: Console, content: dict[str, Any]) -> None:
        print_table(console, benchmark_table(who.name, content["results"], content["problems"]))
        print_line(console, f"results: {folder / 'results.json'}")

    attend(folder, work, show, (lambda content: content) if as_json else None)


@evals.command("pair")
def eval_pair(
    a: Annotated[
        str, typer.Argument(help="Folder of an evaluation or of a run; RUN:ROUND for a round (default: the last).")
    ],
    b: Annotated[str, typer.Argument(help="The other one.")],
    *,
    benchmark: Annotated[str | None, typer.Option(help="Compare only this benchmark, and its tasks.")] = None,
    common: Annotated[bool, typer.Option("--common", help="Compare only prompts that both answered.")] = False,
    out: Annotated[Path | None, out_option(help="File to write everything to, as JSON (default: none).")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two checkpoints on the same prompts: differences with intervals and exact or permutation tests."""
    from tapir.cli.eval_tables import show_pairs, warn
    from tapir.data.files import write_json
    from tapir.evaluation.paired import as_json as paired_json
    from tapir.evaluation.paired import benchmarks_of, compare_pairs
    from tapir.runs.evaluate import read_graded

    left, right = read_graded(a), read_graded(b)
    of_a, of_b = benchmarks_of(left), benchmarks_of(right)
    names = [benchmark] if benchmark else [name for name in of_a if name in of_b]
    if not names:
        raise DataError(
            f"A has the benchmarks {', '.join(of_a) or 'none'} and B {', '.join(of_b) or 'none'}: none is in both",
            remedy="Compare evaluations of the same kind.",
        )
    results = [compare_pairs(left, right, name, common=common) for name in names]
    alone = {"A": [name for name in of_a if name not in of_b], "B": [name for name in of_b if name not in of_a]}
    skipped = [f"{name} (only {side})" for side, each in alone.items() for name in each if not benchmark]
    content = {"a": a, "b": b, "benchmarks": [paired_json(each) for each in results], "passed over": skipped}
    if out:
        write_json(out, content)
    if as_json:
        print_json(content)
        return
    show_pairs(new_console(), f"A: {a}\nB: {b}", results)
    if skipped:
        warn(new_console(), f"skipped: {', '.join(skipped)}")
    if out:
        print_line(new_console(), f"all results: {out}")


@evals.command("alpaca")
def eval_alpaca(  # noqa: PLR0913 (options)
    target: Annotated[
        str, typer.Argument(metavar="[TARGET]", help="As elsewhere; none with --annotations alone.")
    ] = "",
    *,
    baseline: Annotated[Path | None, typer.Option(help="Answers to compare with, e.g. model_outputs.json.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts that count, in order (default: the baseline's).")
    ] = None,
    recipe: JudgeRecipe = "",
    changes: Changes = None,
    folder: Annotated[Path | None, out_option(help="As elsewhere; needed with a TARGET.")] = None,
    number: Round = None,
    annotations: Annotated[
        list[Path] | None,
        typer.Option(help="Recorded annotations (annotations.json): rates of every model in them (default: none)."),
    ] = None,
    difficulty: Annotated[
        Path | None, typer.Option(help="instruction_difficulty.csv of the official package (default: none).")
    ] = None,
    gamed: Annotated[Path | None, typer.Option(help="df_gamed.csv of the official package (default: none).")] = None,
    without_unjudged: Annotated[
        bool, typer.Option("--without-unjudged", help="Leave out prompts that were not judged; they are counted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Win rate against a baseline's answers, raw and length-controlled (AlpacaEval 2.0)."""
    from tapir.cli.eval_tables import show_rates
    from tapir.evaluation.alpaca_eval import rate_models
    from tapir.evaluation.length_control import read_files

    files = read_files(difficulty, gamed)
    rate = partial(rate_models, annotations or (), files, prompts, folder, without_unjudged=without_unjudged)
    if target:
        _measure_alpaca(target, (recipe, changes or (), number), baseline, prompts, folder, rate, as_json=as_json)
        return
    given = {"--baseline": baseline, "--recipe": recipe, "--set": changes, "--round": number}
    for name in (name for name, value in given.items() if value):
        raise RecipeError(f"{name} has no effect without a TARGET", remedy=f"Give one, or leave {name} out.")
    results = rate()
    if as_json:
        print_json([each.as_json() for each in results])
    else:
        show_rates(new_console(), results)


def _measure_alpaca(
    target: str,
    options: tuple[str, Sequence[str], int | None],
    baseline: Path | None,
    prompts: Path | None,
    folder: Path | None,
    rate: Callable[..., list[ModelRates]],
    *,
    as_json: bool,
) -> None:
    """Have the answers of a target compared with the baseline's, and show the rates."""
    from tapir.cli.eval_tables import show_rates, verdict_line
    from tapir.cli.progress import attend
    from tapir.data.files import write_json
    from tapir.runs.evaluate import graded, measure, prepare_alpaca

    if baseline is None or folder is None:
        raise RecipeError(
            f"{target}: --baseline and --out are needed to compare its answers",
            remedy="For example: tapir eval alpaca TARGET --baseline model_outputs.json --recipe judge.toml --out out",
        )
    benchmark, who, judge = prepare_alpaca(folder, (baseline, prompts), target, *options)
    rate(own=benchmark.pending(who.name), check=True)

    def work(progress: TerminalProgress) -> tuple[list[ModelRates], str]:
        measure(folder, who, [benchmark], progress, judge=judge)
        rows = graded(folder)
        annotations = benchmark.annotations(rows, who.name)
        write_json(folder / "annotations.json", annotations)
        return rate(own=annotations), verdict_line(annotations, rows)

    def show(console: Console, result: tuple[list[ModelRates], str]) -> None:
        show_rates(console, result[0], who.name, result[1])

    content = (lambda result: [each.as_json() for each in result[0]]) if as_json else None
    attend(folder, work, show, content, meter=judge.meter)


@evals.command("mt-bench")
def eval_mt_bench(  # noqa: PLR0913 (options)
    target: Target,
    *,
    questions: Annotated[Path, typer.Option(help="FastChat's question.jsonl.")],
    folder: Out,
    references: Annotated[
        Path | None, typer.Option(help="Reference answers to mathematics, reasoning and coding, in FastChat's form.")
    ] = None,
    without_references: Annotated[
        bool, typer.Option("--without-references", help="Grade mathematics, reasoning and coding without references.")
    ] = False,
    recipe: JudgeRecipe = "",
    changes: Changes = None,
    number: Round = None,
    model: Annotated[str, typer.Option(help="Model to select if the file of answers contains several.")] = "",
    as_json: AsJson = False,
) -> None:
    """Two-turn questions in eight categories, graded from 1 to 10 (MT-Bench)."""
    from tapir.cli.eval_tables import show_grades
    from tapir.cli.progress import attend
    from tapir.data.files import write_json
    from tapir.runs.evaluate import graded, measure, prepare_mt_bench

    if (references is None) != without_references:
        raise RecipeError(
            "either --references FILE or --without-references, and not both",
            remedy="Mathematics, reasoning and coding are graded with references: bring a file, or say there is none.",
        )
    files = (questions, references)
    benchmark, who, judge = prepare_mt_bench(folder, files, target, recipe, changes or (), number=number, model=model)

    def work(progress: TerminalProgress) -> MtBenchScores:
        measure(folder, who, [benchmark], progress, judge=judge)
        scores = benchmark.summarise(graded(folder), who.name)
        write_json(folder / "mt-bench.json", scores.as_json())
        return scores

    content = (lambda scores: scores.as_json()) if as_json else None
    attend(folder, work, partial(show_grades, references=references), content, meter=judge.meter)
