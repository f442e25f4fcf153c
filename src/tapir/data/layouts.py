"""Records as instruction and response: the Alpaca, ShareGPT and messages layouts."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, dropwhile, islice
from typing import Any, Literal, NamedTuple, TypeAlias

from tapir.domain.completion import part_thought
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
_CONVERSATIONS = (*_CONVERSATION.values(), "conversation")
_COMPLETION: dict[Format, str] = {
    "prompt-completion": "completion",
    "preference": "chosen",
}  # what answers the column `prompt`
_SIDES = ("user", "assistant")
_EXCHANGES = (("user", "assistant"), ("human", "assistant"), ("input", "output"))  # keys of an object with both sides
_CONTENT = ("content", "value", "text")
_THOUGHT = ("reasoning_content", "reasoning", "thinking", "thought")  # beside the content of a turn
_OF_TEXT = ("text", "input_text", "output_text")  # types of a part
_OF_THOUGHT = ("thinking", "reasoning")
_NOTHING = {"", "null", "none", "nan"}
_OTHER_MEDIA = ("tools", "functions", "image", "images", "video", "videos", "audio", "audios")
_SPEAKERS = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "ai"), "assistant"),
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


class _Turn(NamedTuple):
    """What one side says; what the assistant says carries loss unless the row says otherwise."""

    speaker: str  # system, user, assistant or tool
    text: str
    learnt: bool = True
    thought: str = ""


class _Exchange(NamedTuple):
    """An answer and what stands before it, or why it cannot be used."""

    context: tuple[Turn, ...]
    question: str
    answer: str
    thought: str
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
    usable = (name for name in _CONVERSATIONS if has(name, _is_list))
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
            yield Row(each.question, each.answer, place, category, each.context, each.thought)


def _holds(value: Any) -> bool:
    """Return whether a column of tools or images holds any; tables and JSON say in many ways that there is none."""
    if isinstance(value, str):
        return value.strip("[]{} \n").lower() not in _NOTHING
    if isinstance(value, list | dict):
        return any(each not in (None, "", [], {}) for each in (value.values() if isinstance(value, dict) else value))
    return bool(value == value and value)  # noqa: PLR0124  (NaN)


def _alpaca(fields: dict[str, Any], columns: Columns) -> list[_Turn]:
    turns = [_Turn("system", _string(fields, columns.system, "system prompt"))]
    history = _list(fields, columns.history, "the history") if columns.history else ()
    turns += [turn for past in history for turn in _said(past)]
    instruction = _string(fields, columns.instruction, "instruction").strip()
    given = _string(fields, columns.input, "input").strip("\r\n").rstrip()
    if not instruction:
        raise _Unusable("no instruction")
    text = instruction if is_no_input(given) else f"{instruction}\n\n{given}"
    return _joined([*turns, _Turn("user", text)], _spoken(fields, columns.response, "assistant", "response"))


def _conversation(fields: dict[str, Any], columns: Columns) -> list[_Turn]:
    before = [_Turn("system", _string(fields, columns.system, "system prompt"))]
    return before + [turn for each in _list(fields, columns.conversation, "the conversation") for turn in _said(each)]


def _completion(fields: dict[str, Any], columns: Columns) -> list[_Turn]:
    """Return the turns of a prompt and its completion (or the chosen one), each a text, a turn or a list of turns."""
    if fields.get("label") is False:
        raise _Unusable("a completion that its label rejects")
    turns = [_Turn("system", _string(fields, columns.system, "system prompt"))]
    for name, side in ((columns.instruction, "user"), (columns.response, "assistant")):
        turns = _joined(turns, _spoken(fields, name, side, name))
    return turns


def _spoken(fields: dict[str, Any], name: str, side: str, what: str) -> list[_Turn]:
    """Return the turns in a column: a text of one side, a turn or a list of turns."""
    value = _at(fields, name) if name else None
    said = value if isinstance(value, list) else [value]
    if all(isinstance(each, dict) and ("role" in each or "from" in each) for each in said):
        return list(map(_turn, said))
    return [_Turn(side, _check(value, what))]


def _joined(before: list[_Turn], after: list[_Turn]) -> list[_Turn]:
    """Return turns and those after them; a chosen conversation often repeats its prompt, below a system prompt."""

    def parted(turns: list[_Turn]) -> tuple[list[_Turn], list[_Turn]]:
        rest = list(dropwhile(lambda turn: turn.speaker == "system", turns))
        return turns[: len(turns) - len(rest)], rest

    (system, old), (more, new) = parted(before), parted(after)
    said, again = ([(turn.speaker, turn.text.strip()) for turn in turns] for turns in (old, new))
    repeated = [count for count in range(1, min(len(old), len(new)) + 1) if said[-count:] == again[:count]]
    return [*system, *more, *old, *new[repeated[-1] :]] if repeated else before + after


def _exchanges(turns: Sequence[_Turn]) -> list[_Exchange]:
    """Return every answer of the assistant with what stands before it; without any, the question with the answer "".

    An exchange that cannot be trained on says why.
    """
    merged = _merged(turns)
    if not any(turn.speaker == "user" for turn in merged):
        raise _Unusable("no instruction")
    context: list[Turn] = []
    found: list[_Exchange] = []
    fault = question = ""
    for speaker, text, learnt, thought in merged:
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
            reason = fault or ("" if learnt else "an answer of weight 0")
            found.append(_Exchange(tuple(context), question, text, thought, reason))
            context += [Turn("user", question), Turn("assistant", text)]
            fault = fault or ("" if text.strip() else "no answer in the conversation")
            question = ""
    return found or [_Exchange(tuple(context), question, "", "", fault)]


def _merged(turns: Sequence[_Turn]) -> list[_Turn]:
    """Return turns that say something, with those of one side that follow each other as one, thoughts parted."""
    merged: list[_Turn] = []
    for turn in turns:
        if turn.speaker == "assistant":
            thought, text = (turn.thought, turn.text) if turn.thought else part_thought(turn.text)
            turn = turn._replace(text=text, thought=thought)  # noqa: PLW2901
        elif turn.text.strip():
            turn = turn._replace(text=turn.text.strip())  # noqa: PLW2901
        else:
            continue
        if merged and merged[-1].speaker == turn.speaker:
            turn = _as_one(merged.pop(), turn)  # noqa: PLW2901
        merged.append(turn)
    return merged


def _as_one(first: _Turn, second: _Turn) -> _Turn:
    """Return two turns of one side as one, which is learnt where both are."""
    texts = [text for text in (first.text, second.text) if text.strip()]
    if first.speaker == "system" and first.text == second.text:
        del texts[1:]
    thought = "\n\n".join(filter(None, (first.thought, second.thought)))
    return _Turn(first.speaker, "\n\n".join(texts), first.learnt and second.learnt, thought)


def is_no_input(given: str) -> bool:
    """Return whether an input only says that there is none: "", "No input.", "<noinput>", "N/A", "none", "-", ..."""
    core = given.strip(_AROUND)
    nothing = _NO_INPUT.fullmatch(" ".join(core.split()))
    return not given.strip() or bool(_DASHES.fullmatch(given.strip())) or (bool(nothing) and core not in _NAMES)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


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
        raise _Unusable(f"{what} is not a list")
    return value


def _said(entry: Any) -> list[_Turn]:
    """Return the turns of an entry of a conversation: a turn, or an exchange as a pair or an object with both sides."""
    if isinstance(entry, dict) and not ("role" in entry or "from" in entry):
        entry = next(([entry[key] for key in keys] for keys in _EXCHANGES if entry.keys() >= {*keys}), entry)
    if isinstance(entry, dict):
        return [_turn(entry)]
    if not isinstance(entry, list | tuple) or len(entry) != len(_SIDES):
        raise _Unusable("a turn is no object and no pair")
    pair = [_Turn(side, _check(text, "a turn")) for side, text in zip(_SIDES, entry, strict=True)]
    return pair if any(turn.text.strip() for turn in pair) else []


def _turn(turn: dict[str, Any]) -> _Turn:
    name = turn.get("role") or turn.get("from")
    speaker = _SPEAKERS.get(name.strip(" \t\r\n:").lower()) if isinstance(name, str) else None
    if speaker is None:
        raise _Unusable("a turn without a known speaker")
    if speaker == "tool" or _holds(turn.get("tool_calls")) or _holds(turn.get("function_call")):
        return _Turn("tool", "used")
    if not any(name in turn for name in _CONTENT):
        raise _Unusable("a turn without content")
    thought, text = _content(next((turn[name] for name in _CONTENT if turn.get(name) is not None), None))
    thought = next((turn[name] for name in _THOUGHT if isinstance(turn.get(name), str) and turn[name].strip()), thought)
    learnt = not (_is_off(turn.get("weight")) or _is_off(turn.get("train")))
    return _Turn(speaker, _check(text, "a turn"), learnt, _check(thought, "a thought").strip())


def _content(content: Any) -> tuple[Any, Any]:
    """Return thought and text of a turn, which may be a list of parts."""
    if not isinstance(content, list):
        return "", content
    thoughts = [part for part in content if isinstance(part, dict) and part.get("type") in _OF_THOUGHT]
    given = (next((part[name] for name in (*_THOUGHT, "text") if part.get(name)), "") for part in thoughts)
    thought = "\n".join(_text(each) if isinstance(each, list) else _check(each, "a thought") for each in given)
    return thought, _text([part for part in content if part not in thoughts])


def _text(parts: Sequence[Any]) -> str:
    for part in parts:
        if not isinstance(part, dict) or (part.get("type") or "text") not in _OF_TEXT:
            raise _Unusable("a turn is not text")
    if not all(isinstance(part.get("text"), str) for part in parts):
        raise _Unusable("a turn is not text")
    return "\n".join(part["text"] for part in parts)


def _is_off(value: Any) -> bool:
    """Return whether a weight is 0, or a flag false; tables hold both as texts."""
    return str(value).strip().lower() in {"0", "0.0", "-0.0", "false"}


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
