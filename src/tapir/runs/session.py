"""Runs: preflight checks, run directories, start and resume."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from math import prod
from pathlib import Path
from typing import Any

from tapir.algorithm import Curriculum
from tapir.config.endpoints import AUTO
from tapir.config.recipe import Recipe
from tapir.config.toml import load, parse, without_idle
from tapir.config.training import SftConfig
from tapir.data.corpus import pair_of
from tapir.data.duplicates import DuplicateIndex, NearDuplicates
from tapir.data.files import disk_errors, locked, read_json, write_json
from tapir.data.run.rows import CorpusRow, DropRow, NeighbourRow
from tapir.data.run.store import CHECKSUMS, RunStore, claim_folder, is_run, resume_command
from tapir.domain.errors import RecipeError, StoreError, StoreFull, require_same
from tapir.domain.instruction import Pair
from tapir.domain.progress import Progress, SilentProgress
from tapir.domain.roles import Roles
from tapir.domain.round import Checkpoint
from tapir.models.api.session import ApiSession
from tapir.models.local.weights import weight_shapes
from tapir.models.taggers.embedding import EmbeddingTagger
from tapir.models.taggers.encoder import EncoderTagger
from tapir.report.summary import Summary, summarise
from tapir.runs.build import build_roles, check_installed, locate_student
from tapir.runs.corpus import forbidden, novelty, prompts_digest, require_enough, screened, sifted
from tapir.runs.endpoints import find_models
from tapir.runs.progress import EventLog, open_calls, open_resources, record_session
from tapir.stages.base import StageContext
from tapir.version import __version__

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
_MATRIX = 2  # dimensions
_FLOAT = 4  # bytes of a number that is trained, whatever it was stored in
_CALL_BYTES = 3_000  # of a call in the ledger
_TRAINED = ("round-*/training.json", "round-*/training/**/checkpoint-*", "round-*/training/**/tuned*")
_MENDABLE = {  # keys, and files that depend on them for good; the tagger is fitted before the student answers
    **dict.fromkeys(("tagger.", "student.max_new_tokens", "student.thinking_tokens"), ("round-0/tagger.json",)),
    **dict.fromkeys(("training.", "student.chat_template"), _TRAINED),
}
_MADE_AGAIN = {  # after a change of the keys; a program of the user's may have begun to train
    "tagger.": ("round-0/labels*",),
    "training.": ("round-*/contrasts*", "round-*/training"),
}
_RESTORE = "Put the file back from a copy, or start again in another folder with --out."


@dataclass(frozen=True, slots=True)
class RunResult:
    """Result of a run.

    Attributes:
        student: the last checkpoint.
        summary: every metric, read from the folder.
        report: the page, or None where the chart library is not installed.
    """

    folder: Path
    student: Checkpoint
    summary: Summary
    report: Path | None


def run(recipe: Recipe, folder: Path, progress: Progress | None = None, roles: Roles | None = None) -> RunResult:
    """Run a recipe in a folder; an unfinished run of the same recipe is resumed.

    Args:
        recipe: the recipe.
        folder: the run directory.
        progress: callbacks that report progress and may stop the run.
        roles: replace those that the recipe names, for classes of your own.

    Raises:
        RecipeError: the recipe asks for something that does not exist.
        RunExists: the folder holds something else.
        RunMismatch: the folder holds a run of another recipe; the differing keys are named.
        RunLocked: another process is working there.
        Interrupted: the user asked to stop.
    """
    recipe = dated(recipe, folder)
    roles = roles or preflight(recipe, folder)
    claim(recipe, folder, roles)
    return execute(recipe, folder, roles, progress or SilentProgress())


def dated(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with the date of its run: that of the run in the folder, or today's."""
    if recipe.student.date:
        return recipe
    day = datetime.now().astimezone().date().isoformat()
    if is_run(folder):
        day = read_json(folder / "recipe.json", _RESTORE).get("student", {}).get("date", "")
    student = recipe.student.model_copy(update={"date": day})
    return recipe.model_copy(update={"student": student})


def execute(recipe: Recipe, folder: Path, roles: Roles, progress: Progress) -> RunResult:
    """Carry out, or finish, the run of a claimed folder; raises what `run` does."""
    from tapir.report.page import write_report

    with locked(folder):
        store = RunStore(folder)
        store.verify()
        log = EventLog(progress, store, roles.calls)
        with record_session(store):
            excluded = forbidden(recipe, roles)
            corpus = _corpus(recipe, roles, store, excluded, EventLog(progress, store))
            for note in [*roles.notes, *screened(recipe, corpus)]:
                log.note(note)
            if roles.format and not any(folder.glob("round-*/training.json")):
                roles.format.check(corpus)
            with open_resources(roles.resources, store, log), open_calls(roles.calls, store, log):
                context = StageContext(store, log, 0, recipe.seed)
                Curriculum(recipe, roles, context, excluded, novelty(recipe)).run(corpus)
        summary = summarise(store)
        report = write_report(store, summary)
    last = recipe.curriculum.alpha().rounds
    return RunResult(folder, Checkpoint(str(store.round(last) / "checkpoint"), last), summary, report)


