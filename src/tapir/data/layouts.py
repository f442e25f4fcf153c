"""Records as instruction and response: the Alpaca, ShareGPT and messages layouts."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Literal, TypeAlias

from tapir.data.turns import (
    SpokenTurn,
    UnusableRow,
    checked_text,
    exchanges,
    holds_any,
    is_list,
    joined,
    spoken_turn,
    spoken_turns,
)
from tapir.domain.errors import DataError
from tapir.domain.instruction import Turn
from tapir.domain.roles import Rejected

Format: TypeAlias = Literal["auto", "alpaca", "sharegpt", "messages", "prompt-completion", "preference"]
Turns: TypeAlias = Literal["last", "first", "all"]
Reader: TypeAlias = Callable[[dict[str, Any], "Columns"], "list[SpokenTurn]"]

TURN = " turn "
"""Between the place of a conversation and the number of one of its answers, where several are used."""

HEAD = 100
SHOWN = 500

_CONVERSATION = {"sharegpt": "conversations", "messages": "messages"}
_CONVERSATIONS = (*_CONVERSATION.values(), "conversation")
_COMPLETION: dict[Format, str] = {
    "prompt-completion": "completion",
    "preference": "chosen",
}  # what answers the column `prompt`
_OTHER_MEDIA = ("tools", "functions", "image", "images", "video", "videos", "audio", "audios")

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

    `context` is what stands before the instruction in its conversation, `thought` what its author thought before the
    answer; neither an answer nor an earlier one has a thought in it.
    """

    text: str
    response: str
    place: str
    category: str = ""
    context: tuple[Turn, ...] = ()
    thought: str = ""


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
    wanted = {columns.instruction, columns.conversation, *_CONVERSATIONS, "prompt", "chosen"} - {""}
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
    used += ["label"] if read is _completion else []
    used += [columns.system, *_OTHER_MEDIA]
    present = dict.fromkeys(str(name) for fields in head for name in fields)
    known = {name if name in present else name.split(".")[0] for name in [*used, columns.category]}
    return [name for name in present if name not in known]


def _reader(head: Sequence[dict[str, Any]], layout: Format, columns: Columns, source: str) -> tuple[Reader, Columns]:
    def has(name: str, fits: Callable[[Any], bool] = lambda _: True) -> bool:
        values = (_at(fields, name, _ABSENT) for fields in head)
        return any(value is not _ABSENT and fits(value) for value in values)

    usual = Columns()
    if columns.system == usual.system and not has(usual.system) and has(_SYSTEM):
        columns = replace(columns, system=_SYSTEM)
    if layout == "auto":
        layout, columns = _layout(has, columns)
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
        found = filter(has, (_CONVERSATION[layout], *_CONVERSATIONS))
        columns = replace(columns, conversation=columns.conversation or next(found, _CONVERSATION[layout]))
        needed = [columns.conversation]
    for name in filter(None, [*needed, columns.category]):
        if not has(name):
            raise _no_column(name, head, source)
    return (_completion if answer else _alpaca if layout == "alpaca" else _conversation), columns


def _layout(has: Callable[..., bool], columns: Columns) -> tuple[Format, Columns]:
    """Return the layout that the columns show, and where it reads."""
    usual = Columns()
    layout: Format = "alpaca"
    usable = (name for name in _CONVERSATIONS if has(name, is_list))
    turns = columns.conversation or next(chain(usable, filter(has, _CONVERSATION.values())), "")
    if turns and has(
        "chosen", lambda value: isinstance(value, dict)
    ):  # LLaMA-Factory's, where the conversation is what stands before it
        layout, columns = "preference", replace(columns, instruction=turns)
    elif columns.conversation or (turns and not (has(columns.instruction) and has(columns.response))):
        layout, columns = "messages", replace(columns, conversation=turns)
    elif columns.instruction == usual.instruction and not has(usual.instruction):
        layout = next((name for name, answer in _COMPLETION.items() if has(answer)), layout)
    elif columns.response == usual.response and not has(usual.response) and has("chosen"):
        columns = replace(columns, response="chosen")
    return layout, columns


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
                raise UnusableRow(value.reason)
    except (LookupError, TypeError, ValueError):  # no such column, a text, not a number
        return default
    return value


