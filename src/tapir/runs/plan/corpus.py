"""Statistics of the corpus and of the held-out prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tapir.config.annotators import LlmTeacherConfig
from tapir.config.corpus import FileCorpusConfig, GymCorpusConfig, HubCorpusConfig
from tapir.config.evaluation import GymEvaluationConfig
from tapir.config.recipe import Recipe
from tapir.data.corpus import pair_of, protected
from tapir.data.duplicates import DuplicateIndex
from tapir.data.layouts import Row
from tapir.data.readers import read_file
from tapir.data.run.rows import CorpusRow, DropRow
from tapir.domain.errors import RecipeError
from tapir.domain.instruction import Instruction, Origin, Pair, Response, id_of, normalised
from tapir.domain.progress import SilentProgress
from tapir.domain.randomness import seed_for, shuffled
from tapir.domain.roles import Roles
from tapir.domain.task import Taxonomy
from tapir.gym.corpus import corpus_skills
from tapir.gym.skills import UNSEEN
from tapir.runs.corpus import require_enough, sifted
from tapir.runs.plan.tokens import ANSWER, NEW_INSTRUCTION, filler

_SAMPLE = 300


@dataclass(frozen=True, slots=True)
class CorpusStats:
    """Counts of a corpus and its held-out prompts, and a random sample to measure prompts with."""

    size: int
    unanswered: int  # instructions that the teacher answers first
    sample: Sequence[Pair]  # a response that the teacher has still to write is a filler as long as expected
    prompts: int | None  # None where they cannot be counted
    longer: float = 0.0  # tokens by which such responses can be longer than their fillers, mean over the sample
    unreferenced: int = 0  # held-out prompts whose reference answer the teacher writes
    untagged: int = 0  # held-out prompts whose task the tagger finds
    tasks: dict[str, float] = field(default_factory=dict)  # shares, where the rows have the taxonomy's labels


def read_stats(recipe: Recipe, roles: Roles | None, labels: Taxonomy, *, network: bool) -> CorpusStats:
    """Read the corpus, on the hub only with `network`, and count it; `roles` are None where the gym lacks a library."""
    if isinstance(recipe.corpus, GymCorpusConfig):
        return _gym(recipe, roles)
    assert roles is not None  # noqa: S101 (a corpus of one's own needs nothing that is not installed)
    if isinstance(recipe.corpus, HubCorpusConfig) and not (network or Path(recipe.corpus.dataset).exists()):
        raise RecipeError(
            f"corpus.dataset = {recipe.corpus.dataset!r} is on the hub, and a plan uses no network by itself",
            remedy="tapir plan --reach reads it and asks every endpoint whether it is there; it spends nothing.",
        )
    prompts = {prompt.instruction.id: prompt for benchmark in roles.benchmarks for prompt in benchmark.prompts()}
    forbidden, asked = DuplicateIndex(), (prompt.instruction for prompt in prompts.values())
    forbidden.learn_all((one.id, text) for one in asked for text in protected(one.user_turns))
    found = sifted(recipe, roles, forbidden, DuplicateIndex(), SilentProgress())
    rows = [row for row in found if isinstance(row, CorpusRow)]
    require_enough(len(rows), roles.tagger, (row.reason for row in found if isinstance(row, DropRow)))
    every = recipe.answers() == "teacher"
    pending = {row.id for row in rows if every or not row.response.strip()}  # the teacher has still to answer
    most = recipe.teacher.max_tokens if isinstance(recipe.teacher, LlmTeacherConfig) else ANSWER
    unwritten = Response(filler(min(ANSWER, most)), "")
    chosen = shuffled(map(pair_of, rows), id_of, seed_for(recipe.seed, "plan"))[:_SAMPLE]
    new = sum(pair.instruction.id in pending for pair in chosen)
    return CorpusStats(
        size=len(rows),
        unanswered=len(pending),
        sample=[replace(pair, response=unwritten) if pair.instruction.id in pending else pair for pair in chosen],
        longer=(most - min(ANSWER, most)) * new / max(1, len(chosen)),
        prompts=_prompts(roles),
        unreferenced=sum(not prompt.expected.strip() for prompt in prompts.values()),
        untagged=sum(not prompt.task for prompt in prompts.values()),
        tasks=_tasks(recipe, labels),
    )


def _gym(recipe: Recipe, roles: Roles | None) -> CorpusStats:
    assert isinstance(recipe.corpus, GymCorpusConfig)  # noqa: S101
    sizes, tasks = recipe.evaluation, len(corpus_skills(recipe))
    prompts = _prompts(roles)
    if isinstance(sizes, GymEvaluationConfig):
        prompts = tasks * (sizes.per_task + sizes.harder_per_task) + sizes.unseen_per_task * len(UNSEEN)
    pairs = [Pair(Instruction.of(filler(NEW_INSTRUCTION), Origin("corpus")), Response(filler(ANSWER), ""))]
    if roles and recipe.users():  # rows are only made where a model behind a server will see them
        pairs = [pair for pair in roles.corpus() if isinstance(pair, Pair)][:_SAMPLE]
    return CorpusStats(recipe.corpus.size, 0, pairs, prompts)


def _prompts(roles: Roles | None) -> int | None:
    benchmarks = roles.benchmarks if roles else ()
    return sum(len(benchmark.prompts()) for benchmark in benchmarks) if benchmarks else None


def _tasks(recipe: Recipe, labels: Taxonomy) -> dict[str, float]:
    source = recipe.corpus
    if not isinstance(source, FileCorpusConfig) or not source.columns.category:
        return {}
    known = {normalised(label): label for label in labels.labels}
    rows = read_file(Path(source.path).expanduser(), layout=source.layout, columns=source.columns, turns=source.turns)
    tasks = (known.get(normalised(row.category)) for row in rows if isinstance(row, Row))
    counts = Counter(task for task in tasks if task)
    return {task: count / counts.total() for task, count in counts.items()}
