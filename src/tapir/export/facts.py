"""What the cards of a student and of a data set tell, read from the run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tapir.domain.round import EvalResult
from tapir.endpoints import Endpoint
from tapir.errors import RecipeError
from tapir.export.configs import Base
from tapir.export.lineage import examples
from tapir.export.paths import cleaned, without_paths
from tapir.recipe_file import as_toml, parse
from tapir.report.costs import Amount
from tapir.report.judging import models
from tapir.report.summary import Summary, summarise, tasks_of
from tapir.store.files import read_json
from tapir.store.rows import EvaluationRow
from tapir.store.run import RunStore

_QUESTION = "Name three uses of a spoon."


@dataclass(frozen=True, slots=True)
class Made:
    """What the examples are made of.

    Attributes:
        origins: examples by origin and pool.
        tasks: examples by task, the most frequent first.
        refined: with the answer rewritten in the manner of its task.
        authors: who wrote the answers, or rewrote them.
    """

    size: int
    origins: Mapping[tuple[str, str], int]
    tasks: Mapping[str, int]
    refined: int
    authors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Scores:
    """One benchmark after every round: the first is S_0.

    Attributes:
        tasks: for every task its result by S_0 and by the student; None where nothing was measured.
    """

    benchmark: str
    overall: Sequence[EvalResult]
    tasks: Sequence[tuple[str, EvalResult | None, EvalResult | None]]
    ungraded: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card tells.

    Attributes:
        number: the round whose student or data it is.
        rounds: those whose examples it has learnt from.
        corpus: in words; `corpus_hub` is its id on the hub, if it has one.
        question: an instruction to try the student with.
        warmed: whether S_0 was trained on the corpus first.
        drops: what was set aside: where, why, how many.
        near: instructions that nearly repeat another and were kept.
        trainings: round, examples, steps, and tokens read (0 where the trainer does not tell).
        spending: by stage; empty where no paid model was called.
        recipe: as TOML, or as JSON where this version cannot read it back; without folders, addresses and keys.
    """

    name: str
    number: int
    rounds: tuple[int, ...]
    warmed: bool
    base: Base
    revision: str
    teachers: Sequence[str]
    judges: Sequence[str]
    corpus: str
    corpus_hub: str
    made: Made
    scores: Sequence[Scores]
    drops: Sequence[tuple[str, str, int]]
    near: int
    spending: Sequence[tuple[str, Amount]]
    spent: Amount
    trainings: Sequence[tuple[int, int, int, int]]
    versions: Mapping[str, str]
    recipe: str
    language: str
    seed: int
    answer_tokens: int
    question: str


def facts(store: RunStore, number: int, rounds: Sequence[int]) -> Facts:
    """Everything a card tells about the run up to a round, of the examples of some rounds."""
    summary = summarise(store)
    recipe = summary.recipe
    text, language = shown_recipe(recipe)
    manifest = summary.manifest
    corpus = recipe["corpus"]
    hub = str(corpus.get("dataset", "")) if corpus["kind"] == "hub" else ""
    spending = [one for one in summary.spending if one.round <= number]
    stages = dict.fromkeys(one.stage for one in spending)
    return Facts(
        name=str(recipe["name"]),
        number=number,
        rounds=tuple(rounds),
        warmed=bool(recipe["curriculum"]["warmup_epochs"]),
        base=Base.of(str(recipe["student"]["model"])),
        revision=str(recipe["student"].get("revision", "")),
        teachers=cleaned(models(recipe, "teacher")),
        judges=cleaned(models(recipe, "judge")),
        corpus=_corpus(corpus),
        corpus_hub=hub if Base.of(hub).hub else "",
        made=_made(store, rounds),
        scores=_scores(summary, number),
        drops=_drops(summary, number),
        near=summary.intake.near,
        spending=[(stage, Amount.of(one for one in spending if one.stage == stage)) for stage in stages],
        spent=Amount.of(spending),
        trainings=list(_trainings(store, number)),
        versions={"tapir": str(manifest["tapir"]), "Python": str(manifest["python"])} | dict(manifest["packages"]),
        recipe=text,
        language=language,
        seed=int(recipe["seed"]),
        answer_tokens=int(recipe["student"]["max_new_tokens"]),
        question=_question(store, gym=corpus["kind"] == "gym"),
    )


def shown_recipe(recipe: Mapping[str, Any]) -> tuple[str, str]:
    """The recipe as a card may show it, and its language."""
    content: dict[str, Any] = cleaned(dict(recipe))
    if endpoints := recipe.get("endpoints"):
        content["endpoints"] = {
            name: {key: value for key, value in one.items() if key not in Endpoint.operational}
            | {"base_url": "https://address"}
            for name, one in cleaned(endpoints).items()
        }
    try:
        lines = as_toml(parse(content)).splitlines()
    except RecipeError:
        return json.dumps(content, indent=1, ensure_ascii=False), "json"
    kept = [line for line in lines if not line.startswith("#")]
    return "\n".join(kept).strip(), "toml"


def _corpus(corpus: Mapping[str, Any]) -> str:
    """The corpus in words."""
    if corpus["kind"] == "gym":
        return "instructions generated by reasoning-gym"
    return without_paths(str(corpus.get("dataset") or corpus.get("path")))


def _question(store: RunStore, *, gym: bool) -> str:
    """A plain one; of the gym's student, which knows no other, one that it was examined with."""
    if gym and store.has("round-0/evaluation"):
        return next((row.instruction for row in store.each("round-0/evaluation", EvaluationRow)), _QUESTION)
    return _QUESTION


def _made(store: RunStore, rounds: Sequence[int]) -> Made:
    size = refined = 0
    origins, tasks, authors = Counter[tuple[str, str]](), Counter[str](), Counter[str]()
    for one in examples(store, rounds):
        size += 1
        refined += one.refined
        origins[one.origin, one.pool] += 1
        tasks[one.task] += 1
        authors[one.refiner or one.author] += 1
    return Made(size, dict(sorted(origins.items())), dict(tasks.most_common()), refined, dict(authors.most_common()))


def _scores(summary: Summary, number: int) -> list[Scores]:
    found = []
    for name in summary.benchmarks:
        measured = [one for one in summary.benchmark(name) if one.round <= number]
        first, last = measured[0], measured[-1]
        tasks = [(task, first.tasks.get(task), last.tasks.get(task)) for task in tasks_of([first, last])]
        ungraded = summary.ungraded.get((name, last.round), 0)
        found.append(Scores(name, [one.overall for one in measured], tasks, ungraded))
    return found


def _trainings(store: RunStore, number: int) -> Iterator[tuple[int, int, int, int]]:
    for one in range(number + 1):
        path = store.round(one) / "training.json"
        if path.exists():
            told = read_json(path)
            yield one, int(told.get("examples", 0)), int(told.get("steps", 0)), int(told.get("tokens", 0))


def _drops(summary: Summary, number: int) -> list[tuple[str, str, int]]:
    found = [("corpus", reason, count) for reason, count in sorted(summary.intake.dropped.items())]
    found += [("teacher's answers", reason, count) for reason, count in sorted(summary.intake.unanswered.items())]
    written = Counter[str]()
    for one in summary.rounds:
        if one.number <= number:
            written.update(one.dropped)
    return found + [("expansions", reason, count) for reason, count in sorted(written.items())]
