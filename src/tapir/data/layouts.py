"""Records as instruction and response: the Alpaca, ShareGPT and messages layouts."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Literal, NamedTuple, TypeAlias

from tapir.domain.errors import DataError
from tapir.domain.instruction import Turn
from tapir.domain.roles import Rejected

Format: TypeAlias = Literal["auto", "alpaca", "sharegpt", "messages", "prompt-completion", "preference"]
Turns: TypeAlias = Literal["last", "first", "all"]
Reader: TypeAlias = Callable[[dict[str, Any], "Columns"], "list[_Turn]"]

TURN = " turn "
"""Between the place of a conversation and the number of one of its answers, where several are used."""

HEAD = 100
SHOWN = 500
NOT_UTF8 = "not UTF-8"

_CONVERSATION = {"sharegpt": "conversations", "messages": "messages"}
_COMPLETION: dict[Format, str] = {
    "prompt-completion": "completion",
    "preference": "chosen",
}  # what answers the column `prompt`
_SIDES = ("user", "assistant")
_OTHER_MEDIA = ("tools", "image", "images", "video", "videos", "audio", "audios")
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
_ABSENT = object()
_SYSTEM = "system_prompt"  # the other name of the column
_KEYS = ("data", "rows", "train", "examples", "instances", "items", "records", "samples")  # that rows stand under
_NUMBER = re.compile(r"(:| row )\d+$")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a file's columns, or paths such as `instances.0.output`; "" means that there is none.

    An empty `conversation` stands for the column that the layout calls for.
    """

    instruction: str = "instruction"
    input: str = "input"
    response: str = "output"
    conversation: str = ""
    category: str = ""
    system: str = "system"
    history: str = "history"


