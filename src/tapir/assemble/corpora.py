"""Instructions: the corpus, the held-out sets, and what is known of both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from tapir.assemble.tasks import skills
from tapir.data.corpus import held_out, pairs, prompts, sampled
from tapir.data.evaluation_sets import texts
from tapir.data.neighbours import Neighbours
from tapir.data.novelty import Novelty
from tapir.data.readers import Columns, read_file, read_hub
from tapir.domain.instruction import Pair
from tapir.domain.randomness import seed_for
from tapir.errors import DataError, RecipeError
from tapir.evaluation.exact import ExactBenchmark, number, plain
from tapir.evaluation.judged import JudgedBenchmark
from tapir.gym.benchmarks import benchmarks as gym_benchmarks
from tapir.gym.corpus import corpus as gym_corpus
from tapir.recipe import Recipe
from tapir.roles import Benchmark, Judge, Prompt, Rejected, Roles, Teacher
from tapir.sections import Columns as ColumnsSection
from tapir.sections import ExactEvaluation, FileCorpus, GymCorpus, GymEvaluation, JudgedEvaluation

Corpus: TypeAlias = Callable[[], list[Pair | Rejected]]


def corpus_of(recipe: Recipe) -> list[Pair | Rejected]:
    """D as its reader gives it, with the rows that could not be read.

    Raises:
        DataError: the file or data set cannot be used at all.
    """
    source = recipe.corpus
    if isinstance(source, GymCorpus):
        return list(gym_corpus(skills(recipe), size=source.size, skew=source.skew, seed=recipe.seed))
    columns = _columns(source.columns)
    if isinstance(source, FileCorpus):
        path = existing("corpus.path", source.path)
        rows, author = read_file(path, layout=source.layout, columns=columns), path.name
    else:
        author = source.dataset
        rows = read_hub(
            source.dataset, split=source.split, revision=source.revision, layout=source.layout, columns=columns
        )
    found = sampled(list(pairs(rows, author)), source.limit, seed_for(recipe.seed, "corpus"))
    if not any(isinstance(one, Pair) for one in found):
        raise DataError(
            f"{author}: none of its {len(found)} rows is an instruction",
            remedy="Check corpus.layout and corpus.columns; the first problem was "
            + next((one.reason for one in found if isinstance(one, Rejected)), "that it is empty")
            + ".",
        )
    return found


def novelty(recipe: Recipe) -> Novelty:
    """An empty collection of texts, with what the recipe takes for a repetition."""
    rule = recipe.curriculum.novelty
    return Novelty(Neighbours(rouge=rule.rouge, minhash=rule.minhash) if rule.rule == "near" else None)


def forbidden(recipe: Recipe, people: Roles) -> Novelty:
    """The texts of every evaluation set: those that are measured with, and those that are only to be kept out."""
    found = novelty(recipe)
    for benchmark in people.benchmarks:
        found.learn_all((one.instruction.id, one.instruction.text) for one in benchmark.prompts())
    for name in getattr(recipe.evaluation, "protect", ()):
        found.learn_all(texts(existing("evaluation.protect", name)))
    return found


def benchmarks(recipe: Recipe, corpus: Corpus, judge: Judge, teacher: Teacher) -> list[Benchmark]:
    """Every held-out set of the recipe."""
    wanted = recipe.evaluation
    if isinstance(wanted, GymEvaluation):
        sizes = {"per_task": wanted.per_task, "harder": wanted.harder_per_task, "unseen": wanted.unseen_per_task}
        return list(gym_benchmarks(skills(recipe), **sizes, sample=wanted.sample))
    found: list[Benchmark] = []
    if wanted.held_out:
        answered = getattr(recipe.corpus, "answers", "corpus") != "teacher" or isinstance(wanted, ExactEvaluation)
        seed = seed_for(recipe.seed, "held-out")

        def chosen() -> list[Prompt]:
            return held_out(corpus(), wanted.held_out, seed, answered=answered)

        found.append(_benchmark("held-out", chosen, wanted, judge, teacher))
    if wanted.file:
        path = existing("evaluation.file", wanted.file)

        def listed() -> list[Prompt]:
            rows = read_file(path, layout=wanted.layout, columns=_columns(wanted.columns))
            return prompts(pairs(rows, path.name), f"evaluation.file = {wanted.file!r}")

        found.append(_benchmark("file", listed, wanted, judge, teacher))  # not by its name, which may change
    return found


def _benchmark(
    name: str,
    read: Callable[[], list[Prompt]],
    wanted: JudgedEvaluation | ExactEvaluation,
    judge: Judge,
    teacher: Teacher,
) -> Benchmark:
    if isinstance(wanted, ExactEvaluation):
        return ExactBenchmark(name, read, plain if wanted.match == "plain" else number)
    return JudgedBenchmark(name, read, judge, teacher)


def inputs(recipe: Recipe) -> dict[str, str]:
    """Digest of every file a run reads again when it is resumed, by the key that names it."""
    names = {"corpus.path": recipe.corpus.path} if isinstance(recipe.corpus, FileCorpus) else {}
    template = recipe.student.chat_template
    names |= {"student.chat_template": template} if Path(template).expanduser().is_file() else {}
    names |= {"evaluation.file": file} if (file := getattr(recipe.evaluation, "file", "")) else {}
    names |= {f"evaluation.protect.{place}": one for place, one in enumerate(getattr(recipe.evaluation, "protect", ()))}
    found = {}
    for key, name in names.items():
        with existing(key, name).open("rb") as content:
            found[key] = hashlib.file_digest(content, "blake2b").hexdigest()[:16]
    return found


def _columns(one: ColumnsSection) -> Columns:
    return Columns(one.instruction, one.input, one.response, one.conversation, one.category)


def existing(key: str, name: str) -> Path:
    """The file that a key names.

    Raises:
        RecipeError: there is none.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise RecipeError(
            f"{key} = {name!r}: there is no such file", remedy=f"The path is taken from {Path.cwd()}; mend it."
        )
    return path
