"""Held-out prompts: a random part of the corpus, a file of prompts, or prompts with a baseline's answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from tapir.config.corpus import ColumnsConfig
from tapir.config.evaluation import HeldOut
from tapir.data.corpus import held_out, pairs, prompts
from tapir.data.files import existing
from tapir.data.readers import read_file, records
from tapir.domain.errors import DataError
from tapir.domain.evaluation import Prompt
from tapir.domain.instruction import Instruction, Origin, prompt_id
from tapir.domain.randomness import seed_for
from tapir.domain.roles import Rejected
from tapir.models.context import BuildContext

_NAMED = 3
_CATEGORIES = ("dataset", "category")

ReadPrompts: TypeAlias = Callable[[], Sequence[Prompt]]
Fields: TypeAlias = Mapping[str, Any]
ParsedT = TypeVar("ParsedT")


def held_out_sets(section: HeldOut, context: BuildContext, *, answered: bool) -> list[tuple[str, ReadPrompts]]:
    """Return the name of each set of prompts, with a function that reads it when it is first needed.

    With `answered`, instructions without an answer cannot be used.
    """
    sets: list[tuple[str, ReadPrompts]] = []
    seed = seed_for(context.recipe.seed, "held-out")
    if section.held_out:
        sets.append(("held-out", lambda: held_out(context.read_corpus(), section.held_out, seed, answered=answered)))
    if section.file:
        path = existing("evaluation.file", section.file)

        def read() -> list[Prompt]:
            rows = read_file(
                path, layout=section.layout, columns=section.columns, turns=section.turns, unanswered=not answered
            )
            return prompts(pairs(rows, path.name), f"evaluation.file = {section.file!r}")

        sets.append(("file", read))  # not by its name, which may change
    return sets


@dataclass(frozen=True, slots=True)
class BaselinePrompt:
    """A prompt with the baseline's answer, and the thought before it."""

    instruction: Instruction
    baseline: str
    category: str
    thought: str = ""


def read_questions(baseline: Path, prompts: Path | None) -> list[BaselinePrompt]:
    """Return the prompts in order, with the baseline's answer to each; no rate is made from part of them.

    Args:
        baseline: answers in any layout a corpus can have, AlpacaEval's model_outputs.json included.
        prompts: which instructions to take, in which order; None takes all that the baseline answers.
    """
    answers = read_texts(baseline, answers="all")
    chosen = answers if prompts is None else read_texts(prompts, answers="none")
    missing = [question.instruction.text for name, question in chosen.items() if name not in answers]
    if missing:
        raise DataError(
            f"{baseline} has no answer to {len(missing):,} of {len(chosen):,} prompts; the first are "
            + "; ".join(repr(text[:60]) for text in missing[:_NAMED]),
            remedy="Give the baseline's answers to exactly these prompts; no rate is made from part of them.",
        )
    return [
        replace(question, baseline=answers[name].baseline, category=question.category or answers[name].category)
        for name, question in chosen.items()
    ]


def prompt_order(prompts: Path) -> dict[str, int]:
    """Return the place of each prompt of a file by its `prompt_id`."""
    questions = read_texts(prompts, answers="none").values()
    return {prompt_id(question.instruction.transcript): index for index, question in enumerate(questions)}


def read_texts(path: Path, *, answers: Literal["none", "some", "all"]) -> dict[str, BaselinePrompt]:
    """Return every row of a file by instruction id; `answers` says for how many an answer is read and required."""
    first = first_row(path)
    category = next((name for name in _CATEGORIES if isinstance(first.get(name), str)), "")
    questions: dict[str, BaselinePrompt] = {}
    bad: list[str] = []
    columns = ColumnsConfig(response="" if answers == "none" else "output", category=category)
    for row in read_file(path, columns=columns, unanswered=answers != "all"):
        if isinstance(row, Rejected):
            bad.append(f"{row.place}: {row.reason}")
            continue
        instruction = Instruction.of(row.text, Origin("evaluation", source=row.place), row.context)
        question = BaselinePrompt(instruction, row.response, row.category, row.thought)
        if not row.text.strip() or (answers == "all" and not row.response.strip()):
            bad.append(f"{row.place}: {'no answer' if row.text.strip() else 'no instruction'}")
        elif questions.setdefault(instruction.id, question).baseline != row.response:
            bad.append(f"{row.place}: a second answer to {row.text[:60]!r}")
    _refuse(bad, str(path), "Fix or remove these rows; an evaluation needs every row to be valid.")
    return questions


def first_row(path: Path) -> Fields:
    """Return the fields of the first row of a file; none where it cannot be read."""
    return next((row.fields for row in islice(records(path), 1) if not isinstance(row, Rejected)), {})


def json_rows(path: Path) -> Iterator[tuple[str, Fields]]:
    """Yield place and fields of every row of a file of JSON."""
    for row in records(path):
        if isinstance(row, Rejected):
            raise DataError(f"{row.place}: {row.reason}", remedy="Fix the file or give another one.")
        yield row.place, row.fields


def parse_rows(
    rows: Iterable[tuple[str, Fields]], parse: Callable[[Fields], ParsedT], source: str, wanted: str
) -> list[ParsedT]:
    """Return every row parsed; rows that cannot be used are a `DataError` that names the first few.

    Args:
        rows: place and fields.
        parse: raises KeyError, TypeError, ValueError or IndexError for a row that cannot be used.
        source: name of the file, for errors.
        wanted: what a row needs, for errors.
    """
    parsed: list[ParsedT] = []
    bad: list[str] = []
    for place, fields in rows:
        try:
            parsed.append(parse(fields))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            bad.append(f"{place}: {f'no {error}' if isinstance(error, KeyError) else error}")
    _refuse(bad, source, f"Every row needs {wanted}.")
    if not parsed:
        raise DataError(f"{source} holds no rows", remedy=f"Give a file whose rows have {wanted}.")
    return parsed


def text(fields: Fields, name: str) -> str:
    """Return the text of a column, of a list of messages the last one's; raises KeyError or TypeError."""
    value = fields[name]
    value = value[-1].get("content") if isinstance(value, list) and value and isinstance(value[-1], dict) else value
    if not isinstance(value, str):
        raise TypeError(f"{name} is not text")
    return value


def _refuse(bad: Sequence[str], source: str, remedy: str) -> None:
    if bad:
        first = "; ".join(bad[:_NAMED])
        raise DataError(f"{source}: {len(bad):,} rows cannot be used; the first: {first}", remedy=remedy)
