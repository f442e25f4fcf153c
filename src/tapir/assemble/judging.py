"""Judges and material of evaluations that compare or grade answers: recipe and files to objects."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tapir.assemble.corpora import existing
from tapir.assemble.learners import model_settings
from tapir.assemble.speakers import endpoint
from tapir.data.formats import records
from tapir.data.readers import read_file
from tapir.data.row import BadRow, Columns
from tapir.domain.instruction import Instruction, Origin
from tapir.errors import DataError, RecipeError
from tapir.evaluation.annotations import Annotation, Recorded, parsed
from tapir.learning import LocalStudent, RayEngine
from tapir.llm.book import Book
from tapir.llm.grading import LlmGrader
from tapir.llm.judge import JudgeSettings
from tapir.llm.preference import LlmPreference, PreferenceSettings
from tapir.llm.switchboard import Switchboard
from tapir.recipe import Recipe
from tapir.sections import LlmJudge
from tapir.students.conversing import LocalConversing
from tapir.students.local import AnswerSettings

_NAMED = 3
_CATEGORIES = ("dataset", "category")


@dataclass(frozen=True, slots=True)
class Desk:
    """A judge of an evaluation.

    Attributes:
        calls: what it calls through.
        book: its prompts.
        section: how it is asked.
        facts: everything its verdicts depend on, for `tapir.evaluating.claim`.
    """

    calls: Switchboard
    book: Book
    section: LlmJudge
    models: str
    batch: bool
    facts: Mapping[str, Any]

    def preference(self, *, reasoned: bool) -> LlmPreference:
        """Which of two answers is better; `reasoned` allows ties and asks for a rationale."""
        one = self.section
        settings = PreferenceSettings(
            endpoints=one.endpoints,
            reasoned=reasoned,
            weighted=one.expected_score,
            samples=one.samples,
            temperature=one.temperature,
            max_tokens=one.max_tokens,
            wave=PreferenceSettings.wave_for(batch=self.batch),
        )
        return LlmPreference(self.calls, self.book, settings, self.models)

    def grader(self) -> LlmGrader:
        """One answer on the scale from 1 to 10."""
        one = self.section
        settings = JudgeSettings(
            endpoints=one.endpoints,
            single=True,
            samples=one.samples,
            temperature=one.temperature,
            max_tokens=one.max_tokens,
            expected_score=one.expected_score,
            wave=PreferenceSettings.wave_for(batch=self.batch),
        )
        return LlmGrader(self.calls, self.book, settings, self.models)

    def ready(self) -> None:
        """See that every key is there, before anything is loaded.

        Raises:
            RoleError: one is not.
        """
        self.calls.ready()


def desk(recipe: Recipe, prompts: Sequence[str]) -> Desk:
    """The judge that a recipe names; only its endpoints are opened.

    Args:
        recipe: with a judge section of kind "llm".
        prompts: the prompts that this evaluation uses, for the facts.

    Raises:
        RecipeError: its judge is no language model, or a prompt file is not what it must be.
    """
    one = recipe.judge
    if not isinstance(one, LlmJudge):
        raise RecipeError(
            f"the recipe {recipe.name!r} has no language model as judge: judge.kind is {one.kind!r}",
            remedy='Give a recipe with [judge] kind = "llm" and its endpoints with --recipe (`tapir recipe show'
            " alpaca-api` prints one).",
        )
    book = Book.of({name: existing(f"prompts.{name}", path) for name, path in recipe.prompts.items()})
    used = {name: recipe.endpoints[name] for name in one.endpoints}
    calls = Switchboard(
        {name: endpoint(name, section) for name, section in used.items()},
        Path(recipe.calls.ledger).expanduser() if recipe.calls.ledger else None,
        recipe.calls.max_cost,
        recipe.calls.attempts,
    )
    models = " + ".join(dict.fromkeys(section.model for section in used.values()))
    digests = book.digests()
    facts = {
        "judge": models,
        "asking": {name: getattr(one, name) for name in ("samples", "temperature", "max_tokens", "expected_score")},
        "prompts": {name: digests[name] for name in prompts},
    }
    return Desk(calls, book, one, models, any(section.batch for section in used.values()), facts)


def conversing(recipe: Recipe) -> LocalConversing:
    """The student of a recipe, able to be asked in the middle of a conversation.

    Raises:
        RecipeError: it answers behind a server or on a cluster, which takes single instructions only.
    """
    one = recipe.student
    if not isinstance(one, LocalStudent) or isinstance(recipe.engine, RayEngine):
        where = "on a cluster" if isinstance(recipe.engine, RayEngine) else "behind a server"
        raise RecipeError(
            f"the student of {recipe.name!r} answers {where}, where a second turn cannot be asked",
            remedy='Answer in this process (student.kind = "transformers", without an engine section of kind "ray"), or'
            " give its answers as a file of FastChat's form.",
        )
    settings = AnswerSettings(one.max_new_tokens, one.batch_size, one.batch_tokens, one.temperature, recipe.seed)
    return LocalConversing(settings, model_settings(recipe))


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt of an evaluation with the baseline's answer.

    Attributes:
        index: its place among the prompts, from 0.
    """

    index: int
    instruction: Instruction
    baseline: str
    category: str


