"""The model under evaluation: a run, a checkpoint or recorded answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir.config.recipe import Recipe
from tapir.config.toml import load, toml_value
from tapir.data.files import read_json
from tapir.data.run.reader import RunReader
from tapir.data.run.store import RunStore, is_run
from tapir.domain.completion import after_thought
from tapir.domain.errors import DataError, RecipeError
from tapir.domain.roles import Resource, Student
from tapir.domain.round import Checkpoint
from tapir.evaluation.held_out import read_texts
from tapir.models.none import RecordedStudent
from tapir.runs import session
from tapir.runs.build import build_student, check_student, prepare_student
from tapir.runs.corpus import file_digest

FACTS = "evaluation.json"
"""File of an evaluation's folder: what its results depend on."""
FACTS_REMEDY = "Put the file back from a copy, or choose another folder with --out."
_ANSWER_FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".gz")


@dataclass(frozen=True, slots=True)
class EvalTarget:
    """The model under evaluation.

    Attributes:
        student: who answers; answers that were recorded elsewhere are a student too.
        checkpoint: what it is asked with.
        name: for reports.
        facts: what its answers depend on, for `claim`.
        recipe: its student section says how it answers, its judge and endpoints may grade.
        resources: roles that hold memory or servers.
    """

    student: Student
    checkpoint: Checkpoint
    name: str
    facts: Mapping[str, Any]
    recipe: Recipe
    resources: Sequence[Resource] = ()


def resolve_target(
    text: str,
    recipe: str = "",
    changes: Iterable[str] = (),
    number: int | None = None,
    folder: Path | None = None,
) -> EvalTarget:
    """Resolve the model under evaluation: a run, a checkpoint or recorded answers.

    Args:
        text: the folder of a run (its last student, or that of round `number`), a file with answers (any layout a
            corpus can have, AlpacaEval's model outputs included), "nano", a model folder, a GGUF file, or a hub id.
        recipe: a recipe for everything that is not a run ("" is gym); a run brings its own.
        changes: "key=value" over that recipe.
        number: of the round, for a run.
        folder: of the evaluation, whose date the prompts of a model have: the day it began, or today.
    """
    path, changes = Path(text).expanduser(), list(changes)
    if is_run(path):
        if recipe:
            remedy = "Leave it out; --set key=value changes a setting of the run's own recipe."
            raise RecipeError(f"--recipe {recipe} has no effect: {text} is a run, which brings its own", remedy=remedy)
        return _of_run(path, session.stored_recipe(path, changes), number)
    recipe = recipe or "gym"
    if number is not None:
        raise RecipeError(f"--round {number}: {text} is no run directory", remedy="Leave --round out.")
    if path.is_file() and path.suffix.lower() != ".gguf":
        return recorded_target(path, _recorded_answers(path), path.name, load(recipe, changes))
    if path.suffix in _ANSWER_FILES:
        raise RecipeError(f"{text}: there is no such file", remedy=f"The path is relative to {Path.cwd()}; fix it.")
    chosen = load(recipe, [*changes, f"student.model={toml_value(text)}"])
    if folder:
        chosen = _dated(chosen, folder)
    check_student(chosen)
    base = prepare_student(chosen)
    digest = Path(base.path).name if chosen.student.gguf else ""  # tells weights from others of the same name
    if path.is_dir():
        files = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in path.iterdir())
        digest = hashlib.blake2b(repr(files).encode(), digest_size=8).hexdigest()
    facts = {"student": text, "files": digest}
    return _answered_by(chosen, base, text, facts)


def resolve_judged(
    text: str, recipe: str, changes: Sequence[str] = (), number: int | None = None, folder: Path | None = None
) -> tuple[EvalTarget, Recipe]:
    """Resolve the model under evaluation, and the recipe whose judge grades: that of --recipe, else the run's own."""
    run = is_run(Path(text).expanduser())
    if not recipe and not run:
        raise RecipeError(
            f"{text} is not a run directory, so no judge is configured",
            remedy="Pass --recipe with a recipe whose judge and endpoints grade.",
        )
    if recipe and run:
        return resolve_target(text, "", (), number), load(recipe, changes)
    target = resolve_target(text, recipe, changes, number, folder)
    return target, target.recipe


def _dated(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with the date of its evaluation: that of the one in the folder, or today's."""
    if recipe.student.date or not (folder / FACTS).is_file():
        return session.dated(recipe, folder)
    day = read_json(folder / FACTS, FACTS_REMEDY).get("answering", {}).get("date", "")
    return recipe.model_copy(update={"student": recipe.student.model_copy(update={"date": day})})


def _of_run(folder: Path, recipe: Recipe, number: int | None) -> EvalTarget:
    run = RunReader(RunStore(folder))
    trained = run.trained_rounds()
    there = [each for each in trained if each] if number is None else sorted({0, *trained})
    chosen = run.choose(there, number, "trained student (--round 0 takes it as it was before)")[-1]
    own = str(run.store.round(chosen) / "checkpoint") if chosen in trained else prepare_student(recipe).path
    run_id = run.manifest.get("run")  # another run may have taken the folder's place since
    facts = {"student": str(folder), "run": run_id, "round": chosen}
    return _answered_by(recipe, Checkpoint(own, chosen), f"{folder.resolve().name}/S_{chosen}", facts)


def _answered_by(recipe: Recipe, checkpoint: Checkpoint, name: str, facts: Mapping[str, Any]) -> EvalTarget:
    student = build_student(recipe)
    settings = recipe.student.model_dump(mode="json")
    how = {key: value for key, value in settings.items() if key not in {"python", "options"}}
    resources = [student] if isinstance(student, Resource) else []
    return EvalTarget(student, checkpoint, name, {**facts, "answering": how}, recipe, resources)


def recorded_target(path: Path, texts: Mapping[str, str], name: str, recipe: Recipe) -> EvalTarget:
    """Return a target with the answers of a file, by instruction id."""
    facts = {"student": name, "answers": file_digest(path)}
    return EvalTarget(RecordedStudent(texts, name), Checkpoint(str(path), 0), name, facts, recipe)


def _recorded_answers(path: Path) -> dict[str, str]:
    rows = read_texts(path, answers="some")
    texts = {name: after_thought(row.thought, row.baseline) for name, row in rows.items()}
    if not any(texts.values()):
        raise DataError(
            f"{path} holds no answers" + (f": all {len(texts)} are empty" if texts else ""),
            remedy="Every row needs an instruction and an output, as in a model_outputs.json of AlpacaEval.",
        )
    return texts
