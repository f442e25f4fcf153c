"""Corpus, taxonomy and held-out prompts of a recipe."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from tapir.config.corpus import CustomCorpusConfig, FileCorpusConfig, GymCorpusConfig
from tapir.config.evaluation import HarnessConfig
from tapir.config.recipe import Recipe
from tapir.data.corpus import CorpusFilter, conversation, pairs, protected, sample, texts
from tapir.data.duplicates import DuplicateIndex, NearDuplicates
from tapir.data.files import existing
from tapir.data.layouts import Reading
from tapir.data.readers import read_file, read_hub
from tapir.data.records import printable
from tapir.data.run.rows import CorpusRow, DropRow, NeighbourRow
from tapir.data.screen import unwanted
from tapir.domain.completion import unparted
from tapir.domain.errors import DataError, RecipeError, commonest, require
from tapir.domain.instruction import Pair
from tapir.domain.progress import Progress
from tapir.domain.randomness import seed_for
from tapir.domain.roles import Benchmark, Rejected, Roles, StudentFormat, Tagger
from tapir.domain.task import TaskDistribution, Taxonomy
from tapir.evaluation.lm_eval import harness_facts
from tapir.gym.corpus import corpus as gym_corpus
from tapir.gym.corpus import corpus_skills
from tapir.gym.robustness import GymSuite
from tapir.gym.skills import TRAINED
from tapir.models.context import BuildContext
from tapir.models.prompts import PromptSet
from tapir.models.taggers.metrics import TrainedTagger


def taxonomy(recipe: Recipe) -> Taxonomy:
    """Return the recipe's taxonomy, limited to the skills in play where it is the gym's."""
    target = recipe.curriculum.target
    name, minimum = target.taxonomy, target.minimum
    shipped = resources.files("tapir.recipes") / "taxonomies" / f"{name}.toml"
    try:
        text = shipped.read_text("utf-8") if shipped.is_file() else Path(name).expanduser().read_text("utf-8-sig")
        result = Taxonomy.from_toml(text)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"curriculum.target.taxonomy = {name!r}: {error}",
            remedy="Name a shipped taxonomy (gym, paper) or a TOML file with name, version and [shares].",
        ) from error
    if isinstance(recipe.corpus, GymCorpusConfig):
        skills, given = corpus_skills(recipe), result.target.shares
        missing = [skill for skill in skills if skill not in given]
        if missing or not any(given[skill] for skill in skills):
            raise RecipeError(
                f"curriculum.target.taxonomy = {name!r} has no share for {', '.join(missing or skills)}",
                remedy="The gym's tasks are its skills: use the taxonomy gym, or give these labels a share above 0.",
            )
        shares = TaskDistribution.of({skill: given[skill] for skill in skills})
        result = Taxonomy(result.name, result.version, shares)
    elif name == "gym":
        raise RecipeError(
            "curriculum.target.taxonomy = 'gym' has the gym's skills, which no other corpus has",
            remedy="Set it to paper, or to a TOML file of your own.",
        )
    labels = sum(share > 0 for share in result.target.shares.values())
    if minimum * labels > 1 and "minimum" not in target.idle():
        raise RecipeError(
            f"curriculum.target.minimum = {minimum} for {labels} tasks is more than everything",
            remedy=f"Use at most {1 / labels:.3f}.",
        )
    return result


def read_corpus(
    recipe: Recipe, context: BuildContext, form: StudentFormat | None, notes: list[str]
) -> list[Pair | Rejected]:
    """Read D, with the rows that could not be used; `notes` gets remarks on the whole of it."""
    source, asked = recipe.corpus, recipe.answers() != "corpus"
    if isinstance(source, GymCorpusConfig):
        return list(gym_corpus(corpus_skills(recipe), size=source.size, skew=source.skew, seed=recipe.seed))
    if isinstance(source, CustomCorpusConfig):
        name, rows = source.class_, source.build(context).pairs()
    else:
        how: Reading = {"layout": source.layout, "columns": source.columns}
        how |= {"turns": source.turns, "unanswered": asked}
        if isinstance(source, FileCorpusConfig):
            path = existing("corpus.path", source.path)
            name, read = path.name, read_file(path, notes=notes, **how)
        else:
            name = source.dataset
            read = read_hub(name, split=source.split, revision=source.revision, notes=notes, **how)
        rows = pairs(read, name)
    rows = (_plain(row, form, answered=recipe.answers() != "teacher") for row in rows)
    corpus = sample(list(rows), source.limit, seed_for(recipe.seed, "corpus"))
    if not any(isinstance(row, Pair) and (asked or row.response.text.strip()) for row in corpus):
        reason = next((getattr(row, "reason", "empty response") for row in corpus), "that it is empty")
        raise DataError(
            f"{name}: none of its {len(corpus)} rows is an instruction{'' if asked else ' with an answer'}",
            remedy=f"Check corpus.layout and corpus.columns; {'; '.join([f'the first problem was {reason}', *notes])}.",
        )
    return corpus


def _plain(row: Pair | Rejected, form: StudentFormat | None, *, answered: bool) -> Pair | Rejected:
    """Return a row, rejected with the reason where a text in use cannot be learnt as it is.

    The student's tokenizer or template cannot hold it, or a thought is in it that cannot be parted.
    """
    if not isinstance(row, Pair):
        return row
    x, y = row.instruction, row.response
    fault = unparted(y.text, y.thought) if answered else ""
    if form and not fault:
        texts = [*(turn["content"] for turn in x.messages), *((y.text, y.thought) if answered else ())]
        token = next(filter(None, map(form.special, texts)), "")
        fault = f"special token {token}" if token else form.fault(x)
    return Rejected(x.origin.source, fault, printable(x.transcript)) if fault else row


def prompt_set(recipe: Recipe, labels: Sequence[str] = ()) -> PromptSet:
    """Return the prompts, with those that the recipe replaces; `labels` are the tasks that a style may be for."""
    return PromptSet.of({name: existing(f"prompts.{name}", path) for name, path in recipe.prompts.items()}, labels)


def novelty(recipe: Recipe) -> DuplicateIndex:
    """Return an empty index of texts, with the recipe's rule for repetitions."""
    rule = recipe.curriculum.novelty
    return DuplicateIndex(NearDuplicates(rouge=rule.rouge, minhash=rule.minhash) if rule.rule == "near" else None)


