"""Evaluation of a run, a checkpoint or recorded answers in a folder of its own.

The folder is made like that of a run: what it depends on is in `evaluation.json`, calls are in a ledger, answers and
grades are saved chunk by chunk, and the same command continues an interrupted evaluation.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tapir.config.evaluation import AlpacaEvalConfig, EvaluationConfig
from tapir.config.recipe import Recipe
from tapir.config.toml import load
from tapir.data.files import locked, read_json, write_json
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import AnswerRow, EvaluationRow
from tapir.data.run.store import RunStore, claim_folder, is_run
from tapir.domain.errors import DataError, RecipeError, changed_keys, require_same
from tapir.domain.evaluation import Evaluation
from tapir.domain.progress import Progress
from tapir.domain.roles import Benchmark, Calls
from tapir.evaluation import alpaca_eval, mt_bench
from tapir.evaluation.alpaca_eval import AlpacaEval
from tapir.evaluation.held_out import json_rows
from tapir.evaluation.judged import llm_judge
from tapir.evaluation.mt_bench import MtBench, parse_answers, parse_questions, recorded_turns, with_references
from tapir.models.api.session import ApiSession
from tapir.models.context import BuildContext
from tapir.runs.build import build_benchmarks
from tapir.runs.corpus import file_digest, prompt_set, prompts_digest, taxonomy
from tapir.runs.endpoints import find_models
from tapir.runs.eval_target import FACTS, FACTS_REMEDY, EvalTarget, recorded_target, resolve_judged
from tapir.runs.progress import EventLog, open_calls, open_resources, record_session
from tapir.stages.answer import Answer, SavedAnswers
from tapir.stages.base import StageContext
from tapir.stages.evaluate import Evaluate
from tapir.version import __version__

TABLE = "round-0/evaluation"
_NAMED = 3
_ASKING = ("samples", "temperature", "max_tokens", "expected_score")


def claim(folder: Path, facts: Mapping[str, Any]) -> None:
    """Make the folder this evaluation's, or check that it is.

    Its results depend on `facts` (JSON): model, settings, digests of files and prompts. What differs is named.
    """
    begun = claim_folder(folder, FACTS, "is no evaluation")
    with locked(folder):
        wanted = json.loads(json.dumps(facts))
        if not begun:
            write_json(folder / "manifest.json", {"run": uuid.uuid4().hex, "tapir": __version__})
            write_json(folder / FACTS, wanted)  # last: it makes the folder an evaluation
        stored = read_json(folder / FACTS, FACTS_REMEDY)
    remedy = "Give the same command again that made it, or choose another folder with --out."
    require_same(folder, "another evaluation", changed_keys(stored, wanted), remedy=remedy)


def measure(
    folder: Path,
    target: EvalTarget,
    benchmarks: Sequence[Benchmark],
    progress: Progress,
    *,
    judge: Calls | None = None,
) -> list[Evaluation]:
    """Answer and grade every prompt of the benchmarks in a claimed folder; finished work is not repeated.

    With the session of a judge all prompts are answered first, chunk by chunk, and all answers are graded then:
    verdicts are in the ledger, so none is paid twice, and calls that failed are repeated by the same command. Every
    answer with its grade is in the table `TABLE`.
    """
    with locked(folder), ExitStack() as held:
        store = RunStore(folder)
        store.verify()
        log = EventLog(progress, store, judge)
        chunk = target.recipe.chunk
        held.enter_context(record_session(store))
        context = StageContext(store, log, 0, target.recipe.seed)
        if judge is None:
            with open_resources(target.resources, store, log):
                result = Evaluate(target.student, benchmarks, chunk).run(context, target.checkpoint)
        else:
            alone = StageContext(store, EventLog(progress, store), 0, context.seed)
            rows = _answer_all(alone, target, benchmarks)
            for name in ("evaluation.parquet", "evaluation.parts.jsonl", "metrics.json"):
                (store.round(0) / name).unlink(missing_ok=True)  # they are made again from the ledger
            with open_calls(judge, store, log):
                result = Evaluate(SavedAnswers(rows), benchmarks, None).run(context, target.checkpoint)
        _check_answered(target, folder)
        write_json(folder / "metrics.json", [asdict(evaluation) for evaluation in result])
    return result


def _check_answered(target: EvalTarget, folder: Path) -> None:
    """Check that the model has answered at least one prompt: else its figures would say nothing about it."""
    rows = graded(folder)
    if rows and all(row.answer is None for row in rows):
        why = f"{', '.join({row.failure or '': 0 for row in rows})}; the first is {rows[0].instruction[:80]!r}"
        raise DataError(
            f"{target.name} has no answer to any of the {len(rows):,} prompts: {why}",
            remedy=f"{folder / TABLE}.parquet has the prompts in its column instruction: give answers to them, or fix"
            " the model, and choose another folder with --out.",
        )


def graded(folder: Path) -> list[EvaluationRow]:
    """Return every answer of a finished evaluation, with its grade."""
    return RunStore(folder).read(TABLE, EvaluationRow)


def read_graded(text: str) -> list[EvaluationRow]:
    """Return the graded answers of the folder of an evaluation, or of a run (RUN:ROUND, else its last round)."""
    folder, number = Path(text), None
    if not folder.exists() and (parts := text.rpartition(":"))[2].isdigit():
        folder, number = Path(parts[0]), int(parts[2])
    store = RunStore(folder)
    if (folder / FACTS).is_file() and number is None:
        if store.has(TABLE):
            return graded(folder)
        raise DataError(
            f"{folder} has no graded answers: it is not finished", remedy="Give the same `tapir eval` command again."
        )
    if not is_run(folder):
        raise DataError(
            f"{text} is neither the folder of an evaluation nor of a run",
            remedy="Name what `tapir eval ... --out` or `tapir run --out` was given; RUN:2 is round 2 of a run.",
        )
    run = RunReader(store)
    return list(run.evaluation(run.choose(run.rounds("evaluation"), number, "evaluation")[-1]))


def _answer_all(context: StageContext, target: EvalTarget, benchmarks: Sequence[Benchmark]) -> dict[str, AnswerRow]:
    """Have every prompt answered; second turns of conversations follow from the first answers."""
    prompts = {prompt.instruction.id: prompt.instruction for each in benchmarks for prompt in each.prompts()}
    talks = [each for each in benchmarks if isinstance(each, MtBench)]
    later = {name for each in talks for name in each.second_turns(dict.fromkeys(prompts))}
    rows: dict[str, AnswerRow] = {}
    with open_resources(target.resources, context.store, context.progress):
        first = [instruction for name, instruction in prompts.items() if name not in later]
        rows |= Answer(target.student, target.recipe.chunk).run(context, target.checkpoint, first)
        if later:
            texts = {name: row.text for name, row in rows.items()}
            turns = {name: turn for each in talks for name, turn in each.second_turns(texts).items()}
            second = [turn for turn in turns.values() if turn]
            rows |= Answer(target.student, target.recipe.chunk, "answers-2").run(context, target.checkpoint, second)
            why = "no first answer: to follow"
            rows |= {name: AnswerRow(name, None, None, 0, why) for name, turn in turns.items() if turn is None}
    missing = [prompts[name].text for name in prompts if (rows[name].failure or "").startswith("missing:")]
    if missing:
        raise DataError(
            f"{target.name} has no answer to {len(missing):,} of {len(prompts):,} prompts; the first: "
            + "; ".join(repr(text[:50]) for text in missing[:_NAMED]),
            remedy="Give a file with an answer to every prompt, or fewer prompts.",
        )
    return rows


def build_context(recipe: Recipe, *, judged: bool) -> BuildContext:
    """Return what benchmarks are built from outside a run.

    If the recipe's judge grades (`judged`), only the judge's endpoints are opened; else none.
    """
    names = llm_judge(recipe).endpoints if judged else ()
    recipe = find_models(recipe, names=names)
    calls = ApiSession({name: recipe.endpoints[name] for name in names}, recipe.calls)
    calls.ready()
    return BuildContext(recipe, calls, prompt_set(recipe), taxonomy(recipe))


def judge_facts(context: BuildContext, prompts: Sequence[str], *settings: str) -> dict[str, Any]:
    """Return what the verdicts of the recipe's judge depend on, for `claim`.

    `prompts` names those it uses, `settings` those of its section that not every evaluation reads.
    """
    section, digests = llm_judge(context.recipe), context.prompts.digests()
    return {
        "judge": context.models(section.endpoints),
        "asking": {name: getattr(section, name) for name in (*_ASKING, *settings)},
        "prompts": {name: digests[name] for name in prompts},
    }


def claim_benchmarks(
    folder: Path, target: EvalTarget, section: EvaluationConfig, context: BuildContext, **facts: object
) -> list[Benchmark]:
    """Return the benchmarks of a section, built and with the folder claimed for them and the target."""
    benchmarks = build_benchmarks(section, context)
    settings = section.model_dump(mode="json", exclude=set(section.operational))
    questions = prompts_digest(benchmarks)
    own = {"chunk": target.recipe.chunk, "seed": target.recipe.seed, "questions": questions}
    claim(folder, {**target.facts, "evaluation": settings, **own, **facts})
    return benchmarks


def prepare_alpaca(
    folder: Path, files: tuple[Path, Path | None], text: str, recipe: str, changes: Sequence[str], number: int | None
) -> tuple[AlpacaEval, EvalTarget, ApiSession]:
    """Read and check everything that AlpacaEval needs, and claim the folder; no call is made yet.

    Args:
        folder: of the evaluation.
        files: the baseline's answers, and prompts (None takes those of the baseline).
        text: the model under evaluation.
        recipe: whose judge grades; "" takes the run's own.
        changes: "key=value" over the recipe.
        number: round of a run.
    """
    target, judged = resolve_judged(text, recipe, changes, number, folder)
    section = AlpacaEvalConfig(kind="alpaca_eval", baseline=str(files[0]), prompts=str(files[1] or ""))
    context = build_context(judged, judged=True)
    (benchmark,) = claim_benchmarks(folder, target, section, context, **judge_facts(context, alpaca_eval.PROMPTS))
    assert isinstance(benchmark, AlpacaEval)  # noqa: S101 (the section says so)
    return benchmark, target, context.session


def prepare_mt_bench(
    folder: Path,
    files: tuple[Path, Path | None],
    text: str,
    recipe: str,
    changes: Sequence[str],
    number: int | None = None,
    *,
    model: str = "",
) -> tuple[MtBench, EvalTarget, ApiSession]:
    """Read and check everything that MT-Bench needs, and claim the folder, as `prepare_alpaca` does.

    The files are questions and reference answers (None grades without). The text may also name a file of answers in
    FastChat's form, from which those of `model` are taken.
    """
    questions = parse_questions(json_rows(files[0]), str(files[0]))
    if files[1]:
        authors = parse_answers(json_rows(files[1]), str(files[1]))
        if len(authors) > 1:
            raise DataError(
                f"{files[1]} holds references of {', '.join(sorted(authors))}",
                remedy="Give a file with one reference answer to each question.",
            )
        questions = with_references(questions, next(iter(authors.values())))
    path = Path(text).expanduser()
    if path.is_file() and recipe:
        models = parse_answers(json_rows(path), str(path))
        if len(models) > 1 and model not in models:
            raise RecipeError(
                f"{path} holds the answers of {', '.join(sorted(models))}; --model is {model!r}",
                remedy="Name one of them with --model.",
            )
        name = model if model in models else next(iter(models))
        judged = load(recipe, changes)
        target = recorded_target(path, recorded_turns(questions, models[name]), name, judged)
    else:
        target, judged = resolve_judged(text, recipe, changes, number, folder)
    context = build_context(judged, judged=True)
    digests = {"questions": file_digest(files[0]), "references": file_digest(files[1]) if files[1] else "none"}
    asking = judge_facts(context, mt_bench.PROMPTS, "rationale")
    claim(folder, {"evaluation": "mt-bench", **digests, **target.facts, **asking})
    return MtBench(questions, context), target, context.session
