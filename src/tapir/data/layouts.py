"""Records as instruction and response: the Alpaca, ShareGPT and messages layouts."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple, TypeAlias, TypedDict

from tapir.config.corpus import ColumnsConfig, Format, Turns
from tapir.data.records import Record, Unreadable, printable, unwrapped
from tapir.data.turns import (
    OTHER_MEDIA,
    Exchange,
    SpokenTurn,
    UnusableRow,
    checked_text,
    exchange,
    exchanges,
    in_turn,
    is_list,
    is_no_input,
    is_off,
    joined,
    other_media,
    spoken_turn,
    spoken_turns,
    transcribed,
)
from tapir.domain.errors import DataError
from tapir.domain.instruction import Turn
from tapir.domain.roles import Rejected

Reader: TypeAlias = Callable[[dict[str, Any], "Columns"], "list[SpokenTurn] | Exchange"]

TURN = " turn "
"""Between the place of a conversation and the number of one of its answers, where several are used."""

HEAD = 100

_CONVERSATION = {"sharegpt": "conversations", "messages": "messages"}
_CONVERSATIONS = (*_CONVERSATION.values(), "conversation")
_TEXTS = "data"  # UltraChat's column of what both sides say in turn
_COMPLETION: dict[Format, str] = {
    "prompt-completion": "completion",
    "preference": "chosen",
}  # what answers the column `prompt`
# What stands for Alpaca's columns where a file has none of them.
_QUESTIONS = ("prompt", "question", "query", "problem", "inputs", "input")
_ANSWERS = ("response", "solution", "answer", "targets", "chosen")
_INPUTS = ("input", "context")

_ABSENT = object()
_SYSTEMS = ("system", "system_prompt")  # the usual names of the column
_SPARSE = {"system", "history", "thought"}  # columns that only few rows may have


class Columns(ColumnsConfig):
    """The columns as a file has them."""

    other_input: str = ""
    """Column with the input of rows that have no `input`."""


_USUAL = Columns()


class Reading(TypedDict, total=False):
    """How the rows of a source are read; see `rows`."""

    layout: Format
    columns: ColumnsConfig
    turns: Turns
    unanswered: bool


class Row(NamedTuple):
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


def rows(
    records: Iterable[Record | Rejected],
    source: str,
    notes: list[str] | None,
    *,
    layout: Format = "auto",
    columns: ColumnsConfig = _USUAL,
    turns: Turns = "last",
    unanswered: bool = False,
) -> Iterator[Row | Rejected]:
    """Read every record of a source as a row, or reject it with the reason; pass on what is rejected already.

    Of a conversation with several answers `turns` says which are rows; with `unanswered` a question at its end counts
    as one that is still to be answered.

    The layout "auto" is decided by the columns of the first 100 records; one of them has each column asked for, but
    `system`, `history` and `thought`, which any may have. Their columns that are not read are a line in `notes`.
    """
    wanted = {columns.instruction, columns.conversation, *_CONVERSATIONS, *_QUESTIONS, "chosen"} - {""}
    records = unwrapped(records, wanted, notes)
    unseen = [name for key, name in _named(columns).items() if key in _SPARSE]
    first: Record | Rejected | None = None
    for first in records:
        if isinstance(first, Rejected):
            yield first
            continue
        head = [first, *islice(records, HEAD - 1)]
        fields = [record.fields for record in head if isinstance(record, Record)]
        read, found = _reader(fields, layout, Columns(**dict(columns)), source)
        if notes is not None and (unread := _unread(fields, read, found)):
            notes.append(f"columns not read: {', '.join(map(printable, unread))}")
        for record in chain(head, records):
            if isinstance(record, Rejected):
                yield record
            else:
                unseen = [name for name in unseen if _at(record.fields, name, _ABSENT) is _ABSENT]
                yield from _rows(record, read, found, turns, unanswered=unanswered)
        if unseen:
            raise _no_column(unseen[0], fields, source)
    if first is None:
        raise DataError(f"{source} holds no rows", remedy="Check that it is the right file and was written to its end.")


def _named(columns: ColumnsConfig) -> dict[str, str]:
    """Return the columns that have another name than the usual one."""
    return {key: name for key, name in columns if name not in {"", getattr(_USUAL, key)}}


def _found(columns: Columns, **names: str) -> Columns:
    """Return the columns with the names that a file has for them."""
    return columns.model_copy(update=names)


def _used(read: Reader, columns: Columns) -> list[str]:
    """Return the columns that are read where rows have them."""
    used = [columns.conversation] if read is _conversation else [columns.instruction, columns.response]
    used += [columns.input, columns.other_input, columns.history] if read is _alpaca else []
    return [*used, *_systems(columns), columns.thought, columns.category]


def _unread(head: Sequence[dict[str, Any]], read: Reader, columns: Columns) -> list[str]:
    """Return the columns of the first records that are not read, in order."""
    used = [*_used(read, columns), "kto_tag", *OTHER_MEDIA]
    if read is _completion or any(isinstance(fields.get("label"), bool) for fields in head):
        used.append("label")
    present = dict.fromkeys(str(name) for fields in head for name in fields)
    known = {name if name in present else name.split(".")[0] for name in used}
    return [name for name in present if name not in known]


def _reader(head: Sequence[dict[str, Any]], layout: Format, columns: Columns, source: str) -> tuple[Reader, Columns]:
    def has(name: str, fits: Callable[[Any], bool] = lambda _: True) -> bool:
        values = (_at(fields, name, _ABSENT) for fields in head)
        return any(value is not _ABSENT and fits(value) for value in values)

    usual, named = _USUAL, _named(columns)
    if layout == "auto":
        layout, columns = _layout(has, columns)
    if answer := _COMPLETION.get(layout):
        questions = _QUESTIONS if columns.instruction == usual.instruction else (columns.instruction,)
        talks = [name for name in _CONVERSATIONS if has(name, _is_open)] if layout == "preference" else []
        asked = next(filter(has, [*questions, *talks]), questions[0])
        own = columns.response != usual.response or (has(usual.response) and not has(answer))
        columns = _found(
            columns,
            instruction="" if layout == "preference" and not has(asked) else asked,
            response=columns.response if own else answer,
        )
    elif layout != "alpaca":
        found = filter(has, (_CONVERSATION[layout], *_CONVERSATIONS, _TEXTS))
        columns = _found(columns, conversation=columns.conversation or next(found, _CONVERSATION[layout]))
    read = _completion if answer else _alpaca if layout == "alpaca" else _conversation
    needed = columns.response if answer else columns.instruction if layout == "alpaca" else columns.conversation
    for name in filter(None, [needed, *(name for key, name in named.items() if key not in _SPARSE)]):
        if not has(name):
            raise _no_column(name, head, source)
    for key, name in named.items():
        if name not in _used(read, columns):
            raise DataError(
                f"columns.{key} = {name!r} has no effect on {source}, whose layout is {layout}",
                remedy="Remove it, or name another corpus.layout.",
            )
    return read, columns


def _layout(has: Callable[..., bool], columns: Columns) -> tuple[Format, Columns]:
    """Return the layout that the columns show, and where it reads."""
    usable = (name for name in _CONVERSATIONS if has(name, is_list))
    texts = (name for name in (_TEXTS,) if has(name, _are_texts))
    turns = columns.conversation or next(chain(usable, texts, filter(has, _CONVERSATION.values())), "")
    beside = has(columns.instruction) and has(columns.response)
    named = not _named(columns).keys().isdisjoint({"instruction", "response"})
    answer = columns.response if columns.response != _USUAL.response else "chosen"
    answered = columns.instruction == _USUAL.instruction and not beside and has(answer, _may_answer)
    if turns and answered and has(turns, _is_open):  # the conversation is what stands before the answer
        return "preference", _found(columns, instruction=turns)
    if columns.conversation or (turns and not (beside or named)):
        return "messages", _found(columns, conversation=turns)
    if columns.instruction == _USUAL.instruction and not has(_USUAL.instruction):
        for layout, completion in _COMPLETION.items():
            if has(completion):
                return layout, columns
    return _guessed(has, columns)


def _guessed(has: Callable[..., bool], columns: Columns) -> tuple[Format, Columns]:
    """Return where rows have what stands for the columns of Alpaca, of which a file may lack any."""

    def found(name: str, usual: str, others: Iterable[str], fits: Callable[[Any], bool] = _is_text) -> str:
        return name if name != usual or has(usual) else next((other for other in others if has(other, fits)), usual)

    usual = _USUAL
    answered = found(columns.response, usual.response, _ANSWERS, _may_answer)
    asked = found(columns.instruction, usual.instruction, _QUESTIONS)
    turns = next((name for name in _QUESTIONS if has(name, lambda value: isinstance(value, list))), "")
    if turns and asked == usual.instruction and not has(asked):
        if has(answered):
            return "prompt-completion", _found(columns, instruction=turns, response=answered)
        return "messages", _found(columns, conversation=turns)
    others = _INPUTS if columns.instruction == usual.instruction and columns.input == usual.input else ()
    given = "" if asked == columns.input else found(columns.input, usual.input, others)
    other = next((name for name in others if given and name != given and not has(name)), "")
    return "alpaca", _found(columns, instruction=asked, input=given, response=answered, other_input=other)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _may_answer(value: Any) -> bool:
    return isinstance(value, str | list | dict)


def _is_open(value: Any) -> bool:
    """Return whether a conversation ends with what the user says."""
    try:
        turns = _conversation({"turns": value}, Columns(conversation="turns"))
    except UnusableRow:
        return False
    return bool(turns) and turns[-1].speaker == "user" and bool(turns[-1].text.strip())


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


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
    if name in fields and not isinstance(fields[name], Unreadable):
        return fields[name]
    if name not in fields and "." not in name:
        return default
    value: Any = fields
    try:
        for step in [name] if name in fields else name.split("."):
            value = value[int(step) if isinstance(value, list) else step]
            if isinstance(value, Unreadable) and default is not _ABSENT:
                raise UnusableRow(value.reason)
    except (LookupError, TypeError, ValueError):  # no such column, a text, not a number
        return default
    return value


def _rows(
    record: Record, read: Reader, columns: Columns, turns: Turns, *, unanswered: bool
) -> Sequence[Row | Rejected]:
    fields, place = record.fields, record.place
    try:
        said = read(fields, columns)
        found = [said] if isinstance(said, Exchange) else exchanges(said, unanswered=unanswered)
        category = _category(fields, columns.category) if columns.category else ""
        thought = _at(fields, columns.thought) if columns.thought else ""
        if isinstance(thought, str) and thought.strip() and found[-1].answer.strip() and not found[-1].thought:
            found[-1] = found[-1]._replace(thought=checked_text(thought, "a thought").strip())
    except UnusableRow as reason:
        return [_rejected(record, place, str(reason))]
    label = fields.get("label") if columns.category != "label" else None
    if is_off(fields.get("kto_tag")) or label is False or (read is _completion and is_off(label)):
        return [_rejected(record, place, "a completion that its label rejects")]
    if held := other_media(fields):
        return [_rejected(record, place, f"it has {held}")]
    if turns == "all" and len(found) > 1:
        return [_row(record, f"{place}{TURN}{number}", category, each) for number, each in enumerate(found, 1)]
    return [_row(record, place, category, found[-1 if turns == "last" else 0])]


def _category(fields: dict[str, Any], name: str) -> str:
    label = _at(fields, name)
    return str(label) if isinstance(label, int) else checked_text(label, "category")


def _row(record: Record, place: str, category: str, exchange: Exchange) -> Row | Rejected:
    context, question, answer, thought, fault = exchange
    return _rejected(record, place, fault) if fault else Row(question, answer, place, category, context, thought)


def _rejected(record: Record, place: str, reason: str) -> Rejected:
    raw = record.raw or json.dumps(record.fields, ensure_ascii=False, default=str)
    return Rejected(place, reason, printable(raw))


def _alpaca(fields: dict[str, Any], columns: Columns) -> list[SpokenTurn] | Exchange:
    turns = _system(fields, columns)
    for past in _list(fields, columns.history, "the history") if columns.history else ():
        turns += spoken_turns(past)
    instruction = _string(fields, columns.instruction, "instruction").strip()
    other = columns.input not in fields and isinstance(fields.get(columns.other_input), str)
    given = _string(fields, columns.other_input if other else columns.input, "input").strip("\r\n").rstrip()
    if not instruction:
        raise UnusableRow("no instruction")
    text = instruction if is_no_input(given) else f"{instruction}\n\n{given}"
    response = _at(fields, columns.response) if columns.response else ""
    if not turns and isinstance(response, str):
        return exchange(text, checked_text(response, "response"))
    turns.append(SpokenTurn("user", text))
    return joined(turns, _spoken(fields, columns.response, "assistant", "response"))


def _conversation(fields: dict[str, Any], columns: Columns) -> list[SpokenTurn]:
    said = _list(fields, columns.conversation, "the conversation")
    turns = in_turn(said) if _are_texts(said) else [turn for each in said for turn in spoken_turns(each)]
    return _system(fields, columns) + turns


def _completion(fields: dict[str, Any], columns: Columns) -> list[SpokenTurn]:
    """Return the turns of a prompt and its completion (or the chosen one), each a text, a turn or a list of turns."""
    turns = _system(fields, columns)
    for name, side in ((columns.instruction, "user"), (columns.response, "assistant")):
        said = _spoken(fields, name, side, name)
        turns = joined(turns, (transcribed(said[0].text) if len(said) == 1 else []) or said)
    return turns


def _systems(columns: Columns) -> tuple[str, ...]:
    return _SYSTEMS if columns.system == _USUAL.system else (columns.system,)


def _system(fields: dict[str, Any], columns: Columns) -> list[SpokenTurn]:
    said = next(filter(None, (_string(fields, name, "system prompt") for name in _systems(columns))), "")
    return [SpokenTurn("system", said)] if said else []


def _spoken(fields: dict[str, Any], name: str, side: str, what: str) -> list[SpokenTurn]:
    """Return the turns in a column: a text of one side, a turn or a list of turns."""
    value = _at(fields, name) if name else None
    said = value if isinstance(value, list) else [value]
    if isinstance(value, str) or not all(isinstance(each, dict) and each.keys() & {"role", "from"} for each in said):
        return [SpokenTurn(side, checked_text(value, what))]
    return list(map(spoken_turn, said))


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