def _rows(record: Record, read: Reader, columns: Columns, turns: Turns) -> Iterator[Row | Rejected]:
    def rejected(place: str, reason: str) -> Rejected:
        raw = record.raw or json.dumps(record.fields, ensure_ascii=False, default=str)
        return Rejected(place, reason, printable(raw))

    try:
        found = exchanges(read(record.fields, columns))
        label = _at(record.fields, columns.category) if columns.category else ""
        category = str(label) if isinstance(label, int) else checked_text(label, "category")
    except UnusableRow as reason:
        yield rejected(record.place, str(reason))
        return
    if other := next((name for name in _OTHER_MEDIA if holds_any(record.fields.get(name))), ""):
        yield rejected(record.place, f"it has {other}")
        return
    chosen = {"first": found[:1], "last": found[-1:], "all": found}[turns]
    for number, each in enumerate(chosen, 1):
        place = record.place if len(chosen) == 1 else f"{record.place}{TURN}{number}"
        if each.fault:
            yield rejected(place, each.fault)
        else:
            yield Row(each.question, each.answer, place, category, each.context, each.thought)


def _alpaca(fields: dict[str, Any], columns: Columns) -> list[SpokenTurn]:
    turns = [SpokenTurn("system", _string(fields, columns.system, "system prompt"))]
    history = _list(fields, columns.history, "the history") if columns.history else ()
    turns += [turn for past in history for turn in spoken_turns(past)]
    instruction = _string(fields, columns.instruction, "instruction").strip()
    given = _string(fields, columns.input, "input").strip("\r\n").rstrip()
    if not instruction:
        raise UnusableRow("no instruction")
    text = instruction if is_no_input(given) else f"{instruction}\n\n{given}"
    return joined([*turns, SpokenTurn("user", text)], _spoken(fields, columns.response, "assistant", "response"))


def _conversation(fields: dict[str, Any], columns: Columns) -> list[SpokenTurn]:
    before = [SpokenTurn("system", _string(fields, columns.system, "system prompt"))]
    return before + [
        turn for each in _list(fields, columns.conversation, "the conversation") for turn in spoken_turns(each)
    ]


def _completion(fields: dict[str, Any], columns: Columns) -> list[SpokenTurn]:
    """Return the turns of a prompt and its completion (or the chosen one), each a text, a turn or a list of turns."""
    if fields.get("label") is False:
        raise UnusableRow("a completion that its label rejects")
    turns = [SpokenTurn("system", _string(fields, columns.system, "system prompt"))]
    for name, side in ((columns.instruction, "user"), (columns.response, "assistant")):
        turns = joined(turns, _spoken(fields, name, side, name))
    return turns


def _spoken(fields: dict[str, Any], name: str, side: str, what: str) -> list[SpokenTurn]:
    """Return the turns in a column: a text of one side, a turn or a list of turns."""
    value = _at(fields, name) if name else None
    said = value if isinstance(value, list) else [value]
    if all(isinstance(each, dict) and ("role" in each or "from" in each) for each in said):
        return list(map(spoken_turn, said))
    return [SpokenTurn(side, checked_text(value, what))]


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
            value = json.loads(value.strip() or "[]")
        except (ValueError, RecursionError):
            value = {}
    if value is None or value != value:  # noqa: PLR0124  (NaN)
        return []
    if not isinstance(value, list):
        raise UnusableRow(f"{what} is not a list")
    return value


def _string(fields: dict[str, Any], name: str, what: str) -> str:
    """Return the text of a column; "" where the column or its value is missing."""
    return checked_text(_at(fields, name), what) if name else ""
