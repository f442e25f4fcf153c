"""Training examples in the messages, Alpaca and ShareGPT layouts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tapir.data.files import replacing

JsonRecord: TypeAlias = dict[str, Any]


def messages(prompt: str, answer: str) -> JsonRecord:
    """Return an example in the layout of OpenAI and of chat templates."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def alpaca(prompt: str, answer: str) -> JsonRecord:
    """Return an example in the layout of Alpaca; an input is part of the instruction since the corpus was read."""
    return {"instruction": prompt, "input": "", "output": answer}


def sharegpt(prompt: str, answer: str) -> JsonRecord:
    """Return an example in the layout of ShareGPT."""
    return {"conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]}


FILES: Mapping[str, str] = {"messages": ".jsonl", "alpaca": ".json", "sharegpt": ".json"}
"""Suffix of the file that each layout is usually kept in."""

LAYOUTS: Mapping[str, Callable[[str, str], JsonRecord]] = {"messages": messages, "alpaca": alpaca, "sharegpt": sharegpt}
"""Every layout by its name in the recipe."""


def preference(layout: str, prompt: str, chosen: str, rejected: str) -> JsonRecord:
    """Return a preference pair in a layout."""
    if layout == "alpaca":
        return {"instruction": prompt, "input": "", "chosen": chosen, "rejected": rejected}
    keys = ("from", "value", "gpt") if layout == "sharegpt" else ("role", "content", "assistant")
    sides = {"chosen": {keys[0]: keys[2], keys[1]: chosen}, "rejected": {keys[0]: keys[2], keys[1]: rejected}}
    if layout == "sharegpt":
        return {"conversations": [{"from": "human", "value": prompt}], **sides}
    return {"prompt": [{"role": "user", "content": prompt}], **{side: [turn] for side, turn in sides.items()}}


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write records atomically, one a line to a .jsonl, an array with one a line to a .json; return their number."""
    start, between, end = ("", "\n", "\n") if path.suffix == ".jsonl" else ("[\n", ",\n", "\n]\n")
    count = 0
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        for count, record in enumerate(records, 1):
            file.write((between if count > 1 else start) + json.dumps(record, ensure_ascii=False))
        file.write(end if count else "" if path.suffix == ".jsonl" else start + end)
    return count
