"""Records as instruction and response: the Alpaca, ShareGPT and messages layouts."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any, TypeAlias

from tapir.data.row import BadRow, Columns, Format, Record, Row, printable
from tapir.errors import DataError

Reading: TypeAlias = Callable[[dict[str, Any], Columns], tuple[str, str]]

LOOKED_AT = 100

_CONVERSATION = {"sharegpt": "conversations", "messages": "messages"}
_SPEAKERS = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "function_call", "function_response", "observation", "ipython"), "tool"),
}
_FIRST_SURROGATE, _LAST_SURROGATE = 0xDC80, 0xDCFF  # what the readers of files make of bytes that are not UTF-8

# "No input" in the ways models and people say it. Sodium (Na), a flat bread (Nan) and 0 are inputs.
_AROUND = " \t\r\n<>[](){}\"'`\\.,:;?!*_"
_NO_INPUT = re.compile(
    r"no[ _-]?input(?: (?:is )?(?:required|needed|necessary|provided|given))?|none|null|n/a|nan|na", re.IGNORECASE
)
_DASHES = re.compile("-{1,3}|[\u2013\u2014]")
_NAMES = {"Na", "Nan"}


class _Unusable(Exception):
    """Why a record cannot be used."""


def rows(records: Iterable[Record | BadRow], layout: Format, columns: Columns, source: str) -> Iterator[Row | BadRow]:
    """Every record as a row, or set aside with the reason.

    Args:
        records: as a reader of files gives them; what is bad already is passed on.
        layout: "auto" decides by the columns of the first 100 records.
        columns: their names.
        source: what the records are called in an error.

    Raises:
        DataError: there is no record, or a column that was asked for is in none of the first 100.
    """
    records = iter(records)
    empty = True
    for first in records:
        empty = False
        if isinstance(first, BadRow):
            yield first
            continue
        head = [first, *islice(records, LOOKED_AT - 1)]
        reading, columns = _settled([one.fields for one in head if isinstance(one, Record)], layout, columns, source)
        for one in chain(head, records):
            yield one if isinstance(one, BadRow) else _row(one, reading, columns)
    if empty:
        raise DataError(f"{source} holds no rows", remedy="Check that it is the right file and was written to its end.")


def _settled(head: Sequence[dict[str, Any]], layout: Format, columns: Columns, source: str) -> tuple[Reading, Columns]:
    """How to read every record, and from which columns.

    Raises:
        DataError: a column that was asked for is nowhere in `head`.
    """

    def has(name: str) -> bool:
        return any(_found(fields, name) for fields in head)

    if layout == "auto":
        layout = "alpaca"
        named = columns.conversation or next(filter(has, _CONVERSATION.values()), "")
        if columns.conversation or (named and not (has(columns.instruction) and has(columns.response))):
            layout, columns = "messages", replace(columns, conversation=named)
    usual = Columns()
    if layout == "alpaca":
        asked = [columns.instruction]
        asked += [name for name in (columns.input, columns.response) if name not in {"", usual.input, usual.response}]
    else:
        columns = replace(columns, conversation=columns.conversation or _CONVERSATION[layout])
        asked = [columns.conversation]
    for name in filter(None, [*asked, columns.category]):
        if not has(name):
            raise _no_column(name, head, source)
    return (_alpaca if layout == "alpaca" else _conversation), columns


def _no_column(name: str, head: Sequence[dict[str, Any]], source: str) -> DataError:
    found = list(dict.fromkeys(str(key) for fields in head for key in fields))
    lower = {key.lower(): key for key in reversed(found)}
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
    hint = f"The nearest: {', '.join(lower[key] for key in near)}. " if near else ""
    return DataError(
        f"{source} has no column {name!r}; it has {printable(', '.join(found[:LOOKED_AT])) or 'none'}",
        remedy=f"{hint}Name the columns of the file in the recipe.",
    )


def _found(fields: dict[str, Any], name: str) -> bool:
    try:
        _at(fields, name)
    except (KeyError, IndexError):
        return False
    return True


def _at(fields: dict[str, Any], name: str) -> Any:
    """The value of a column, or at a path such as `turns.0`.

    Raises:
        KeyError, IndexError: there is none.
    """
    if name in fields:
        return fields[name]
    value: Any = fields
    for step in name.split("."):
        if isinstance(value, list) and step.isdecimal():
            value = value[int(step)]
        elif isinstance(value, dict):
            value = value[step]
        else:
            raise KeyError(name)
    return value


def _row(record: Record, reading: Reading, columns: Columns) -> Row | BadRow:
    try:
        text, response = reading(record.fields, columns)
        category = _label(record.fields, columns.category)
    except _Unusable as reason:
        raw = record.raw or json.dumps(record.fields, ensure_ascii=False, default=str)
        return BadRow(record.place, str(reason), printable(raw))
    return Row(text, response, record.place, category)


def _alpaca(fields: dict[str, Any], columns: Columns) -> tuple[str, str]:
    """Instruction with its input, and output."""
    instruction = _string(fields, columns.instruction, "instruction").strip()
    given = _string(fields, columns.input, "input").strip("\r\n").rstrip()
    if not instruction:
        raise _Unusable("no instruction")
    text = instruction if says_nothing(given) else f"{instruction}\n\n{given}"
    return text, _string(fields, columns.response, "response")


def says_nothing(given: str) -> bool:
    """Whether an input only says that there is none: "", "No input.", "<noinput>", "N/A", "none", "-", ..."""
    core = given.strip(_AROUND)
    nothing = _NO_INPUT.fullmatch(" ".join(core.split()))
    return not given.strip() or bool(_DASHES.fullmatch(given.strip())) or (bool(nothing) and core not in _NAMES)


def _conversation(fields: dict[str, Any], columns: Columns) -> tuple[str, str]:
    """The first question of a conversation, what the system said before it, and the first answer.

    Later turns are left out. Several turns of the user before the answer are one question. Where no assistant
    ever speaks the answer is "", as in a row of Alpaca without one.
    """
    said: dict[str, list[str]] = {"system": [], "user": []}
    for turn in _turns(fields, columns.conversation):
        speaker, text = _turn(turn)
        if speaker == "assistant" and not said["user"]:
            raise _Unusable("the assistant speaks first")
        if speaker == "tool":
            raise _Unusable("a tool is used before the answer")
        if speaker == "assistant" and not text.strip():
            raise _Unusable("no answer in the conversation")
        if speaker == "assistant":
            return "\n\n".join(said["system"] + said["user"]), text
        if text.strip():
            said[speaker].append(text.strip())
    if not said["user"]:
        raise _Unusable("no instruction")
    return "\n\n".join(said["system"] + said["user"]), ""


def _turns(fields: dict[str, Any], name: str) -> list[Any]:
    try:
        turns = _at(fields, name)
    except (KeyError, IndexError):
        turns = None
    if isinstance(turns, str):  # tables often hold it as JSON
        try:
            turns = json.loads(turns)
        except (ValueError, RecursionError):
            raise _Unusable("the conversation is not a list") from None
    if turns is None:
        raise _Unusable("no conversation")
    if not isinstance(turns, list):
        raise _Unusable("the conversation is not a list")
    return turns


def _turn(turn: Any) -> tuple[str, str]:
    """Who speaks (user, assistant, system, tool) and what is said, by either naming of the keys."""
    if not isinstance(turn, dict):
        raise _Unusable("a turn is not an object")
    name = turn.get("role") or turn.get("from")
    speaker = _SPEAKERS.get(name.strip().lower()) if isinstance(name, str) else None
    if speaker is None:
        raise _Unusable("a turn without a known speaker")
    if turn.get("tool_calls") or turn.get("function_call"):
        return "tool", ""
    said = turn.get("value") if turn.get("content") is None else turn["content"]
    if isinstance(said, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in said):
            raise _Unusable("a turn is not text")
        said = "\n".join(part["text"] for part in said)
    return speaker, _checked(said, "a turn")


def _string(fields: dict[str, Any], name: str, what: str) -> str:
    """The text of a column; "" where the column or its value is missing."""
    try:
        return _checked(_at(fields, name), what) if name else ""
    except (KeyError, IndexError):
        return ""


def _label(fields: dict[str, Any], name: str) -> str:
    """A label, also one that is a number."""
    if name and _found(fields, name) and isinstance(number := _at(fields, name), int):
        return str(number)
    return _string(fields, name, "category")


def _checked(value: Any, what: str) -> str:
    """A text that every table, tokenizer and request can hold.

    Raises:
        _Unusable: it is not text, has a NUL, or cannot be written as UTF-8.
    """
    if value is None or value != value:  # noqa: PLR0124  (NaN is how data frames write "missing")
        return ""
    if not isinstance(value, str):
        raise _Unusable(f"{what} is not text")
    if "\0" in value:
        raise _Unusable("a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        reason = "not UTF-8" if _FIRST_SURROGATE <= code <= _LAST_SURROGATE else "a lone surrogate"
        raise _Unusable(reason) from None
    return value
