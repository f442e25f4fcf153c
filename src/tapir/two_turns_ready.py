"""What an MT-Bench needs before anybody is asked: questions, references, whose answers, and the judge."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir.assemble.judging import conversing, desk, rows_of
from tapir.comparing import Asked, examinee_and_judge
from tapir.domain.round import Checkpoint
from tapir.errors import DataError, RecipeError
from tapir.evaluating import claim
from tapir.evaluation.mtbench import TwoTurns, parsed_answers, parsed_questions, with_references
from tapir.evaluation.mtbench_recorded import Judgments, parsed_judgments
from tapir.examinee import source
from tapir.recipe import Recipe
from tapir.recipe_file import load
from tapir.students.conversing import RecordedConversing
from tapir.two_turns import PROMPTS, Grading, Speaker

OFFICIAL_REFERENCES = "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f"
"""SHA-256 of FastChat's reference_answer/gpt-4.jsonl, several of whose answers are known to be wrong."""


@dataclass(frozen=True, slots=True)
class Material:
    """Files of the benchmark.

    Attributes:
        references: None grades without any.
    """

    questions: Path
    references: Path | None


def material(one: Material) -> tuple[list[TwoTurns], dict[str, str]]:
    """The questions with their references, and a digest of each file.

    Raises:
        DataError: a file cannot be used, or lacks a reference.
    """
    found = parsed_questions(rows_of(one.questions), str(one.questions))
    facts = {"questions": _digest(one.questions)}
    if one.references is None:
        return found, facts | {"references": "none"}
    authors = parsed_answers(rows_of(one.references), str(one.references))
    if len(authors) > 1:
        raise DataError(
            f"{one.references} holds references of {', '.join(sorted(authors))}",
            remedy="Give a file with one reference answer to each question.",
        )
    return with_references(found, next(iter(authors.values()))), facts | {"references": _digest(one.references)}


def official(references: Path | None) -> bool:
    """Whether these are FastChat's own references, byte for byte."""
    return references is not None and hashlib.sha256(references.read_bytes()).hexdigest() == OFFICIAL_REFERENCES


def prepared(asked: Asked, files: Material, folder: Path, against: str, model: str) -> Grading:
    """Everything read and checked, and the folder claimed; nobody is called yet.

    Args:
        asked: whose answers, and whose judge.
        files: of the benchmark.
        folder: of this evaluation.
        against: another source; empty grades from 1 to 10.
        model: which model's answers to take from files with several; empty where they hold one.

    Raises:
        TapirError: something cannot be used.
    """
    questions, facts = material(files)
    recipe = _recipe(asked)
    speaker, of = _speaker(asked, model)
    other, theirs = _speaker(Asked(against, asked.recipe, asked.changes, None), model) if against else (None, {})
    judge = desk(recipe, PROMPTS)
    judge.ready()
    everything: dict[str, Any] = {"benchmark": "mt-bench", **facts, **of, **judge.facts}
    claim(folder, everything | {f"other {key}": value for key, value in theirs.items()})
    return Grading(folder, speaker, other, questions, judge, recipe.chunk, recipe.seed)


def _recipe(asked: Asked) -> Recipe:
    if not _recorded(asked.source):
        return examinee_and_judge(asked)[1]
    if not asked.recipe:
        raise RecipeError(
            f"{asked.source} brings no judge", remedy="Name a recipe whose judge and endpoints judge with --recipe."
        )
    return load(asked.recipe, asked.changes)


def _recorded(text: str) -> bool:
    return Path(text).expanduser().is_file()


def _speaker(asked: Asked, model: str) -> tuple[Speaker, Mapping[str, Any]]:
    path = Path(asked.source).expanduser()
    if _recorded(asked.source):
        found = parsed_answers(rows_of(path), str(path))
        name = model if model in found else next(iter(found))
        if len(found) > 1 and model not in found:
            raise RecipeError(
                f"{path} holds the answers of {', '.join(sorted(found))}; {model or 'none'!r} is not one of them"
                if model
                else f"{path} holds the answers of {', '.join(sorted(found))}",
                remedy="Say whose to take with --model.",
            )
        student = RecordedConversing(found[name], name)
        return Speaker(name, student, Checkpoint(str(path), 0)), {"student": name, "answers": _digest(path)}
    one = source(asked.source, asked.recipe or "gym", _for_source(asked), asked.number)
    talking = conversing(one.recipe)
    return Speaker(one.name, talking, one.who.checkpoint, (talking,)), one.facts


def _for_source(asked: Asked) -> tuple[str, ...]:
    """Changes go to the recipe that --recipe names; a run's own recipe stays as it is where one is named."""
    is_run = (Path(asked.source).expanduser() / "recipe.json").is_file()
    return () if is_run and asked.recipe else asked.changes


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()[:16]


def recorded_judgments(paths: tuple[Path, ...], questions: Path | None) -> Judgments:
    """Recorded judgments of one or several files; nobody is called.

    Raises:
        DataError: a file cannot be used.
    """
    listed = parsed_questions(rows_of(questions), str(questions)) if questions else []
    categories = {one.id: one.category for one in listed}
    every = [row for path in paths for row in rows_of(path)]
    return parsed_judgments(every, ", ".join(map(str, paths)), categories)
