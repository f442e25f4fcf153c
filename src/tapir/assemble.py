"""Recipe to objects: the only file that names concrete backends."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from tapir.data.corpus import held_out, pairs, prompts, sampled
from tapir.data.neighbours import Neighbours
from tapir.data.novelty import Novelty
from tapir.data.readers import Columns, read_file, read_hub
from tapir.domain.instruction import Pair
from tapir.domain.randomness import seed_for
from tapir.domain.round import Checkpoint
from tapir.domain.task import TaskDistribution, Taxonomy
from tapir.endpoints import Endpoint as EndpointSection
from tapir.errors import DataError, MissingExtra, RecipeError, StoreError
from tapir.evaluation.judged import JudgedBenchmark
from tapir.gym.benchmarks import benchmarks as gym_benchmarks
from tapir.gym.corpus import corpus as gym_corpus
from tapir.gym.judge import GymJudge
from tapir.gym.skills import TRAINED, UNSEEN
from tapir.gym.teacher import GymTeacher
from tapir.llm.book import Book
from tapir.llm.endpoint import Endpoint, Price
from tapir.llm.judge import WAVE, JudgeSettings, LlmJudge
from tapir.llm.ledger import Ledger, merge_ledgers
from tapir.llm.switchboard import Switchboard
from tapir.llm.tagger import LlmTagger, TaggerSettings
from tapir.llm.teacher import LlmTeacher, TeacherSettings
from tapir.recipe import Recipe
from tapir.roles import Benchmark, Judge, Prompt, Rejected, Roles, Tagger, Teacher
from tapir.sections import Columns as ColumnsSection
from tapir.sections import FileCorpus, GymCorpus, GymEvaluation
from tapir.sections import LlmJudge as LlmJudgeSection
from tapir.sections import LlmTagger as LlmTaggerSection
from tapir.sections import LlmTeacher as LlmTeacherSection
from tapir.students.local import LocalStudent
from tapir.tagging.tfidf import TfidfTagger
from tapir.training.sft import SftSettings, SftTrainer

__all__ = [
    "UNSEEN",
    "check_installed",
    "check_student",
    "corpus_of",
    "forbidden",
    "ledger",
    "merge_ledgers",
    "novelty",
    "roles",
    "skills",
    "student_path",
    "taxonomy",
]

Corpus: TypeAlias = Callable[[], list[Pair | Rejected]]


def check_installed(recipe: Recipe) -> None:
    """Raise `MissingExtra` unless everything this recipe runs on is installed."""
    extra = "gym" if isinstance(recipe.corpus, GymCorpus) else "api"
    missing = [name for name in _needed(recipe) if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"the recipe {recipe.name!r} needs {', '.join(missing)}",
            remedy=f"pip install 'tapir-distill[{extra}]'",
        )


def _needed(recipe: Recipe) -> Iterator[str]:
    yield from ("torch", "transformers", "trl", "datasets", "accelerate")
    if isinstance(recipe.corpus, GymCorpus):
        yield from ("reasoning_gym", "scipy")
    if recipe.tagger.kind == "tfidf":
        yield "sklearn"
    if not isinstance(recipe.corpus, GymCorpus) or recipe.curriculum.novelty.rule == "near":
        yield from ("rapidfuzz", "datasketch")


def skills(recipe: Recipe) -> list[str]:
    """The skills of the gym's corpus.

    Raises:
        RecipeError: one of them does not exist or may not be trained on.
    """
    assert isinstance(recipe.corpus, GymCorpus)  # noqa: S101 (the recipe holds gym roles to the gym corpus)
    known = [skill.name for skill in TRAINED]
    for name in recipe.corpus.skills:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise RecipeError(f"corpus.skills: no skill {name!r}; {hint}", remedy="Mend the name in the recipe.")
    if len(recipe.corpus.skills) == 1:
        raise RecipeError(
            f"corpus.skills = {list(recipe.corpus.skills)}: task balance and the tagger need at least two skills",
            remedy="Add a skill, or leave the key out to use all.",
        )
    return [name for name in known if not recipe.corpus.skills or name in recipe.corpus.skills]


def taxonomy(recipe: Recipe) -> Taxonomy:
    """The recipe's taxonomy, limited to the skills in play where it is the gym's.

    Raises:
        RecipeError: there is no such taxonomy, or its shares are not a distribution.
    """
    name = recipe.curriculum.target.taxonomy
    shipped = resources.files("tapir.recipes") / "taxonomies" / f"{name}.toml"
    try:
        text = shipped.read_text("utf-8") if shipped.is_file() else Path(name).read_text("utf-8")
        found = Taxonomy.from_toml(text)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"curriculum.target.taxonomy = {name!r}: {error}",
            remedy="Name a shipped taxonomy (gym, paper) or a TOML file with name, version and [shares].",
        ) from error
    if isinstance(recipe.corpus, GymCorpus):
        found = _of_the_gym(found, name, skills(recipe))
    elif name == "gym":
        raise RecipeError(
            "curriculum.target.taxonomy = 'gym' has the gym's skills, which no other corpus has",
            remedy="Set it to paper, or to a TOML file of your own.",
        )
    kept = [label for label, share in found.target.shares.items() if share > 0]
    if recipe.curriculum.target.minimum * len(kept) > 1:
        raise RecipeError(
            f"curriculum.target.minimum = {recipe.curriculum.target.minimum} for {len(kept)} tasks"
            " is more than everything",
            remedy=f"Use at most {1 / len(kept):.3f}.",
        )
    return found


def _of_the_gym(found: Taxonomy, name: str, wanted: Sequence[str]) -> Taxonomy:
    missing = [skill for skill in wanted if skill not in found.labels]
    if missing:
        raise RecipeError(
            f"curriculum.target.taxonomy = {name!r} has no share for {', '.join(missing)}",
            remedy="The gym's tasks are its skills: use the taxonomy gym, or add the missing labels to yours.",
        )
    try:
        target = TaskDistribution.of({skill: found.target.shares[skill] for skill in wanted})
    except ValueError as error:
        raise RecipeError(
            f"curriculum.target.taxonomy = {name!r}: {error}", remedy="Give the skills in play a share above 0."
        ) from error
    return Taxonomy(found.name, found.version, target)


def student_path(recipe: Recipe) -> str:
    """Where the student is loaded from: the built-in nano, a folder, or a hub id."""
    if recipe.student.model == "nano":
        return str(resources.files("tapir.gym") / "nano")
    return str(Path(recipe.student.model).expanduser())


def check_student(recipe: Recipe) -> None:
    """Raise `RecipeError` if the student is named by a path that holds no model; a hub id is left to its hub."""
    path = Path(student_path(recipe)).expanduser()
    named_by_path = path.is_absolute() or path.exists() or recipe.student.model.startswith((".", "~"))
    if named_by_path and not (path / "config.json").is_file():
        raise RecipeError(
            f"student.model = {recipe.student.model!r}: there is no config.json in {path}",
            remedy="Name a folder that transformers can load, a hub id, or nano.",
        )


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
        path = _file("corpus.path", source.path)
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


def ledger(path: Path) -> Ledger:
    """Open a ledger.

    Raises:
        StoreError: there is none, or the file is something else.
    """
    if not path.is_file():
        raise StoreError(f"{path} is not a file", remedy="Name a ledger, e.g. runs/NAME/ledger.sqlite.")
    return Ledger(path)


def novelty(recipe: Recipe) -> Novelty:
    """An empty collection of texts, with what the recipe takes for a repetition."""
    rule = recipe.curriculum.novelty
    return Novelty(Neighbours(rouge=rule.rouge, minhash=rule.minhash) if rule.rule == "near" else None)


def forbidden(recipe: Recipe, people: Roles) -> Novelty:
    """The texts of every evaluation set."""
    found = novelty(recipe)
    for benchmark in people.benchmarks:
        found.learn_all((one.instruction.id, one.instruction.text) for one in benchmark.prompts())
    return found


def roles(recipe: Recipe) -> Roles:
    """Everyone who takes part, ready to work; nothing heavy is loaded and nobody is called before it is needed.

    Raises:
        RecipeError: a skill, taxonomy, prompt or model folder it names does not exist.
    """
    check_student(recipe)
    labels = taxonomy(recipe)
    book = Book.of({name: _file(f"prompts.{name}", path) for name, path in recipe.prompts.items()}, labels.labels)
    calls = Switchboard(
        {name: _endpoint(name, one) for name, one in recipe.endpoints.items()},
        Path(recipe.calls.ledger).expanduser() if recipe.calls.ledger else None,
        recipe.calls.max_cost,
        recipe.calls.attempts,
    )
    corpus = cache(partial(corpus_of, recipe))
    teacher, judge = _teacher(recipe, calls, book), _judge(recipe, calls, book, labels)
    return Roles(
        teacher=teacher,
        student=LocalStudent(
            max_new_tokens=recipe.student.max_new_tokens,
            batch_size=recipe.student.batch_size,
            temperature=recipe.student.temperature,
            seed=recipe.seed,
        ),
        judge=judge,
        tagger=_tagger(recipe, calls, book, labels, teacher),
        trainer=_trainer(recipe),
        benchmarks=_benchmarks(recipe, corpus, judge, teacher),
        base=Checkpoint(student_path(recipe), 0),
        corpus=corpus,
        calls=calls if recipe.endpoints else None,
        inputs=_inputs(recipe) | (book.digests() if recipe.endpoints else {}),
    )


def _endpoint(name: str, one: EndpointSection) -> Endpoint:
    cached = one.price_input if one.price_cached is None else one.price_cached
    return Endpoint(
        name=name,
        base_url=one.base_url,
        model=one.model,
        key_name=one.key,
        json_schema=one.json_schema,
        max_tokens_field=one.max_tokens_field,
        extra=one.extra,
        concurrency=one.concurrency,
        requests_per_minute=one.requests_per_minute,
        tokens_per_minute=one.tokens_per_minute,
        timeout=one.timeout,
        price=Price(one.price_input, cached, one.price_output),
        batch=one.batch,
        batch_price=one.batch_price,
    )


def _teacher(recipe: Recipe, calls: Switchboard, book: Book) -> Teacher:
    one = recipe.teacher
    if not isinstance(one, LlmTeacherSection):
        return GymTeacher()
    settings = TeacherSettings(
        endpoints=one.endpoints,
        temperature=one.temperature,
        max_tokens=one.max_tokens,
        expand_temperature=one.expand_temperature,
        seeds_per_call=one.seeds_per_call,
        new_per_call=one.new_per_call,
    )
    return LlmTeacher(calls, book, settings, _models(recipe, one.endpoints))


def _judge(recipe: Recipe, calls: Switchboard, book: Book, labels: Taxonomy) -> Judge:
    one = recipe.judge
    if not isinstance(one, LlmJudgeSection):
        return GymJudge()
    for label in sorted(one.rubrics.keys() - {*labels.labels}):
        near = difflib.get_close_matches(label, labels.labels, n=1, cutoff=0)
        raise RecipeError(
            f"judge.rubrics: the taxonomy {labels.name} has no label {label!r}; did you mean {near[0]!r}?",
            remedy="Mend the label in the recipe, or remove it.",
        )
    settings = JudgeSettings(
        endpoints=one.endpoints,
        single=one.mode == "single",
        samples=one.samples,
        temperature=one.temperature,
        max_tokens=one.max_tokens,
        expected_score=one.expected_score,
        rubrics=one.rubrics,
        wave=sys.maxsize if any(recipe.endpoints[name].batch for name in one.endpoints) else WAVE,
    )
    return LlmJudge(calls, book, settings, _models(recipe, one.endpoints))


def _tagger(recipe: Recipe, calls: Switchboard, book: Book, labels: Taxonomy, teacher: Teacher) -> Tagger:
    one = recipe.tagger
    asked = LlmTagger(calls, book, TaggerSettings(one.endpoints, one.max_tokens), labels)
    if isinstance(one, LlmTaggerSection):
        return asked
    label = teacher.label if isinstance(teacher, GymTeacher) and not one.endpoints else asked.tag
    return TfidfTagger(labels, label, labelled=one.labelled, held_out=one.held_out)


def _trainer(recipe: Recipe) -> SftTrainer:
    training = recipe.training
    return SftTrainer(
        SftSettings(
            learning_rate=training.learning_rate,
            batch_size=training.batch_size,
            scheduler=training.scheduler,
            warmup_share=training.warmup_share,
            weight_decay=training.weight_decay,
            max_length=training.max_length,
            save_every=training.save_every,
        )
    )


def _benchmarks(recipe: Recipe, corpus: Corpus, judge: Judge, teacher: Teacher) -> list[Benchmark]:
    wanted = recipe.evaluation
    if isinstance(wanted, GymEvaluation):
        sizes = {"per_task": wanted.per_task, "harder": wanted.harder_per_task, "unseen": wanted.unseen_per_task}
        return list(gym_benchmarks(skills(recipe), **sizes))
    found: list[Benchmark] = []
    if wanted.held_out:
        answered = getattr(recipe.corpus, "answers", "corpus") != "teacher"
        seed = seed_for(recipe.seed, "held-out")

        def chosen() -> list[Prompt]:
            return held_out(corpus(), wanted.held_out, seed, answered=answered)

        found.append(JudgedBenchmark("held-out", chosen, judge, teacher))
    if wanted.file:
        path = _file("evaluation.file", wanted.file)

        def listed() -> list[Prompt]:
            rows = read_file(path, layout=wanted.layout, columns=_columns(wanted.columns))
            return prompts(pairs(rows, path.name), f"evaluation.file = {wanted.file!r}")

        found.append(JudgedBenchmark("file", listed, judge, teacher))  # not by its name, which may change
    return found


def _inputs(recipe: Recipe) -> dict[str, str]:
    """Digest of every file a run reads again when it is resumed, by the key that names it."""
    names = {"corpus.path": recipe.corpus.path} if isinstance(recipe.corpus, FileCorpus) else {}
    names |= {"evaluation.file": file} if (file := getattr(recipe.evaluation, "file", "")) else {}
    found = {}
    for key, name in names.items():
        with _file(key, name).open("rb") as content:
            found[key] = hashlib.file_digest(content, "blake2b").hexdigest()[:16]
    return found


def _columns(one: ColumnsSection) -> Columns:
    return Columns(one.instruction, one.input, one.response, one.conversation, one.category)


def _models(recipe: Recipe, names: Sequence[str]) -> str:
    return " + ".join(dict.fromkeys(recipe.endpoints[name].model for name in names))


def _file(key: str, name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise RecipeError(
            f"{key} = {name!r}: there is no such file", remedy=f"The path is taken from {Path.cwd()}; mend it."
        )
    return path
