"""Implementations of the recipe's sections."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
from dataclasses import replace
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from tapir.config.annotators import AnyTrainedTagger
from tapir.config.base import CustomConfig, Section
from tapir.config.corpus import GymCorpusConfig
from tapir.config.evaluation import EvaluationConfig
from tapir.config.recipe import Recipe
from tapir.config.student import CustomStudentConfig, LocalStudentConfig, RayEngineConfig
from tapir.config.training import SftConfig
from tapir.data.files import existing
from tapir.data.screen import unwanted
from tapir.domain.completion import always_fit
from tapir.domain.errors import MissingExtra, RecipeError, StoreError
from tapir.domain.roles import Benchmark, Resource, Roles, Student, StudentFormat
from tapir.domain.round import Checkpoint
from tapir.domain.task import Taxonomy
from tapir.domain.training import Example
from tapir.models.api.ledger import Ledger
from tapir.models.api.session import ApiSession
from tapir.models.context import BuildContext
from tapir.models.local.gguf import convert, converted_folder
from tapir.models.local.loading import ModelSettings, load_tokenizer
from tapir.models.local.ray_cluster import RayCluster
from tapir.models.local.weights import weight_shapes
from tapir.models.prompts import PromptSet
from tapir.runs.corpus import inputs, prompt_set, read_corpus, taxonomy
from tapir.training.dataset import highlight_loss_mask
from tapir.training.format import TokenizedFormat


def build(section: Section, context: BuildContext) -> Any:
    """Return the implementation that a recipe section names, built from the section."""
    if isinstance(section, CustomConfig):
        return section.build(context)
    on_ray = getattr(section, "implementation_on_ray", "") if context.workers else ""
    return pkgutil.resolve_name(on_ray or section.implementation).build(section, context)


def build_benchmarks(section: EvaluationConfig, context: BuildContext) -> list[Benchmark]:
    """Return every benchmark of an evaluation section."""
    result = build(section, context)
    return result if isinstance(result, list) else [result]


def locate_student(recipe: Recipe) -> str:
    """Return where the student is loaded from: nano, a folder, that of a converted GGUF file, or a hub id."""
    if recipe.student.model == "nano":
        return str(resources.files("tapir.gym") / "nano")
    if recipe.student.gguf:
        return str(converted_folder(existing("student.model", recipe.student.model)))
    return str(Path(recipe.student.model).expanduser())


def prepare_student(recipe: Recipe) -> Checkpoint:
    """Return the student as it comes, ready to be loaded: a GGUF file is converted unless it was before."""
    if recipe.student.gguf:
        convert(existing("student.model", recipe.student.model))
    return Checkpoint(locate_student(recipe), 0)


def check_student(recipe: Recipe) -> None:
    """Raise `RecipeError` if the student is named by a path that holds no model; a hub id is left to its hub."""
    path = Path(locate_student(recipe)).expanduser()
    named_by_path = path.is_absolute() or path.exists() or recipe.student.model.startswith((".", "~"))
    if named_by_path and not recipe.student.gguf and not (path / "config.json").is_file():
        raise RecipeError(
            f"student.model = {recipe.student.model!r}: there is no config.json in {path}",
            remedy="Name a folder that transformers can load, a hub id, a GGUF file, or nano.",
        )


def build_student(recipe: Recipe) -> Student:
    """Return the student, without the rest of a run."""
    calls = ApiSession({}, recipe.calls)
    student: Student = build(recipe.student, _context(recipe, calls, PromptSet.of({}), taxonomy(recipe)))
    return student


def _context(recipe: Recipe, calls: ApiSession, prompts: PromptSet, labels: Taxonomy) -> BuildContext:
    cluster = RayCluster(recipe.engine) if isinstance(recipe.engine, RayEngineConfig) else None
    return BuildContext(recipe, calls, prompts, labels, cluster)


def render_loss_mask(recipe: Recipe, example: Example) -> list[tuple[str, bool]]:
    """Return an example as the student reads it, in pieces of text, each with whether it is learnt."""
    return highlight_loss_mask(example, load_tokenizer(prepare_student(recipe), ModelSettings.of(recipe.student)))


def check_installed(recipe: Recipe) -> None:
    """Raise `MissingExtra` unless everything this recipe runs on is installed."""
    gym = isinstance(recipe.corpus, GymCorpusConfig)
    learning = ["torch", "transformers", "trl", "datasets", "accelerate", "peft"]
    learning += ["sklearn"] if isinstance(recipe.tagger, AnyTrainedTagger) else []
    learning += ["gguf"] if recipe.student.gguf else []
    near = ["rapidfuzz", "datasketch"] if not gym or recipe.curriculum.novelty.rule == "near" else []
    needed = {
        "gym": [*learning, "reasoning_gym"] if gym else [],
        "api": near if gym else learning + near,
        "ray": ["ray"] if isinstance(recipe.engine, RayEngineConfig) else [],
        "harness": ["lm_eval"] if recipe.evaluation.kind == "harness" else [],
    }
    missing = {
        extra: [name for name in names if importlib.util.find_spec(name) is None] for extra, names in needed.items()
    }
    if any(missing.values()):
        raise MissingExtra(
            f"the recipe {recipe.name!r} needs {', '.join(name for names in missing.values() for name in names)}",
            remedy=f"pip install 'tapir-distill[{','.join(extra for extra, names in missing.items() if names)}]'",
        )


def open_ledger(path: Path) -> Ledger:
    """Open a ledger that exists, to be read where it cannot be written."""
    if not path.is_file():
        raise StoreError(f"{path} is not a file", remedy="Name a ledger, e.g. runs/NAME/ledger.sqlite.")
    return Ledger(path, writable=all(os.access(each, os.W_OK) for each in (path, path.parent)))


def student_format(recipe: Recipe) -> StudentFormat | None:
    """Return what is known of the student's texts; None where nothing here loads its tokenizer."""
    student, training = recipe.student, recipe.training if isinstance(recipe.training, SftConfig) else None
    if not training and isinstance(student, CustomStudentConfig):
        return None
    longest, answered = student.longest if isinstance(student, LocalStudentConfig) else 0, recipe.answers() != "teacher"
    return TokenizedFormat(prepare_student(recipe), ModelSettings.of(student), training, answered, longest)


