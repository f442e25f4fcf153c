"""Training examples in the messages, Alpaca and ShareGPT layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tapir.data.files import replacing
from tapir.domain.instruction import Turn
from tapir.domain.instruction import messages as chat

JsonRecord: TypeAlias = dict[str, Any]

_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}


def messages(prompt: str, answer: str, context: Sequence[Turn] = ()) -> JsonRecord:
    """Return an example in the layout of OpenAI and of chat templates."""
    return {"messages": chat(prompt, context, answer)}


def alpaca(prompt: str, answer: str, context: Sequence[Turn] = ()) -> JsonRecord:
    """Return an example in the layout of Alpaca, with LLaMA-Factory's columns for a context.

    An input is part of the instruction since the corpus was read.
    """
    return {"instruction": prompt, "input": "", "output": answer} | _alpaca_context(context)


def sharegpt(prompt: str, answer: str, context: Sequence[Turn] = ()) -> JsonRecord:
    """Return an example in the layout of ShareGPT."""
    return {"conversations": _sharegpt_turns([*context, Turn("user", prompt), Turn("assistant", answer)])}


def _alpaca_context(context: Sequence[Turn]) -> JsonRecord:
    system = {"system": context[0].content} if context and context[0].role == "system" else {}
    said = [turn.content for turn in context[len(system) :]]
    history = [list(pair) for pair in zip(said[::2], said[1::2], strict=True)]
    return system | ({"history": history} if history else {})


def _sharegpt_turns(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"from": _SPEAKERS[turn.role], "value": turn.content} for turn in turns]


FILES: Mapping[str, str] = {"messages": ".jsonl", "alpaca": ".json", "sharegpt": ".json"}
"""Suffix of the file that each layout is usually kept in."""

LAYOUTS: Mapping[str, Callable[[str, str, Sequence[Turn]], JsonRecord]] = {
    "messages": messages,
    "alpaca": alpaca,
    "sharegpt": sharegpt,
}
"""Every layout by its name in the recipe."""


def preference(layout: str, prompt: str, chosen: str, rejected: str, context: Sequence[Turn] = ()) -> JsonRecord:
    """Return a preference pair in a layout."""
    sides = {"chosen": chosen, "rejected": rejected}
    if layout == "alpaca":
        return {"instruction": prompt, "input": "", **sides} | _alpaca_context(context)
    if layout == "sharegpt":
        turns = _sharegpt_turns([*context, Turn("user", prompt)])
        return {"conversations": turns, **{side: {"from": "gpt", "value": text} for side, text in sides.items()}}
    answered = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
    return {"prompt": chat(prompt, context), **answered}


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write records atomically, one a line to a .jsonl, an array with one a line to a .json; return their number."""
    start, between, end = ("", "\n", "\n") if path.suffix == ".jsonl" else ("[\n", ",\n", "\n]\n")
    count = 0
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        for count, record in enumerate(records, 1):
            file.write((between if count > 1 else start) + json.dumps(record, ensure_ascii=False))
        file.write(end if count else "" if path.suffix == ".jsonl" else start + end)
    return count
