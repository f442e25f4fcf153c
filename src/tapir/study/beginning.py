"""What runs of one seed have in common before their first round, worked out once.

Variants of a study mostly differ in what they do from round 1 on. Corpus, tags, the untuned student's answers with
their scores, and its evaluation are then the same bytes in each of them, so a run may begin with the tables of
another that has them already.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapir import session
from tapir.errors import TapirError
from tapir.recipe import Recipe
from tapir.store.files import disk_errors, read_json, write_text
from tapir.store.run import CHECKSUMS

_SECTIONS = ("seed", "chunk", "corpus", "teacher", "judge", "tagger", "student", "evaluation", "endpoints", "engine")
_MANIFEST = ("tapir", "target", "inputs", "python", "packages")
_ALWAYS = (
    "corpus",
    "drops",
    "neighbours",
    *(f"round-0/{name}" for name in ("responses", "labels", "tags", "canary", "evaluation")),
)
_JUDGED = ("round-0/answers", "round-0/judgements")
_FILES = ("round-0/tagger.json", "round-0/metrics.json")


@dataclass(frozen=True, slots=True)
class _Source:
    """A run that has a beginning: its folder, and the digest of each of its tables that may be taken, by name."""

    folder: Path
    tables: Mapping[str, str]


def beginning(recipe: Recipe) -> str:
    """A text that is equal for recipes whose runs begin with the same tables."""
    resolved, plan = recipe.resolved(), recipe.curriculum
    facts = {name: resolved.get(name) for name in _SECTIONS}
    facts |= {"warmup_epochs": plan.warmup_epochs, "taxonomy": plan.target.taxonomy}
    facts["novelty"] = plan.novelty.model_dump(mode="json")  # what the corpus may not repeat, expansion or not
    if plan.warmup_epochs:
        facts["training"] = resolved["training"]
    return json.dumps(facts, sort_keys=True)


def take_over(recipe: Recipe, folder: Path, others: Sequence[Path]) -> Path | None:
    """Copy the beginning of another run into a claimed folder that has none yet.

    Args:
        recipe: of the run in `folder`.
        folder: a run directory in which no work was done.
        others: folders of runs, or where runs will be; of those that began alike the one with most to give is chosen.

    Returns:
        The run it came from; None where there was none, or work was done in `folder`.
    """
    if recipe.curriculum.warmup_epochs or (folder / CHECKSUMS).exists():
        return None  # a warm-up leaves a checkpoint too, which is not worth copying
    found = [one for other in others if (one := _source(recipe, folder, other)) is not None]
    source = max(found, key=lambda one: len(one.tables), default=None)
    if source is None:
        return None
    with disk_errors(folder):
        (folder / "round-0").mkdir(parents=True, exist_ok=True)
        for name, digest in source.tables.items():
            shutil.copyfile(source.folder / name, folder / name)
            if _sha256(folder / name) != digest:
                (folder / name).unlink()
                return None  # what is damaged there is made anew here
        write_text(folder / CHECKSUMS, "".join(f"{source.tables[name]}  {name}\n" for name in sorted(source.tables)))
        for name in _FILES:  # last: without their tables they would be believed
            shutil.copyfile(source.folder / name, folder / name)
    return source.folder


def _source(recipe: Recipe, folder: Path, other: Path) -> _Source | None:
    """What another run has to give, or None: it has no whole beginning, or another one."""
    if not all((other / name).exists() for name in (*_FILES, CHECKSUMS, "recipe.json", "manifest.json")):
        return None
    try:
        theirs = session.stored_recipe(other)
    except TapirError:
        return None  # of another version of the program
    ours, its = (read_json(one / "manifest.json") for one in (folder, other))
    if beginning(theirs) != beginning(recipe) or any(ours.get(key) != its.get(key) for key in _MANIFEST):
        return None
    wanted = {f"{name}.parquet" for name in (*_ALWAYS, *_of_difficulty(recipe, theirs))}
    return _Source(other, {name: digest for name, digest in _checksums(other) if name in wanted})


def _of_difficulty(recipe: Recipe, theirs: Recipe) -> Sequence[str]:
    """Tables of the first scoring that mean the same in both."""
    ours = recipe.curriculum.difficulty
    compared = {*recipe.curriculum.compare} & {*theirs.curriculum.compare}
    tables = [f"round-0/compared-{name}" for name in sorted(compared - {"pass-rate"})]  # whose settings may differ
    if ours == theirs.curriculum.difficulty:
        tables += _JUDGED if ours.kind == "mfd" else ["round-0/estimates"]
    return tables


def _checksums(folder: Path) -> Iterator[tuple[str, str]]:
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        yield name, digest


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