def forbidden(recipe: Recipe, roles: Roles) -> DuplicateIndex:
    """Index the texts of every evaluation set: those that are measured with, and those that are only kept out."""
    index = novelty(recipe)
    for benchmark in roles.benchmarks:
        asked = (prompt.instruction for prompt in benchmark.prompts())
        index.learn_all((x.id, text) for x in asked for text in protected(x.user_turns))
    for name in getattr(recipe.evaluation, "protect", ()):
        index.learn_all(texts(existing("evaluation.protect", name)))
    return index


def sifted(
    recipe: Recipe, roles: Roles, forbidden: DuplicateIndex, known: DuplicateIndex, progress: Progress
) -> list[CorpusRow | DropRow | NeighbourRow]:
    """Return every row of D, kept or dropped with the reason; one that is in neither index passes."""
    corpus, rows = list(roles.corpus()), list[CorpusRow | DropRow | NeighbourRow]()
    progress.start(0, "filter", len(corpus))
    prompts = (prompt for benchmark in roles.benchmarks for prompt in benchmark.prompts())
    corpus_filter = CorpusFilter(
        forbidden,
        known,
        drop_near=getattr(recipe.corpus, "near_duplicates", "") == "drop",
        unanswered=recipe.answers() != "corpus",
        screen=roles.screen,
        held_out={conversation(prompt.instruction.origin.source) for prompt in prompts} - {""},
    )
    for row in corpus_filter.sift(corpus):
        progress.check()
        rows.append(row)
        progress.advance(not isinstance(row, NeighbourRow))
    progress.finish()
    return rows


def require_enough(left: int, tagger: Tagger, dropped: Iterable[str]) -> None:
    """Raise `DataError` where too little is left of the corpus, with the reasons of what was dropped."""
    if left and not (isinstance(tagger, TrainedTagger) and tagger.lacks(left)):
        return
    few = f"{left} instructions, with tagger.labelled and tagger.held_out too few to train a tagger, are"
    raise DataError(
        f"{few if left else 'nothing is'} left of the corpus: {commonest(dropped) or 'no row was dropped'}",
        remedy="Bring more rows or lower evaluation.held_out, in a new folder; a run lists them in drops.parquet.",
    )


def screened(recipe: Recipe, corpus: Iterable[Pair | Rejected]) -> list[str]:
    """Return a line for each reason why answers are hardly wanted in training, where the recipe has them reported."""
    if getattr(recipe.corpus, "screen", "") != "report":
        return []
    found = Counter(unwanted(row.response.text).partition(": ")[0] for row in corpus if isinstance(row, Pair))
    kept = 'kept; corpus.screen = "drop" leaves them out'
    return [f"answers screened: {reason} ({count:,}), {kept}" for reason, count in found.items() if reason]


def prompts_digest(benchmarks: Iterable[Benchmark]) -> str:
    """Return a digest of all that is measured with: ids, tasks and expected answers of the prompts."""
    prompts = [[x.instruction.id, x.task, x.expected] for each in benchmarks for x in each.prompts()]
    return hashlib.blake2b(json.dumps(prompts).encode(), digest_size=8).hexdigest()


def inputs(recipe: Recipe) -> dict[str, str]:
    """Return the digest of every file a run reads again when it is resumed, by the key that names it."""
    names = {"corpus.path": recipe.corpus.path} if isinstance(recipe.corpus, FileCorpusConfig) else {}
    template = recipe.student.chat_template
    names |= {"student.chat_template": template} if Path(template).expanduser().is_file() else {}
    names |= {"student.model": recipe.student.model} if recipe.student.gguf else {}
    names |= recipe.evaluation.files()
    digests = {key: file_digest(existing(key, name)) for key, name in names.items()}
    if isinstance(recipe.evaluation, HarnessConfig):
        digests |= {f"evaluation.tasks ({name})": value for name, value in harness_facts(recipe.evaluation).items()}
    return digests


def file_digest(path: Path) -> str:
    """Return a short digest of a file."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()[:16]


def gym_suite(recipe: Recipe, *, per_task: int, harder: int, unseen: int, perturbed: int, sample: int) -> GymSuite:
    """Return the gym's held-out sets for the skills of a recipe; all trained skills where its corpus is not the gym's.

    The sizes are those of `GymSuite`; `sample` also fixes how prompts are perturbed.
    """
    require("gym", "reasoning_gym")
    if not per_task + harder + unseen + perturbed:
        raise RecipeError(
            "--per-task, --harder, --unseen and --perturbed are all 0: there is nothing to measure",
            remedy="Leave one of them out, or give it a number.",
        )
    gym = isinstance(recipe.corpus, GymCorpusConfig)
    skills = corpus_skills(recipe) if gym else [skill.name for skill in TRAINED]
    return GymSuite(tuple(skills), per_task, harder, unseen, perturbed, sample, seed_for(sample, "gym suite"))
