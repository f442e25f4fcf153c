"""Turns of a conversation as files hold them: who speaks, what is said and thought, and what can be learnt of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import dropwhile
from typing import Any, NamedTuple

from tapir.domain.completion import part_thought
from tapir.domain.instruction import Turn

_SIDES = ("user", "assistant")
_EXCHANGES = (("user", "assistant"), ("human", "assistant"), ("input", "output"))  # keys of an object with both sides
_CONTENT = ("content", "value", "text")
_THOUGHT = ("reasoning_content", "reasoning", "thinking", "thought")  # beside the content of a turn
_CALLS = ("tool_calls", "function_call", "function_calls", "functions", "tools")
_SWITCHES = ("weight", "train", "loss")
OTHER_MEDIA = frozenset({"tools", "functions", "image", "images", "video", "videos", "audio", "audios"})
_BEFORE_ANSWERS = ("analysis", "commentary")  # channels of harmony
_PLAIN = frozenset({"role", "from", *_CONTENT})  # what most turns have, and no more
_OF_TEXT = ("text", "input_text", "output_text")  # types of a part
_OF_THOUGHT = ("thinking", "reasoning")
_UNLEARNT = "an answer of weight 0"
_TOOL = "a tool is used"
_NOTHING = {"", "null", "none", "nan"}
_SPEAKERS = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "chatbot", "ai"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "function_call", "function_response"), "tool"),
    **dict.fromkeys(("observation", "ipython", "environment"), "tool"),
}
# "No input" in the ways models and people say it. Sodium (Na), a flat bread (Nan) and 0 are inputs.
_AROUND = " \t\r\n<>[](){}\"'`\\.,:;?!*_"
_NO_INPUT = re.compile(
    r"no[ _-]?input(?: (?:is )?(?:required|needed|necessary|provided|given))?|none|null|n/a|nan|na", re.IGNORECASE
)
_DASHES = re.compile("-{1,3}|[\u2013\u2014]")
_NAMES = {"Na", "Nan"}
_TRANSCRIPT = re.compile(r"\s*Human:.*\n\nAssistant:", re.DOTALL)  # as HH-RLHF writes a conversation into one text
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_FIRST_SURROGATE, _LAST_SURROGATE = 0xDC80, 0xDCFF  # what the readers of files make of bytes that are not UTF-8
NOT_UTF8 = "not UTF-8"


class SpokenTurn(NamedTuple):
    """What one side says; what the assistant says carries loss unless the row says otherwise."""

    speaker: str  # system, user, assistant or tool
    text: str
    learnt: bool = True
    thought: str = ""


class Exchange(NamedTuple):
    """An answer and what stands before it, or why it cannot be used."""

    context: tuple[Turn, ...]
    question: str
    answer: str
    thought: str
    fault: str


class UnusableRow(Exception):
    """Reason why a record cannot be used."""


def holds_any(value: Any) -> bool:
    """Return whether a column of tools or images holds any; tables and JSON say in many ways that there is none."""
    if isinstance(value, str):
        return value.strip("[]{} \n").lower() not in _NOTHING
    if isinstance(value, list | dict):
        return any(each not in (None, "", [], {}) for each in (value.values() if isinstance(value, dict) else value))
    return bool(value == value and value)  # noqa: PLR0124  (NaN)


def is_no_input(given: str) -> bool:
    """Return whether an input only says that there is none: "", "No input.", "<noinput>", "N/A", "none", "-", ..."""
    if not given or given.isspace():
        return True
    core = given.strip(_AROUND)
    nothing = _NO_INPUT.fullmatch(" ".join(core.split()))
    return bool(_DASHES.fullmatch(given.strip())) or (bool(nothing) and core not in _NAMES)


def other_media(fields: dict[str, Any]) -> str:
    """Return which column of a row, or key of a turn, holds tools, images or the like; "" where none does."""
    return next((name for name in fields if name in OTHER_MEDIA and holds_any(fields[name])), "")


def joined(before: list[SpokenTurn], after: list[SpokenTurn]) -> list[SpokenTurn]:
    """Return turns and those after them, which often repeat the prompt, or stand for one they write otherwise."""

    def parted(turns: list[SpokenTurn]) -> tuple[list[SpokenTurn], list[SpokenTurn]]:
        rest = list(dropwhile(lambda turn: turn.speaker == "system", turns))
        return turns[: len(turns) - len(rest)], rest

    if len(after) == 1 and not (before and before[-1].speaker == after[0].speaker):
        return before + after
    (system, old), (more, new) = parted(before), parted(after)
    said, again = ([(turn.speaker, turn.text.strip()) for turn in turns] for turns in (old, new))
    repeated = [count for count in range(1, min(len(old), len(new)) + 1) if said[-count:] == again[:count]]
    if repeated:
        return [*system, *more, *old, *new[repeated[-1] :]]
    both_ask = bool(old and new[1:]) and old[-1].speaker == new[0].speaker == "user"
    return [*system, *more, *new] if both_ask else before + after


def exchange(question: str, answer: str) -> Exchange:
    """Return a question and its answer that make up a row, as in most corpora."""
    thought, text = part_thought(answer)
    return Exchange((), question, text, thought, "")


def exchanges(turns: Sequence[SpokenTurn], *, unanswered: bool = False) -> list[Exchange]:
    """Return every answer of the assistant with what stands before it; without any, the question with the answer "".

    With `unanswered` a question at the end comes, too. An exchange that cannot be trained on says why.
    """
    if len(turns) == len(_SIDES) and (turns[0].speaker, turns[1].speaker) == _SIDES:
        (_, question, _, _), (_, answer, learnt, thought) = turns
        if learnt and not thought and question.strip():
            return [exchange(question.strip(), answer)]  # as below, in half the time
    context: list[Turn] = []
    found: list[Exchange] = []
    fault = question = ""
    for speaker, text, learnt, thought in _merged(turns):
        if speaker == "tool":
            fault = fault or _TOOL
        elif speaker == "system":
            fault = fault or ("a system prompt in the middle of the conversation" if context or question else "")
            context.append(Turn("system", text))
        elif speaker == "user":
            question = text
        else:
            fault = fault if question else _unasked(found, fault)
            reason = fault or ("" if learnt else _UNLEARNT)
            found.append(Exchange(tuple(context), question, text, thought, reason))
            context += [Turn("user", question), Turn("assistant", text)]
            fault = fault or ("" if text.strip() else "no answer in the conversation")
            question = ""
    if question and (unanswered or not found):
        found.append(Exchange(tuple(context), question, "", "", fault))
    if not found:
        raise UnusableRow("no instruction")
    return found


def _unasked(found: list[Exchange], fault: str) -> str:
    """Return why an answer without a question cannot be used; one before it that called a tool cannot be, either."""
    if not found:
        raise UnusableRow("the assistant speaks first")
    if fault == _TOOL:
        found[-1] = found[-1]._replace(fault=fault)
    return fault or "an answer to a blank turn"


def _merged(turns: Sequence[SpokenTurn]) -> list[SpokenTurn]:
    """Return turns that say something, those of one side as one, thoughts parted; a blank one parts two answers."""
    merged: list[SpokenTurn] = []
    for speaker, said, learnt, thought in turns:
        answered = bool(merged) and merged[-1].speaker == "assistant" and bool(merged[-1].text.strip())
        if speaker != "assistant":
            text = said.strip()
            if not text and not (speaker == "user" and answered):
                continue
        elif thought:
            text = said
        else:
            thought, text = part_thought(said)  # noqa: PLW2901
        turn = SpokenTurn(speaker, text, learnt, thought)
        if merged and merged[-1][:2] == ("user", "") and not (text.strip() or thought):
            continue
        if merged and merged[-1].speaker == speaker:
            turn = _as_one(merged.pop(), turn)
        merged.append(turn)
    return merged


def _as_one(first: SpokenTurn, second: SpokenTurn) -> SpokenTurn:
    """Return two turns of one side as one, which is learnt where both are."""
    texts = [text for text in (first.text, second.text) if text.strip()]
    if first.speaker == "system" and first.text == second.text:
        del texts[1:]
    thought = "\n\n".join(filter(None, (first.thought, second.thought)))
    return SpokenTurn(first.speaker, "\n\n".join(texts), first.learnt and second.learnt, thought)


def is_list(value: Any) -> bool:
    """Return whether a value is a list, or the JSON of one."""
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))


def in_turn(texts: Sequence[Any]) -> list[SpokenTurn]:
    """Return texts as what the user and the assistant say in turn."""
    return [SpokenTurn(_SIDES[number % 2], checked_text(text, "a turn")) for number, text in enumerate(texts)]


def transcribed(text: str) -> list[SpokenTurn]:
    """Return the turns of a text that begins with "Human:" and in which "Assistant:" speaks; none of any other."""
    _, *parts = _SPEAKER.split(f"\n\n{text.strip()}") if _TRANSCRIPT.match(text) else [""]
    turns = [
        SpokenTurn(_SPEAKERS[name.lower()], said.strip()) for name, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    return turns if not turns or turns[-1].text else turns[:-1]  # a prompt ends where the assistant is to speak


def spoken_turns(entry: Any) -> list[SpokenTurn]:
    """Return the turns of an entry of a conversation: a turn, or an exchange as a pair or an object with both sides."""
    if isinstance(entry, dict) and not ("role" in entry or "from" in entry):
        entry = next(([entry[key] for key in keys] for keys in _EXCHANGES if entry.keys() >= {*keys}), entry)
    if isinstance(entry, dict):
        return [spoken_turn(entry)]
    if not isinstance(entry, list | tuple) or len(entry) != len(_SIDES):
        raise UnusableRow("a turn is no object and no pair")
    pair = in_turn(entry)
    return pair if any(turn.text.strip() for turn in pair) else []


def spoken_turn(turn: dict[str, Any]) -> SpokenTurn:
    """Return a turn that is an object: its speaker, text and thought, and whether it carries loss."""
    name = turn.get("role") or turn.get("from")
    speaker = _SPEAKERS.get(name.strip(" \t\r\n:").lower()) if isinstance(name, str) else None
    if speaker is None:
        raise UnusableRow("a turn without a known speaker")
    more, learnt = not _PLAIN.issuperset(turn), True
    if speaker == "tool" or (more and any(holds_any(turn.get(name)) for name in _CALLS)):
        return SpokenTurn("tool", "used")
    if more and (held := other_media(turn)):
        raise UnusableRow(f"it has {held}")
    if not any(name in turn for name in _CONTENT):
        raise UnusableRow("a turn without content")
    thought, text = _content(next((turn[name] for name in _CONTENT if turn.get(name) is not None), None))
    if more and turn.get("channel") in _BEFORE_ANSWERS:
        thought, text = text, ""
    elif more:
        told = (turn[name] for name in _THOUGHT if isinstance(turn.get(name), str) and turn[name].strip())
        thought = next(told, thought)
        details = turn.get("train_detail")  # axolotl's, of parts of a turn
        parts = [turn, *(details if isinstance(details, list) else ())]
        learnt = not any(is_off(part.get(name)) for part in parts if isinstance(part, dict) for name in _SWITCHES)
    return SpokenTurn(speaker, checked_text(text, "a turn"), learnt, checked_text(thought, "a thought").strip())


def _content(content: Any) -> tuple[Any, Any]:
    """Return thought and text of a turn, which may be a list of parts."""
    if not isinstance(content, list):
        return "", content
    thoughts = [part for part in content if isinstance(part, dict) and part.get("type") in _OF_THOUGHT]
    given = (next((part[name] for name in (*_THOUGHT, "text") if part.get(name)), "") for part in thoughts)
    thought = "\n".join(_text(each) if isinstance(each, list) else checked_text(each, "a thought") for each in given)
    return thought, _text([part for part in content if part not in thoughts])


def _text(parts: Sequence[Any]) -> str:
    for part in parts:
        spoken = isinstance(part, dict) and (part.get("type") or "text") in _OF_TEXT
        if not (spoken and isinstance(part.get("text"), str)):
            raise UnusableRow("a turn is not text")
    return "\n".join(part["text"] for part in parts)


def is_off(value: Any) -> bool:
    """Return whether a weight is 0, or a flag false; tables hold both as texts."""
    return str(value).strip().lower() in {"0", "0.0", "-0.0", "false"}


def checked_text(value: Any, what: str) -> str:
    """Return a text that every table, tokenizer and request can hold."""
    if value is None or value != value:  # noqa: PLR0124  (NaN is how data frames write "missing")
        return ""
    if not isinstance(value, str):
        raise UnusableRow(f"{what} is not text")
    if "\0" in value:
        raise UnusableRow("a NUL character")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        reason = NOT_UTF8 if _FIRST_SURROGATE <= code <= _LAST_SURROGATE else "a lone surrogate"
        raise UnusableRow(reason) from None
    return value