def resume(folder: Path, progress: Progress | None = None) -> RunResult:
    """Resume the run in a folder; finished work is not done again."""
    return run(stored_recipe(folder), folder, progress)


def stored_recipe(folder: Path, changes: Iterable[str] = ()) -> Recipe:
    """Return the recipe that a run directory was started with.

    It may be resumed with changes ("key=value") that leave its results as they are.
    """
    changes = list(changes)
    if not is_run(folder):
        raise StoreError(f"{folder} is not a run directory", remedy="Name the folder of a run, e.g. runs/gym.")
    try:
        return parse(stored_tables(folder), changes)
    except RecipeError as error:
        if changes:
            stored_recipe(folder)  # raises what follows where the changes are not at fault
            raise
        writer = read_json(folder / "manifest.json", _RESTORE).get("tapir", "unknown")
        raise StoreError(
            f"{folder / 'recipe.json'} was written by tapir {writer}, and tapir {__version__} cannot read it:\n{error}",
            remedy=f"Go on with tapir {writer}, or with the version of the code that wrote it.",
        ) from error


def stored_tables(folder: Path) -> dict[str, Any]:
    """Return the tables of that recipe."""
    return without_idle(read_json(folder / "recipe.json", _RESTORE))


def preflight(recipe: Recipe, folder: Path | None = None) -> Roles:
    """Check everything that can be checked before work begins: installed libraries, what the recipe names, and keys.

    For a run in a `folder` the models of endpoints on "auto" are asked for, too. The tagger's model is loaded, and with
    it downloaded, unless the run has fitted its tagger.
    """
    check_installed(recipe)
    roles = build_roles(find_models(recipe, folder) if folder else recipe)
    if roles.calls:
        roles.calls.ready()
    fitted = folder and (folder / "round-0" / "tagger.json").exists()
    if not fitted and isinstance(roles.tagger, EncoderTagger | EmbeddingTagger):
        roles.tagger.check()
    return roles


def check(recipe: Recipe) -> list[str]:
    """Check what `preflight` checks, read corpus and evaluation sets, and return lines that say what there is."""
    roles = preflight(recipe)
    rows = sifted(recipe, roles, forbidden(recipe, roles), DuplicateIndex(), SilentProgress())  # near ones take long
    pairs = [pair_of(row) for row in rows if isinstance(row, CorpusRow)]
    dropped = Counter(row.reason for row in rows if isinstance(row, DropRow))
    require_enough(len(pairs), roles.tagger, dropped.elements())
    if roles.format:
        roles.format.check(pairs)
    lines = [f"corpus: {len(pairs):,} instructions"]
    lines += [f"  {count:,} rows dropped: {reason}" for reason, count in dropped.most_common()]
    lines += [f"  {note}" for note in [*roles.notes, *screened(recipe, pairs)]]
    lines += [f"{benchmark.name}: {len(benchmark.prompts()):,} held-out instructions" for benchmark in roles.benchmarks]
    if roles.calls:
        keys = [name for name, endpoint in recipe.endpoints.items() if endpoint.key]
        lines.append(
            f"endpoints: {', '.join(recipe.endpoints)}" + (f" (keys are set: {', '.join(keys)})" if keys else "")
        )
    return lines


def claim(recipe: Recipe, folder: Path, roles: Roles) -> None:
    """Make the folder this recipe's run directory, or check that it is; raises what `run` does, and `StoreFull`."""
    if not claim_folder(folder, "recipe.json", "is not a run directory"):
        with disk_errors(folder):
            _check_space(recipe, folder, sum(1 for _ in roles.corpus()))
    with locked(folder):
        if not is_run(folder) or not (folder / CHECKSUMS).exists():  # nothing was done yet
            write_json(folder / "manifest.json", _manifest(recipe, roles))
            write_json(folder / "recipe.json", recipe.resolved())  # last: it makes the folder a run
        manifest, stored = read_json(folder / "manifest.json", _RESTORE), stored_tables(folder)
        differing, taxonomy = recipe.differences(stored), roles.tagger.taxonomy
        if manifest["target"] != dict(taxonomy.target.shares):
            differing.append(f"the shares in the taxonomy {taxonomy.name}")
        earlier = manifest.get("models", {})
        models = _found_models(recipe, roles).items()
        differing += [
            f"endpoints.{key}.model: {was} -> {now}" for key, now in models if (was := earlier.get(key)) != now
        ]
        held_out = prompts_digest(roles.benchmarks)
        if manifest.get("held_out", held_out) != held_out:  # earlier versions kept none
            differing.append("the held-out instructions: their source has other rows now")
        inputs = manifest.get("inputs", {})
        left_out = {name: None for name in inputs if name.startswith("evaluation.")}
        wanted = left_out | dict(roles.inputs)
        differing += [f"the content of {name}" for name, digest in wanted.items() if inputs.get(name) != digest]
        free = tuple(key for key, ends in _MENDABLE.items() if not any(any(folder.glob(each)) for each in ends))
        mended = [line for line in differing if line.removeprefix("the content of ").startswith(free)]
        differing = [line for line in differing if line not in mended]
        remedy = f"Choose another folder with --out, or `{resume_command(folder)}` to go on with that run."
        require_same(folder, "a run of another recipe", differing, remedy=remedy)
        if mended:
            for key in {line.partition(".")[0] + "." for line in mended} & _MADE_AGAIN.keys():
                for path in (path for each in _MADE_AGAIN[key] for path in folder.glob(each)):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            made = _manifest(recipe, roles)
            fresh = {key: made[key] for key in ("recipe_sha256", "inputs")}
            write_json(folder / "manifest.json", manifest | fresh | {"mended": mended})
        if stored != recipe.resolved():
            write_json(folder / "recipe.json", recipe.resolved())  # the same but for keys that change no result


