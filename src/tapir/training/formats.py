"""Examples in the layouts that other trainers read: messages, Alpaca, ShareGPT."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tapir.store.files import replacing

Record: TypeAlias = dict[str, Any]
"""One example as JSON."""


def messages(prompt: str, answer: str) -> Record:
    """The layout of OpenAI and of chat templates."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def alpaca(prompt: str, answer: str) -> Record:
    """The layout of the Alpaca corpus; an input is part of the instruction since the corpus was read."""
    return {"instruction": prompt, "input": "", "output": answer}


def sharegpt(prompt: str, answer: str) -> Record:
    """The layout of Vicuna's conversations."""
    return {"conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]}


FILES: Mapping[str, str] = {"messages": ".jsonl", "alpaca": ".json", "sharegpt": ".json"}
"""Suffix of the file that each layout is usually kept in."""

LAYOUTS: Mapping[str, Callable[[str, str], Record]] = {"messages": messages, "alpaca": alpaca, "sharegpt": sharegpt}
"""Every layout by its name in the recipe."""


def preference(layout: str, prompt: str, chosen: str, rejected: str) -> Record:
    """Two answers to one prompt, as the readers of a layout take them."""
    if layout == "alpaca":
        return {"instruction": prompt, "input": "", "chosen": chosen, "rejected": rejected}
    keys = ("from", "value", "gpt") if layout == "sharegpt" else ("role", "content", "assistant")
    sides = {"chosen": {keys[0]: keys[2], keys[1]: chosen}, "rejected": {keys[0]: keys[2], keys[1]: rejected}}
    if layout == "sharegpt":
        return {"conversations": [{"from": "human", "value": prompt}], **sides}
    return {"prompt": [{"role": "user", "content": prompt}], **{side: [turn] for side, turn in sides.items()}}


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write records as they come, atomically: one a line to a .jsonl, an array with one a line to a .json.

    Returns:
        How many there were.

    Raises:
        StoreError: the file cannot be written.
    """
    lines = path.suffix == ".jsonl"
    count = 0
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        file.write("" if lines else "[\n")
        for record in records:
            file.write("" if lines or not count else ",\n")
            file.write(json.dumps(record, ensure_ascii=False))
            file.write("\n" if lines else "")
            count += 1
        file.write("" if lines else "\n]\n")
    return count
