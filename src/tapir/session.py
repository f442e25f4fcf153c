"""Start, resume and plan a run: everything around the algorithm."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tapir import __version__, assemble
from tapir.algorithm import Curriculum
from tapir.at_work import connected, opened, recorded
from tapir.data.intake import Sieve, pair_of
from tapir.data.neighbours import Neighbours
from tapir.data.novelty import Novelty
from tapir.domain.instruction import Pair
from tapir.domain.round import Checkpoint
from tapir.errors import DataError, RunExists, RunMismatch, StoreError, StoreFull
from tapir.recipe import Recipe
from tapir.recipe_file import changed, differences, parse, restored
from tapir.report.summary import Summary, summarise
from tapir.roles import Rejected, Roles, Watch
from tapir.sections import GymCorpus
from tapir.store.files import disk_errors, read_json, write_json
from tapir.store.keep import Place
from tapir.store.lock import locked
from tapir.store.rows import CorpusRow, DropRow, NeighbourRow
from tapir.store.run import CHECKSUMS, RunStore
from tapir.watching import Diary, SilentWatch

__all__ = ["RunResult", "SilentWatch", "check", "claim", "preflight", "recipe_of", "resume", "run", "stored_recipe"]

SCHEMA = 1
_PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "peft",
    "vllm",
    "ray",
    "datasets",
    "reasoning-gym",
    "scikit-learn",
    "aiohttp",
    "pyarrow",
    "numpy",
)
_MEGABYTE = 1_000_000
_CALL = 3_000  # bytes that a call takes in the ledger
_BEGUN = {".lock", "log.txt", "manifest.json", ".manifest.json.draft", ".recipe.json.draft"}
_RESTORE = "Put the file back from a copy, or start again in another folder with --dir."


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run gave.

    Attributes:
        student: the last checkpoint.
        summary: every figure, read from the folder.
        report: the page, or None where the chart library is not installed.
    """

    folder: Path
    student: Checkpoint
    summary: Summary
    report: Path | None


def run(recipe: Recipe, folder: Path, watch: Watch | None = None, roles: Roles | None = None) -> RunResult:
    """Run a recipe in a folder; a folder with the same recipe goes on where it was.

    Args:
        recipe: what to do.
        folder: the run directory.
        watch: who is told about progress and may stop the run.
        roles: who takes part, in place of those the recipe names: for classes of your own.

    Raises:
        RecipeError: the recipe asks for something that does not exist.
        RunExists: the folder holds something else.
        RunMismatch: the folder holds a run of another recipe; the differing keys are named.
        RunLocked: another process is working there.
        Interrupted: the watch was asked to stop.
    """
    people = roles or preflight(recipe)
    claim(recipe, folder, people)
    with locked(folder):
        store = RunStore(folder)
        store.verify()
        return _carry_on(recipe, people, store, watch or SilentWatch())


def resume(folder: Path, watch: Watch | None = None) -> RunResult:
    """Go on with the run in a folder; finished work is not done again."""
    return run(stored_recipe(folder), folder, watch)


def stored_recipe(folder: Path, changes: Iterable[str] = ()) -> Recipe:
    """The recipe a run directory was started with.

    Args:
        folder: of the run.
        changes: "key=value"; a run only goes on with changes that leave its results as they are.

    Raises:
        StoreError: the folder is no run directory.
        RecipeError: a change is wrong.
    """
    with disk_errors(folder):
        found = (folder / "recipe.json").exists()
    if not found:
        raise StoreError(f"{folder} is not a run directory", remedy="Name the folder of a run, e.g. runs/gym.")
    return changed(restored(read_json(folder / "recipe.json", _RESTORE)).resolved(), changes)


def preflight(recipe: Recipe) -> Roles:
    """Check everything that can be checked before work begins.

    Raises:
        MissingExtra: something the recipe needs is not installed.
        RecipeError: a skill, taxonomy or model it names does not exist.
        RoleError: a key is not in the environment.
    """
    assemble.check_installed(recipe)
    people = assemble.roles(recipe)
    if people.calls:
        people.calls.ready()
    return people


def check(recipe: Recipe) -> list[str]:
    """Everything `preflight` checks, and that the corpus and the evaluation sets can be read.

    Returns:
        What was found, a line for each.

    Raises:
        TapirError: what keeps the recipe from running.
    """
    people = preflight(recipe)
    rows = list(people.corpus())
    unreadable = Counter(row.reason for row in rows if isinstance(row, Rejected))
    found = [f"corpus: {len(rows) - unreadable.total():,} instructions"]
    found += [f"  {count:,} rows set aside: {reason}" for reason, count in unreadable.most_common()]
    found += [f"{one.name}: {len(one.prompts()):,} held-out instructions" for one in people.benchmarks]
    if people.calls:
        found.append(f"endpoints: {', '.join(recipe.endpoints)} (keys are there; `tapir plan --reach` calls them)")
    return found


def claim(recipe: Recipe, folder: Path, people: Roles) -> None:
    """Make the folder this recipe's run directory, or see that it is.

    Raises:
        RunExists: it holds something that is no run.
        RunMismatch: it holds a run of another recipe, taxonomy, prompt or corpus; what differs is named.
        RunLocked: another process is working there.
        StoreFull: the disk is too small for the run.
    """
    with disk_errors(folder):
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if "recipe.json" not in names:
            if names - _BEGUN:
                raise RunExists(
                    f"{folder} is not empty and is not a run directory", remedy="Choose another folder with --dir."
                )
            folder.mkdir(parents=True, exist_ok=True)
            _check_space(recipe, folder, sum(1 for _ in people.corpus()))
    with locked(folder):
        if not (folder / "recipe.json").exists() or not (folder / CHECKSUMS).exists():  # nothing was done yet
            write_json(folder / "manifest.json", _manifest(recipe, people))
            write_json(folder / "recipe.json", recipe.resolved())  # last: it makes the folder a run
        _check_same(recipe, folder, people)
        if read_json(folder / "recipe.json", _RESTORE) != recipe.resolved():
            write_json(folder / "recipe.json", recipe.resolved())  # the same but for keys that change no result