def _found_models(recipe: Recipe, roles: Roles) -> dict[str, str]:
    """Return the models that the servers of endpoints on "auto" have."""
    unnamed = [name for name, endpoint in recipe.endpoints.items() if endpoint.model == AUTO]
    return {name: roles.calls.endpoints[name].model for name in unnamed if isinstance(roles.calls, ApiSession)}


def _check_space(recipe: Recipe, folder: Path, rows: int) -> None:
    free, needed = shutil.disk_usage(folder).free, disk_needed(recipe, rows)
    if free < needed:
        raise StoreFull(
            f"{folder} has {free // _MEGABYTE} MB free, the run needs about {needed // _MEGABYTE} MB",
            remedy="Free some space, or choose another folder with --out.",
        )


def disk_needed(recipe: Recipe, rows: int) -> int:
    """Return the bytes a run on `rows` rows takes at most: checkpoints, one training in progress, tables, ledger.

    A student whose weights are not on this machine counts nothing; `build_roles` notes it.
    """
    alpha, shapes = recipe.curriculum.alpha(), weight_shapes(locate_student(recipe), recipe.student.revision).values()
    trained, how = sum(map(prod, shapes)), recipe.training
    half = isinstance(how, SftConfig) and how.method == "full" and how.precision in {"bfloat16", "float16"}
    if isinstance(how, SftConfig) and how.method != "full":  # two matrices beside each one of the base
        trained = how.lora.rank * sum(sum(shape) for shape in shapes if len(shape) == _MATRIX)
    training = 3 * 3 * _FLOAT * trained  # weights and two Adam moments, two saved and one being written
    checkpoints = (_FLOAT // 2 if half else _FLOAT) * trained * (alpha.rounds + 2)
    scorings = alpha.rounds if recipe.curriculum.rescoring == "every-round" else 1
    examples = sum(map(recipe.curriculum.size_of, range(1, alpha.rounds + 1)))
    calls = 2 * rows * scorings * ("judge" in recipe.users()) + rows + examples
    tables = 4_000 * (rows + examples)
    return checkpoints + training + tables + _CALL_BYTES * calls * bool(recipe.endpoints)


def _manifest(recipe: Recipe, roles: Roles) -> dict[str, Any]:
    text = json.dumps(recipe.identity(), sort_keys=True)
    named = {"student.model": recipe.student.model, "corpus.dataset": getattr(recipe.corpus, "dataset", "")}
    return {
        "schema": SCHEMA,
        "run": uuid.uuid4().hex,
        "tapir": __version__,
        "recipe_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "seed": recipe.seed,
        "date": recipe.student.date,
        "thinking": recipe.student.thinking,
        "target": dict(roles.tagger.taxonomy.target.shares),
        "inputs": dict(roles.inputs),
        "held_out": prompts_digest(roles.benchmarks),
        "local": [key for key, name in named.items() if name and Path(name).expanduser().exists()],
        **({"models": found} if (found := _found_models(recipe, roles)) else {}),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)


def _corpus(recipe: Recipe, roles: Roles, store: RunStore, excluded: DuplicateIndex, progress: Progress) -> list[Pair]:
    """Return D without what cannot be used; dropped rows are recorded with their reason."""
    if not all(store.has(name) for name in ("neighbours", "drops", "corpus")):
        near = getattr(recipe.corpus, "near_duplicates", "ignore")  # in the gym, a skill's instances are by nature
        known = DuplicateIndex(None if near == "ignore" else NearDuplicates())
        rows = sifted(recipe, roles, excluded, known, progress)
        store.once("neighbours", NeighbourRow, lambda: [row for row in rows if isinstance(row, NeighbourRow)])
        store.once("drops", DropRow, lambda: [row for row in rows if isinstance(row, DropRow)])
        store.once("corpus", CorpusRow, lambda: [row for row in rows if isinstance(row, CorpusRow)])
    pairs = [pair_of(row) for row in store.each("corpus", CorpusRow)]
    require_enough(len(pairs), roles.tagger, (row.reason for row in store.each("drops", DropRow)))
    return pairs


def recipe_of(source: Recipe | Mapping[str, Any] | str) -> Recipe:
    """Return a recipe from a recipe, its tables, a file name or a shipped name."""
    if isinstance(source, Recipe):
        return source
    return load(source) if isinstance(source, str) else parse(source)