@dataclass(frozen=True, slots=True)
class Row:
    """A readable row: the instruction with its input below it, the answer that came with it or "", its place.

    `context` is what stands before the instruction in its conversation.
    """

    text: str
    response: str
    place: str
    category: str = ""
    context: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """A row by its column names, before its layout is known.

    Its place, "corpus.jsonl:17", is line 17 of the file; "corpus.json row 17" is the 17th row of a JSON array, of
    Parquet or of a data set of the hub.
    """

    place: str
    fields: dict[str, Any]
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that a file holds and Python cannot; a row that needs it is rejected with the reason."""

    reason: str


class _Turn(NamedTuple):
    """What one side says; what the assistant says carries loss unless the row says otherwise."""

    speaker: str  # system, user, assistant or tool
    text: str
    learnt: bool = True


class _Exchange(NamedTuple):
    """An answer and what stands before it, or why it cannot be used."""

    context: tuple[Turn, ...]
    question: str
    answer: str
    fault: str


class _Unusable(Exception):
    """Reason why a record cannot be used."""


def printable(raw: str | bytes) -> str:
    """Return the beginning of a row, at most 500 characters, with everything else than printable text escaped."""
    start = raw[:SHOWN]
    text = start.decode("utf-8", "backslashreplace") if isinstance(start, bytes) else start
    escaped = (sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)
    return "".join(escaped)[:SHOWN]


def rows(
    records: Iterable[Record | Rejected],
    layout: Format,
    columns: Columns,
    source: str,
    notes: list[str] | None,
    turns: Turns = "last",
) -> Iterator[Row | Rejected]:
    """Read every record of a source as a row, or reject it with the reason; pass on what is rejected already.

    Of a conversation with several answers `turns` says which are rows.

    The layout "auto" is decided by the columns of the first 100 records; one of them has each column asked for. Their
    columns that are not read are a line in `notes`.
    """
    wanted = {columns.instruction, columns.conversation, *_CONVERSATION.values(), "prompt", "chosen"} - {""}
    records = unwrapped(records, wanted, notes)
    first: Record | Rejected | None = None
    for first in records:
        if isinstance(first, Rejected):
            yield first
            continue
        head = [first, *islice(records, HEAD - 1)]
        fields = [record.fields for record in head if isinstance(record, Record)]
        read, columns = _reader(fields, layout, columns, source)
        if notes is not None and (unread := _unread(fields, read, columns)):
            notes.append(f"columns not read: {', '.join(map(printable, unread))}")
        for record in chain(head, records):
            if isinstance(record, Rejected):
                yield record
            else:
                yield from _rows(record, read, columns, turns)
    if first is None:
        raise DataError(f"{source} holds no rows", remedy="Check that it is the right file and was written to its end.")


def unwrapped(
    records: Iterable[Record | Rejected], wanted: Collection[str], notes: list[str] | None = None
) -> Iterator[Record | Rejected]:
    """Yield the records; where the only one has none of the columns wanted, the rows under one of its keys."""
    records = iter(records)
    head = list(islice(records, 2))
    if len(head) == 1 and isinstance(head[0], Record) and (inner := _inner_rows(head[0].fields, wanted))[0]:
        others = [key for key, value in head[0].fields.items() if key != inner[0] and isinstance(value, list)]
        if notes is not None and others:
            notes.append(f"rows read: those under {printable(inner[0])}, not under {printable(', '.join(others))}")
        name = _NUMBER.sub("", head[0].place)
        return (Record(f"{name} row {number}", fields) for number, fields in enumerate(inner[1], 1))
    return chain(head, records)


def _inner_rows(fields: dict[str, Any], wanted: Collection[str]) -> tuple[str, Sequence[dict[str, Any]]]:
    """Return a key of an object and the rows that stand under it; none where the object is a row itself."""
    if any(name.split(".")[0] in fields for name in wanted):
        return "", ()
    lists = {
        key: [row["row"] if isinstance(row.get("row"), dict) else row for row in values]
        for key, values in fields.items()
        if isinstance(values, list) and values and all(isinstance(value, dict) for value in values)
    }
    fitting = (key for key in (*_KEYS, *lists) if key in lists and any(name in lists[key][0] for name in wanted))
    key = next(fitting, next((key for key in _KEYS if key in lists), ""))
    return key, lists.get(key, ())


def _unread(head: Sequence[dict[str, Any]], read: Reader, columns: Columns) -> list[str]:
    """Return the columns of the first records that are not read, in order."""
    used = [columns.conversation] if read is _conversation else [columns.instruction, columns.response]
    used += [columns.input, columns.history] if read is _alpaca else []
    used += [columns.system, *_OTHER_MEDIA]
    present = dict.fromkeys(str(name) for fields in head for name in fields)
    known = {name if name in present else name.split(".")[0] for name in [*used, columns.category]}
    return [name for name in present if name not in known]


def _reader(head: Sequence[dict[str, Any]], layout: Format, columns: Columns, source: str) -> tuple[Reader, Columns]:
    def has(name: str) -> bool:
        return any(_at(fields, name, _ABSENT) is not _ABSENT for fields in head)

    usual = Columns()
    if columns.system == usual.system and not has(usual.system) and has(_SYSTEM):
        columns = replace(columns, system=_SYSTEM)
    if layout == "auto":
        layout = "alpaca"
        turns = columns.conversation or next(filter(has, _CONVERSATION.values()), "")
        if columns.conversation or (turns and not (has(columns.instruction) and has(columns.response))):
            layout, columns = "messages", replace(columns, conversation=turns)
        elif columns.instruction == usual.instruction and not has(usual.instruction):
            layout = next((name for name, answer in _COMPLETION.items() if has(answer)), layout)
    if answer := _COMPLETION.get(layout):
        named = columns.instruction if columns.instruction != usual.instruction else "prompt"
        columns = replace(
            columns,
            instruction="" if layout == "preference" and not has(named) else named,
            response=columns.response if columns.response != usual.response else answer,
        )
        needed = [columns.response]
    elif layout == "alpaca":
        needed = [columns.instruction]
        needed += [name for name in (columns.input, columns.response) if name not in {"", usual.input, usual.response}]
    else:
        columns = replace(columns, conversation=columns.conversation or _CONVERSATION[layout])
        needed = [columns.conversation]
    for name in filter(None, [*needed, columns.category]):
        if not has(name):
            raise _no_column(name, head, source)
    return (_completion if answer else _alpaca if layout == "alpaca" else _conversation), columns


def _no_column(name: str, head: Sequence[dict[str, Any]], source: str) -> DataError:
    present = list(dict.fromkeys(str(key) for fields in head for key in fields))
    lower = {key.lower(): key for key in reversed(present)}
    near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
    hint = f"The nearest: {', '.join(lower[key] for key in near)}. " if near else ""
    return DataError(
        f"{source} has no column {name!r}; it has {printable(', '.join(present[:HEAD])) or 'none'}",
        remedy=f"{hint}Name the columns of the file in the recipe.",
    )


def _at(fields: dict[str, Any], name: str, default: Any = None) -> Any:
    """Return the value of a column, or at a path such as `turns.0`."""
    value: Any = fields
    try:
        for step in [name] if name in fields else name.split("."):
            value = value[int(step) if isinstance(value, list) else step]
            if isinstance(value, Unreadable) and default is not _ABSENT:
                raise _Unusable(value.reason)
    except (LookupError, TypeError, ValueError):  # no such column, a text, not a number
        return default
    return value


def _rows(record: Record, read: Reader, columns: Columns, turns: Turns) -> Iterator[Row | Rejected]:
    def rejected(place: str, reason: str) -> Rejected:
        raw = record.raw or json.dumps(record.fields, ensure_ascii=False, default=str)
        return Rejected(place, reason, printable(raw))

    try:
        exchanges = _exchanges(read(record.fields, columns))
        label = _at(record.fields, columns.category) if columns.category else ""
        category = str(label) if isinstance(label, int) else _check(label, "category")
    except _Unusable as reason:
        yield rejected(record.place, str(reason))
        return
    if other := next((name for name in _OTHER_MEDIA if _holds(record.fields.get(name))), ""):
        yield rejected(record.place, f"it has {other}")
        return
    chosen = {"first": exchanges[:1], "last": exchanges[-1:], "all": exchanges}[turns]
    for number, each in enumerate(chosen, 1):
        place = record.place if len(chosen) == 1 else f"{record.place}{TURN}{number}"
        if each.fault:
            yield rejected(place, each.fault)
        else:
            yield Row(each.question, each.answer, place, category, each.context)


def _holds(value: Any) -> bool:
    """Return whether a column of tools or images holds any."""
    return bool(value.strip("[] \n") if isinstance(value, str) else value == value and value)  # noqa: PLR0124 (NaN)


def _alpaca(fields: dict[str, Any], columns: Columns) -> list[_Turn]:
    turns = [_Turn("system", _string(fields, columns.system, "system prompt"))]
    for past in _list(fields, columns.history, "the history") if columns.history else ():
        if not isinstance(past, list | tuple) or len(past) != len(_SIDES):
            raise _Unusable("the history is no list of pairs")
        turns += [_Turn(side, _check(text, "a turn")) for side, text in zip(_SIDES, past, strict=True)]
    instruction = _string(fields, columns.instruction, "instruction").strip()
    given = _string(fields, columns.input, "input").strip("\r\n").rstrip()
    if not instruction:
        raise _Unusable("no instruction")
    text = instruction if is_no_input(given) else f"{instruction}\n\n{given}"
    return [*turns, _Turn("user", text), _Turn("assistant", _string(fields, columns.response, "response"))]


def _conversation(fields: dict[str, Any], columns: Columns) -> list[_Turn]:
    before = [_Turn("system", _string(fields, columns.system, "system prompt"))]
    return before + [_turn(turn) for turn in _list(fields, columns.conversation, "the conversation")]


def _completion(fields: dict[str, Any], columns: Columns) -> list[_Turn]:
    """Return the turns of a prompt and its completion (or the chosen one), each a text or a list of turns."""
    turns = [_Turn("system", _string(fields, columns.system, "system prompt"))]
    for name, side in ((columns.instruction, "user"), (columns.response, "assistant")):
        value = _at(fields, name) if name else None
        if isinstance(value, list):
            said = [_turn(turn) for turn in value]
            # a chosen conversation often begins with its prompt
            turns = turns[:1] + said if said[: len(turns) - 1] == turns[1:] else turns + said
        else:
            turns.append(_Turn(side, _check(value, name)))
    return turns


def _exchanges(turns: Sequence[_Turn]) -> list[_Exchange]:
    """Return every answer of the assistant with what stands before it; without any, the question with the answer "".

    Turns of one side that follow each other are one. An exchange that cannot be trained on says why.
    """
    merged: list[_Turn] = []
    for turn in turns:
        if turn.speaker == "assistant" or turn.text.strip():
            text = turn.text if turn.speaker == "assistant" else turn.text.strip()
            turn = turn._replace(text=text)  # noqa: PLW2901
            if merged and merged[-1].speaker == turn.speaker:
                turn = turn._replace(text=f"{merged.pop().text}\n\n{text}")  # noqa: PLW2901
            merged.append(turn)
    if not any(turn.speaker == "user" for turn in merged):
        raise _Unusable("no instruction")
    context: list[Turn] = []
    found: list[_Exchange] = []
    fault = question = ""
    for speaker, text, learnt in merged:
        if speaker == "tool":
            fault = fault or "a tool is used"
        elif speaker == "system":
            fault = fault or ("a system prompt in the middle of the conversation" if context or question else "")
            context.append(Turn("system", text))
        elif speaker == "user":
            question = text
        else:
            if not question:
                raise _Unusable("the assistant speaks first")
            found.append(
                _Exchange(tuple(context), question, text, fault or ("" if learnt else "an answer of weight 0"))
            )
            context += [Turn("user", question), Turn("assistant", text)]
            fault = fault or ("" if text.strip() else "no answer in the conversation")
            question = ""
    return found or [_Exchange(tuple(context), question, "", fault)]


def is_no_input(given: str) -> bool:
    """Return whether an input only says that there is none: "", "No input.", "<noinput>", "N/A", "none", "-", ..."""
    core = given.strip(_AROUND)
    nothing = _NO_INPUT.fullmatch(" ".join(core.split()))
    return not given.strip() or bool(_DASHES.fullmatch(given.strip())) or (bool(nothing) and core not in _NAMES)


def _list(fields: dict[str, Any], name: str, what: str) -> list[Any]:
    """Return the list in a column; empty where there is none."""
    value = _at(fields, name)
    if isinstance(value, str):  # tables often hold it as JSON
        try:
            value = json.loads(value or "[]")
        except (ValueError, RecursionError):
            value = {}
    if value is None:
        return []
    if not isinstance(value, list):
        raise _Unusable(f"{what} is not a list")
    return value


def _turn(turn: Any) -> _Turn:
    if not isinstance(turn, dict):
        raise _Unusable("a turn is not an object")
    name = turn.get("role") or turn.get("from")
    speaker = _SPEAKERS.get(name.strip().lower()) if isinstance(name, str) else None
    if speaker is None:
        raise _Unusable("a turn without a known speaker")
    if speaker == "tool" or turn.get("tool_calls") or turn.get("function_call"):
        return _Turn("tool", "used")
    content = turn.get("value") if turn.get("content") is None else turn["content"]
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise _Unusable("a turn is not text")
        content = "\n".join(part["text"] for part in content)
    learnt = turn.get("weight") != 0 and turn.get("train") is not False
    return _Turn(speaker, _check(content, "a turn"), learnt)


def _string(fields: dict[str, Any], name: str, what: str) -> str:
    """Return the text of a column; "" where the column or its value is missing."""
    return _check(_at(fields, name), what) if name else ""


def _check(value: Any, what: str) -> str:
    """Return a text that every table, tokenizer and request can hold."""
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
        reason = NOT_UTF8 if _FIRST_SURROGATE <= code <= _LAST_SURROGATE else "a lone surrogate"
        raise _Unusable(reason) from None
    return value