def _check_space(recipe: Recipe, folder: Path, rows: int) -> None:
    free, needed = shutil.disk_usage(folder).free, disk_needed(recipe, rows)
    if free < needed:
        raise StoreFull(
            f"{folder} has {free // _MEGABYTE} MB free, the run needs about {needed // _MEGABYTE} MB",
            remedy="Free some space, or choose another folder with --dir.",
        )


def _check_same(recipe: Recipe, folder: Path, people: Roles) -> None:
    manifest, taxonomy = read_json(folder / "manifest.json", _RESTORE), people.tagger.taxonomy
    differing = differences(recipe, read_json(folder / "recipe.json", _RESTORE))
    if manifest["target"] != dict(taxonomy.target.shares):
        differing.append(f"the shares in the taxonomy {taxonomy.name}")
    inputs = manifest.get("inputs", {})
    differing += [f"the content of {name}" for name, digest in people.inputs.items() if inputs.get(name) != digest]
    if differing:
        raise RunMismatch(
            f"{folder} holds a run of another recipe:\n  " + "\n  ".join(differing),
            remedy=f"Choose another folder with --dir, or `tapir resume {folder}` to go on with that run.",
        )


def disk_needed(recipe: Recipe, rows: int) -> int:
    """Bytes a run on so many rows takes at its largest: checkpoints, one training in progress, tables, ledger."""
    path = Path(assemble.student_path(recipe))
    weights = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else 0
    alpha = recipe.curriculum.alpha()
    training = 3 * 3 * weights  # weights and two Adam moments, two saved and one being written
    scorings = alpha.rounds if recipe.curriculum.rescoring == "every-round" else 1
    calls = 2 * rows * scorings * ("judge" in recipe.users()) + rows + alpha.rounds * recipe.curriculum.size
    tables = 4_000 * (rows + alpha.rounds * recipe.curriculum.size)
    return weights * (alpha.rounds + 2) + training + tables + _CALL * calls * bool(recipe.endpoints)


def _manifest(recipe: Recipe, people: Roles) -> dict[str, Any]:
    text = json.dumps(recipe.identity(), sort_keys=True)
    return {
        "schema": SCHEMA,
        "run": uuid.uuid4().hex,
        "tapir": __version__,
        "recipe_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "seed": recipe.seed,
        "target": dict(people.tagger.taxonomy.target.shares),
        "inputs": dict(people.inputs),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _carry_on(recipe: Recipe, roles: Roles, store: RunStore, watch: Watch) -> RunResult:
    from tapir.report.page import write_report

    diary = Diary(watch, store, roles.calls)
    with recorded(store), opened(roles.resources, store, diary), connected(roles.calls, store, diary):
        banned = assemble.forbidden(recipe, roles)
        corpus = _corpus(recipe, roles, store, banned)
        place = Place(store, diary, 0, recipe.seed)
        Curriculum(recipe, roles, place, banned, assemble.novelty(recipe)).run(corpus)
    summary = summarise(store)
    report = write_report(store, summary)
    last = recipe.curriculum.alpha().rounds
    return RunResult(store.folder, Checkpoint(str(store.round(last) / "checkpoint"), last), summary, report)


def _corpus(recipe: Recipe, roles: Roles, store: RunStore, banned: Novelty) -> list[Pair]:
    """D without what cannot be used; what was set aside is kept with its reason."""
    if not all(store.has(name) for name in ("neighbours", "drops", "corpus")):
        source = recipe.corpus
        gym = isinstance(source, GymCorpus)  # whose instances of one skill are near-duplicates by nature
        sieve = Sieve(
            banned,
            Novelty() if gym else Novelty(Neighbours()),
            drop_near=not isinstance(source, GymCorpus) and source.near_duplicates == "drop",
            unanswered=recipe.answers() != "corpus",
        )
        rows = list(sieve.sift(roles.corpus()))
        store.once("neighbours", NeighbourRow, lambda: [row for row in rows if isinstance(row, NeighbourRow)])
        store.once("drops", DropRow, lambda: [row for row in rows if isinstance(row, DropRow)])
        store.once("corpus", CorpusRow, lambda: [row for row in rows if isinstance(row, CorpusRow)])
    found = [pair_of(row) for row in store.each("corpus", CorpusRow)]
    if not found:
        reasons = Counter(row.reason for row in store.each("drops", DropRow)).most_common(5)
        raise DataError(
            "nothing is left of the corpus: " + ", ".join(f"{reason} ({count})" for reason, count in reasons),
            remedy="Bring a larger corpus or lower evaluation.held_out, in a new folder; drops.parquet names each row.",
        )
    return found


def recipe_of(source: Recipe | Mapping[str, Any] | str) -> Recipe:
    """A recipe from a recipe, its tables, a file name or a shipped name."""
    from tapir.recipe_file import load

    if isinstance(source, Recipe):
        return source
    return load(source) if isinstance(source, str) else parse(source)
