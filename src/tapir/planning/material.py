"""What a run will work on: the corpus and the prompts it is measured with, read but not kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tapir import assemble
from tapir.data.intake import Sieve
from tapir.data.novelty import Novelty
from tapir.data.readers import Columns, Row, read_file
from tapir.domain.instruction import Instruction, Origin, Pair, Response, normalised
from tapir.domain.randomness import priorities, seed_for
from tapir.domain.task import Taxonomy
from tapir.errors import RecipeError
from tapir.llm.estimate import ANSWER, NEW_INSTRUCTION, filler
from tapir.recipe import Recipe
from tapir.roles import Roles
from tapir.sections import FileCorpus, GymCorpus, GymEvaluation, HubCorpus, LlmTeacher
from tapir.store.rows import CorpusRow

_SAMPLE = 300


@dataclass(frozen=True, slots=True)
class Material:
    """Counts, and a random sample to measure prompts with.

    Attributes:
        size: instructions that may be trained on.
        unanswered: those of them that the teacher answers first.
        sample: some of them, a text nobody has written yet being a filler as long as is expected.
        longest: the same with such texts at their longest.
        prompts: held-out instructions, of all benchmarks.
        unreferenced: those of them whose reference answer the teacher writes.
        untagged: those of them whose task the tagger finds.
        tasks: share of each task, where the rows say it in the taxonomy's labels.
    """

    size: int
    unanswered: int
    sample: Sequence[Pair]
    longest: Sequence[Pair]
    prompts: int
    unreferenced: int = 0
    untagged: int = 0
    tasks: dict[str, float] = field(default_factory=dict)


def material(recipe: Recipe, people: Roles | None, labels: Taxonomy, *, network: bool) -> Material:
    """Read what there is to read.

    Args:
        recipe: what would be run.
        people: who would take part; None where something that the embedded world needs is not installed.
        labels: the taxonomy.
        network: whether a corpus on the hub may be read.

    Raises:
        RecipeError: the corpus is on the hub and `network` is not set.
        DataError: the corpus cannot be used.
    """
    if isinstance(recipe.corpus, GymCorpus):
        return _gym(recipe, people)
    assert people is not None  # noqa: S101 (a corpus of one's own needs nothing that is not installed)
    if isinstance(recipe.corpus, HubCorpus) and not (network or Path(recipe.corpus.dataset).exists()):
        raise RecipeError(
            f"corpus.dataset = {recipe.corpus.dataset!r} is on the hub, and a plan uses no network by itself",
            remedy="tapir plan --reach reads it and asks every endpoint whether it is there; it spends nothing.",
        )
    prompts = {one.instruction.id: one for benchmark in people.benchmarks for one in benchmark.prompts()}
    banned = Novelty()
    banned.learn_all((name, one.instruction.text) for name, one in prompts.items())
    sieve = Sieve(banned, Novelty(), unanswered=recipe.answers() != "corpus")
    rows = [row for row in sieve.sift(people.corpus()) if isinstance(row, CorpusRow)]
    owed = [row for row in rows if recipe.answers() == "teacher" or not row.response.strip()]
    expected, longest = _sampled(recipe, rows)
    return Material(
        size=len(rows),
        unanswered=len(owed),
        sample=expected,
        longest=longest,
        prompts=sum(len(benchmark.prompts()) for benchmark in people.benchmarks),
        unreferenced=sum(not one.expected.strip() for one in prompts.values()),
        untagged=sum(not one.task for one in prompts.values()),
        tasks=_categories(recipe, labels),
    )


def _gym(recipe: Recipe, people: Roles | None) -> Material:
    """Every count follows from the recipe; its rows are only made where a model behind a server will see them."""
    assert isinstance(recipe.corpus, GymCorpus)  # noqa: S101
    assert isinstance(recipe.evaluation, GymEvaluation)  # noqa: S101 (the recipe holds them together)
    wanted, tasks = recipe.evaluation, len(assemble.skills(recipe))
    prompts = tasks * (wanted.per_task + wanted.harder_per_task) + wanted.unseen_per_task * len(assemble.UNSEEN)
    pairs = [_stand_in()]
    if people and recipe.users():
        pairs = [pair for pair in people.corpus() if isinstance(pair, Pair)][:_SAMPLE]
    return Material(recipe.corpus.size, 0, pairs, pairs, prompts)


def _stand_in() -> Pair:
    return Pair(Instruction.of(filler(NEW_INSTRUCTION), Origin("corpus")), Response(filler(ANSWER), ""))


def _sampled(recipe: Recipe, rows: Sequence[CorpusRow]) -> tuple[list[Pair], list[Pair]]:
    """A random part of the rows: with the answers the teacher still owes as expected, and at their longest."""
    order = priorities([row.id for row in rows], seed_for(recipe.seed, "plan")).argsort(kind="stable")[:_SAMPLE]
    most = recipe.teacher.max_tokens if isinstance(recipe.teacher, LlmTeacher) else ANSWER
    expected, longest = [], []
    for row in (rows[place] for place in order):
        pair = Pair(Instruction(row.id, row.text, Origin("corpus", source=row.source)), Response(row.response, ""))
        owed = recipe.answers() == "teacher" or not row.response.strip()
        expected.append(replace(pair, response=Response(filler(min(ANSWER, most)), "")) if owed else pair)
        longest.append(replace(pair, response=Response(filler(most), "")) if owed else pair)
    return expected, longest


def _categories(recipe: Recipe, labels: Taxonomy) -> dict[str, float]:
    source = recipe.corpus
    if not isinstance(source, FileCorpus) or not source.columns.category:
        return {}
    known = {normalised(label): label for label in labels.labels}
    rows = read_file(
        Path(source.path).expanduser(), layout=source.layout, columns=Columns(**source.columns.model_dump())
    )
    found = (known.get(normalised(row.category)) for row in rows if isinstance(row, Row))
    counts = Counter(label for label in found if label)
    return {label: count / counts.total() for label, count in counts.items()}
