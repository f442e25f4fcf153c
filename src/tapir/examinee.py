"""Whose answers an evaluation measures: a run's student, a model, or answers in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir import assemble, session
from tapir.data.corpus import pairs
from tapir.data.readers import read_file
from tapir.domain.round import Checkpoint
from tapir.errors import DataError, RecipeError
from tapir.evaluating import Examinee
from tapir.recipe import Recipe
from tapir.recipe_file import load
from tapir.roles import Rejected
from tapir.store.files import read_json
from tapir.store.run import RunStore
from tapir.students.recorded import RecordedStudent

_ANSWER_FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".gz")


@dataclass(frozen=True, slots=True)
class Source:
    """An examinee with what its answers depend on.

    Attributes:
        name: how reports call it.
        facts: for `evaluating.claim`.
        recipe: the recipe whose student section says how it answers (and whose judge and endpoints may grade).
    """

    who: Examinee
    name: str
    facts: dict[str, Any]
    recipe: Recipe


def source(text: str, recipe: str, changes: Iterable[str] = (), number: int | None = None) -> Source:
    """Find out what `text` names.

    Args:
        text: the folder of a run (its last student, or that of round `number`), a file with answers (any layout a
            corpus can have, AlpacaEval's model outputs included), "nano", a model folder, or a hub id.
        recipe: a recipe for everything that is not a run; a run brings its own.
        changes: "key=value" over that recipe.
        number: of the round, for a run.

    Raises:
        RecipeError: there is nothing of that name, or no such round.
        DataError: the file holds no answers.
    """
    path, changes = Path(text).expanduser(), list(changes)
    if (path / "recipe.json").is_file():
        return _of_run(path, session.stored_recipe(path, changes), number)
    if number is not None:
        raise RecipeError(f"--round {number}: {text} is no run directory", remedy="Leave --round out.")
    chosen = load(recipe, changes)
    if path.is_file():
        return _recorded(path, chosen)
    if path.suffix in _ANSWER_FILES:
        raise RecipeError(f"{text}: there is no such file", remedy=f"The path is taken from {Path.cwd()}; mend it.")
    return _model(text, load(recipe, [*changes, f"student.model={text}"]))


def _of_run(folder: Path, recipe: Recipe, number: int | None) -> Source:
    store = RunStore(folder)
    rounds = recipe.curriculum.alpha().rounds
    there = [one for one in range(1, rounds + 1) if (store.round(one) / "checkpoint").exists()]
    if number == 0:
        checkpoint = _beginning(store, recipe)
    elif number is not None and number not in there:
        raise RecipeError(f"{folder} has no student of round {number}", remedy=f"There are 0 and {there}.")
    elif not there:
        raise RecipeError(f"{folder} has no trained student yet", remedy=f"`tapir resume {folder}`, or --round 0.")
    else:
        chosen = number or there[-1]
        checkpoint = Checkpoint(str(store.round(chosen) / "checkpoint"), chosen)
    name = f"{folder.resolve().name}/S_{checkpoint.round}"
    run = read_json(folder / "manifest.json").get("run")  # another run may have taken the folder's place since
    facts = {"student": str(folder), "run": run, "round": checkpoint.round, "answering": _answering(recipe)}
    return Source(_answers_with(recipe, checkpoint), name, facts, recipe)


def _beginning(store: RunStore, recipe: Recipe) -> Checkpoint:
    warm = store.round(0) / "checkpoint"
    return Checkpoint(str(warm) if warm.exists() else assemble.student_path(recipe), 0)


def _model(text: str, recipe: Recipe) -> Source:
    assemble.check_student(recipe)
    checkpoint = Checkpoint(assemble.student_path(recipe), 0)
    facts = {"student": text, "answering": _answering(recipe), "files": _files(Path(text).expanduser())}
    return Source(_answers_with(recipe, checkpoint), text, facts, recipe)


def _files(folder: Path) -> str:
    """What tells a model folder from one with other weights of the same name; empty for what is no folder."""
    if not folder.is_dir():
        return ""
    there = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())
    return hashlib.blake2b(repr(there).encode(), digest_size=8).hexdigest()


def _answers_with(recipe: Recipe, checkpoint: Checkpoint) -> Examinee:
    student = assemble.answering(recipe)
    return Examinee(student, checkpoint, assemble.held_by(student))


def _answering(recipe: Recipe) -> dict[str, Any]:
    section = recipe.student
    return {key: value for key, value in section.model_dump(mode="json").items() if key not in {"python", "options"}}


def _recorded(path: Path, recipe: Recipe) -> Source:
    answers: dict[str, str] = {}
    bad: list[Rejected] = []
    twice: list[str] = []
    for one in pairs(read_file(path), path.name):
        if isinstance(one, Rejected):
            bad.append(one)
        elif answers.get(one.instruction.id, one.response.text) != one.response.text:
            twice.append(one.instruction.text)
        else:
            answers[one.instruction.id] = one.response.text
    if bad or not any(answers.values()):
        raise DataError(
            f"{path}: {len(bad)} rows are no answers" + "".join(f"; {one.place}: {one.reason}" for one in bad[:3])
            if bad
            else f"{path} holds no answers" + (f": all {len(answers)} are empty" if answers else ""),
            remedy="Every row needs an instruction and an output, as in a model_outputs.json of AlpacaEval.",
        )
    if twice:
        raise DataError(
            f"{path} answers {len(twice)} instructions twice, the first is {twice[0][:80]!r}",
            remedy="Keep one answer to each instruction.",
        )
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "blake2b").hexdigest()[:16]
    who = Examinee(RecordedStudent(answers, path.name), Checkpoint(str(path), 0))
    return Source(who, path.name, {"student": path.name, "answers": digest}, recipe)