def _size_notes(recipe: Recipe) -> list[str]:
    if weight_shapes(locate_student(recipe), recipe.student.revision) or recipe.student.gguf:
        return []
    model = recipe.student.model
    return [f"the disk that is needed is counted without {model}: its weights are not here as safetensors"]


def build_roles(recipe: Recipe, *, evaluated: bool = True, encoded: bool = True) -> Roles:
    """Return all roles, ready to work; nothing heavy is loaded and nobody is called before it is needed.

    Without `evaluated` there are no benchmarks and no digests, for a plan where a benchmark cannot be loaded;
    without `encoded` no special tokens are looked for, where the tokenizer is not there, and no GGUF file is converted.
    """
    check_student(recipe)
    labels = taxonomy(recipe)
    prompts, calls = prompt_set(recipe, labels.labels), ApiSession(recipe.endpoints, recipe.calls)
    context = _context(recipe, calls, prompts, labels)

    sampling = list[Student]()

    def sampling_student(temperature: float) -> Student:
        sampling.append(build(recipe.student.model_copy(update={"temperature": temperature}), context))
        return sampling[-1]

    form, notes = student_format(recipe) if encoded else None, _size_notes(recipe)
    corpus = cache(partial(read_corpus, recipe, context, form, notes))
    context = replace(context, sampling_student=sampling_student, read_corpus=corpus)
    student, teacher, judge = (build(section, context) for section in (recipe.student, recipe.teacher, recipe.judge))
    context = replace(context, student=student, teacher=teacher, judge=judge)
    tagger = build(recipe.tagger, context)
    difficulty = recipe.curriculum.difficulty
    estimator = build(difficulty, context) if difficulty.measured_by == "estimator" else None
    compared = [build(section, context) for section in recipe.curriculum.compared()]
    trainer = build(recipe.training, context)
    benchmarks = build_benchmarks(recipe.evaluation, context) if evaluated else []
    parts = (student, teacher, judge, tagger, estimator, *compared, *sampling, trainer, *benchmarks)
    return Roles(
        teacher=teacher,
        student=student,
        judge=judge,
        tagger=tagger,
        trainer=trainer,
        benchmarks=benchmarks,
        base=prepare_student(recipe) if encoded else Checkpoint(locate_student(recipe), 0),
        corpus=corpus,
        estimator=estimator,
        compared=compared,
        calls=calls if recipe.endpoints else None,
        resources=[part for part in parts if isinstance(part, Resource)],
        inputs=inputs(recipe) | (prompts.digests() if recipe.endpoints else {}) if evaluated else {},
        format=form,
        notes=notes,
        screen=unwanted if getattr(recipe.corpus, "screen", "") == "drop" else always_fit,
    )
