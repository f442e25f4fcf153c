"""The prompts of evaluation sets, whatever their files call them, so that nothing trained on repeats one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tapir.data.formats import records
from tapir.data.row import Record
from tapir.domain.instruction import instruction_id
from tapir.errors import DataError

_NAMES = ("instruction", "prompt", "question", "turns", "text", "problem", "input", "Instruction", "user_prompt")


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """(id, prompt) for every prompt of the set; each turn of a conversation is one.

    Read are AlpacaEval, MT-Bench, IFEval, GSM8K, HumanEval, BBH and files like them: the first of the columns
    instruction, prompt, question, turns, text, problem and input that a row has. An instruction with an input counts
    alone and together with it.

    Raises:
        DataError: the file cannot be read, is empty, or a row has no prompt.
    """
    empty = True
    for one in records(path):
        empty = False
        found = list(_prompts(one.fields)) if isinstance(one, Record) else []
        if not found:
            why = f"has none of the columns {', '.join(_NAMES)}" if isinstance(one, Record) else one.reason
            raise DataError(
                f"{one.place} of the evaluation set {path}: {why}",
                remedy="Rename the column with the prompt, e.g. to `instruction`; or remove the row.",
            )
        for text in found:
            yield instruction_id(text), text
    if empty:
        raise DataError(f"the evaluation set {path} is empty", remedy="Check evaluation.protect.")


def _prompts(fields: Mapping[str, Any]) -> Iterator[str]:
    name = next((name for name in _NAMES if fields.get(name)), None)
    value = fields.get(name) if name else None
    if isinstance(value, str) and value.strip():
        yield value
        given = fields.get("input")
        if name != "input" and isinstance(given, str) and given.strip():
            yield f"{value}\n\n{given}"
    elif isinstance(value, list):
        for turn in value:
            if isinstance(turn, str) and turn.strip():
                yield turn
