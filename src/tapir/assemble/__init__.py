"""Recipe to objects: the only package that names concrete backends."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

from tapir.assemble.corpora import benchmarks, corpus_of, existing, forbidden, inputs, novelty
from tapir.assemble.learners import (
    check_student,
    cluster,
    estimator,
    mask,
    model_settings,
    student,
    student_path,
    trainer,
)
from tapir.assemble.speakers import endpoint, judge, tagger, teacher
from tapir.assemble.tasks import skills, taxonomy
from tapir.domain.round import Checkpoint
from tapir.errors import MissingExtra, StoreError
from tapir.gym.skills import UNSEEN
from tapir.learning import RayEngine
from tapir.llm.book import Book
from tapir.llm.ledger import Ledger, merge_ledgers
from tapir.llm.switchboard import Switchboard
from tapir.recipe import Recipe
from tapir.roles import Resource, Roles, Student
from tapir.sections import GymCorpus

__all__ = [
    "UNSEEN",
    "answering",
    "check_installed",
    "check_student",
    "corpus_of",
    "forbidden",
    "held_by",
    "ledger",
    "mask",
    "merge_ledgers",
    "model_settings",
    "novelty",
    "roles",
    "skills",
    "student_path",
    "taxonomy",
]


def check_installed(recipe: Recipe) -> None:
    """Raise `MissingExtra` unless everything this recipe runs on is installed."""
    missing = [name for name in _needed(recipe) if importlib.util.find_spec(name) is None]
    if missing:
        extras = ["gym" if isinstance(recipe.corpus, GymCorpus) else "api", *(["ray"] if "ray" in missing else [])]
        raise MissingExtra(
            f"the recipe {recipe.name!r} needs {', '.join(missing)}",
            remedy=f"pip install 'tapir-distill[{','.join(extras)}]'",
        )


def _needed(recipe: Recipe) -> Iterator[str]:
    yield from ("torch", "transformers", "trl", "datasets", "accelerate", "peft")
    if isinstance(recipe.engine, RayEngine):
        yield "ray"
    if isinstance(recipe.corpus, GymCorpus):
        yield from ("reasoning_gym", "scipy")
    if recipe.tagger.kind == "tfidf":
        yield "sklearn"
    if not isinstance(recipe.corpus, GymCorpus) or recipe.curriculum.novelty.rule == "near":
        yield from ("rapidfuzz", "datasketch")


def answering(recipe: Recipe) -> Student:
    """Who answers, without the rest of a run."""
    return student(recipe, cluster(recipe))


def held_by(*people: object) -> list[Resource]:
    """Those of the roles that hold memory, servers or clusters."""
    return [one for one in people if isinstance(one, Resource)]


def ledger(path: Path) -> Ledger:
    """Open a ledger.

    Raises:
        StoreError: there is none, or the file is something else.
    """
    if not path.is_file():
        raise StoreError(f"{path} is not a file", remedy="Name a ledger, e.g. runs/NAME/ledger.sqlite.")
    return Ledger(path)


def roles(recipe: Recipe) -> Roles:
    """Everyone who takes part, ready to work; nothing heavy is loaded and nobody is called before it is needed.

    Raises:
        RecipeError: a skill, taxonomy, prompt or model folder it names does not exist.
    """
    check_student(recipe)
    labels = taxonomy(recipe)
    book = Book.of({name: existing(f"prompts.{name}", path) for name, path in recipe.prompts.items()}, labels.labels)
    calls = Switchboard(
        {name: endpoint(name, one) for name, one in recipe.endpoints.items()},
        Path(recipe.calls.ledger).expanduser() if recipe.calls.ledger else None,
        recipe.calls.max_cost,
        recipe.calls.attempts,
    )
    corpus = cache(partial(corpus_of, recipe))
    workers = cluster(recipe)
    answers, teaching = student(recipe, workers), teacher(recipe, calls, book)
    judging = judge(recipe, calls, book, labels, workers)
    tagging = tagger(recipe, calls, book, labels, teaching, workers)
    measuring = estimator(recipe.curriculum.difficulty.kind, recipe, workers, judging)
    compared = [
        one for name in recipe.curriculum.compare if (one := estimator(name, recipe, workers, judging)) is not None
    ]
    return Roles(
        teacher=teaching,
        student=answers,
        judge=judging,
        tagger=tagging,
        trainer=trainer(recipe),
        benchmarks=benchmarks(recipe, corpus, judging, teaching),
        base=Checkpoint(student_path(recipe), 0),
        corpus=corpus,
        estimator=measuring,
        compared=compared,
        calls=calls if recipe.endpoints else None,
        resources=held_by(answers, judging, tagging, measuring, *compared),
        inputs=inputs(recipe) | (book.digests() if recipe.endpoints else {}),
    )