@dataclass(frozen=True, slots=True)
class Questions:
    """A set of prompts with a baseline's answers.

    Attributes:
        baseline: whose answers they are.
        digest: of both files.
    """

    rows: Sequence[Question]
    baseline: str
    digest: str


def questions(baseline: Path, prompts: Path | None) -> Questions:
    """The prompts of an evaluation, with the baseline's answer to each.

    Args:
        baseline: answers in any layout a corpus can have, AlpacaEval's model_outputs.json included.
        prompts: which instructions to take, in which order; None takes all that the baseline answers.

    Raises:
        DataError: a row cannot be read, the baseline has no answer to a prompt, or two for one; the first are named.
    """
    answers = _texts(baseline, answered=True)
    asked = answers if prompts is None else _texts(prompts, answered=False)
    missing = [one.instruction.text for name, one in asked.items() if name not in answers]
    if missing:
        raise DataError(
            f"{baseline} has no answer to {len(missing):,} of {len(asked):,} prompts; the first are "
            + "; ".join(repr(text[:60]) for text in missing[:_NAMED]),
            remedy="Give the baseline's answers to exactly these prompts; no rate is made from part of them.",
        )
    rows = [
        replace(one, index=index, baseline=answers[name].baseline, category=one.category or answers[name].category)
        for index, (name, one) in enumerate(asked.items())
    ]
    digest = hashlib.blake2b(digest_size=8)
    for path in (baseline, *([prompts] if prompts else [])):
        digest.update(path.read_bytes())
    return Questions(rows, _author(baseline), digest.hexdigest())


def listed(prompts: Path) -> list[Question]:
    """The prompts of a file, in order, without answers.

    Raises:
        DataError: a row cannot be read.
    """
    return [replace(one, index=index) for index, one in enumerate(_texts(prompts, answered=False).values())]


def _texts(path: Path, *, answered: bool) -> dict[str, Question]:
    """Every row of a file, by instruction id."""
    columns = _columns(path, answered=answered)
    found: dict[str, Question] = {}
    bad: list[str] = []
    for row in read_file(path, columns=columns):
        if isinstance(row, BadRow):
            bad.append(f"{row.place}: {row.reason}")
            continue
        one = Instruction.of(row.text, Origin("evaluation", source=row.place))
        if not row.text.strip() or (answered and not row.response.strip()):
            bad.append(f"{row.place}: {'no answer' if row.text.strip() else 'no instruction'}")
        elif found.setdefault(one.id, Question(0, one, row.response, row.category)).baseline != row.response:
            bad.append(f"{row.place}: a second answer to {row.text[:60]!r}")
    if bad:
        raise DataError(
            f"{path}: {len(bad):,} rows cannot be used; the first: {'; '.join(bad[:_NAMED])}",
            remedy="Mend or remove these rows; nothing is measured on less than was meant.",
        )
    return found


def _columns(path: Path, *, answered: bool) -> Columns:
    """The usual columns, with the category where the first row has one."""
    first = next((one.fields for one in islice(records(path), 1) if not isinstance(one, BadRow)), {})
    category = next((name for name in _CATEGORIES if isinstance(first.get(name), str)), "")
    return Columns(response="output" if answered else "", category=category)


def _author(path: Path) -> str:
    """Who wrote the answers, as the file says, else its name."""
    first = next((one.fields for one in islice(records(path), 1) if not isinstance(one, BadRow)), {})
    name = first.get("generator")
    return name if isinstance(name, str) and name else path.name


def rows_of(path: Path) -> Iterator[Recorded]:
    """Place and fields of every row of a file of JSON.

    Raises:
        DataError: the file cannot be read, or a row is no object.
    """
    for one in records(path):
        if isinstance(one, BadRow):
            raise DataError(f"{one.place}: {one.reason}", remedy="Mend the file or give another one.")
        yield one.place, one.fields


def recorded_annotations(paths: Sequence[Path], order: Mapping[str, int] | None) -> list[Annotation]:
    """All rows of annotation files.

    Args:
        paths: at least one, each in AlpacaEval's form or in the compact one, plain or gzipped.
        order: place of each prompt by instruction id, where it is known.

    Raises:
        DataError: a row is no annotation, or files are mixed whose rows cannot be matched.
    """
    found: list[Annotation] = []
    for path in paths:
        found += parsed(rows_of(path), str(path), order)
    return found
