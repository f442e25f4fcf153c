"""Answers, baselines and a judge behind the fake server, for tests of evaluations that compare and grade."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.fake_model import text_of
from support.server import Brain, Server


def judged_by(server: Server, *more: str) -> tuple[str, ...]:
    """Changes to the recipe alpaca-api that put its judge at the fake server."""
    return (f"endpoints.judge.base_url={server.url}", "endpoints.judge.key=''", "endpoints.judge.model=fake", *more)


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A file of JSON, one object a line for .jsonl, else an array."""
    lines = [json.dumps(one) for one in rows]
    path.write_text("\n".join(lines) if path.suffix == ".jsonl" else "[" + ",\n".join(lines) + "]", encoding="utf-8")
    return path


def outputs(path: Path, answers: Mapping[str, str], generator: str, dataset: str = "") -> Path:
    """A model_outputs.json of AlpacaEval."""
    more = {"dataset": dataset} if dataset else {}
    return write(
        path,
        [{"instruction": text, "output": said, "generator": generator, **more} for text, said in answers.items()],
    )


def part(messages: Sequence[Mapping[str, Any]], tag: str) -> str:
    """What the prompt quotes between these tags."""
    user = text_of(messages[1])
    found = re.findall(rf"<{tag}>\n(.*?)\n</{tag}>", user, re.DOTALL)
    return str(found[-1])


def prefers_good(messages: Sequence[Mapping[str, Any]], body: Mapping[str, Any]) -> str:  # noqa: ARG001 (a brain's shape)
    """A judge that names the answer with more of the word "good", and the first where there is no difference."""
    a, b = (part(messages, f"answer_{letter}").count("good") for letter in "ab")
    return "[[B]]" if b > a else "[[A]]"


def always(said: str) -> Brain:
    """A judge that says the same to everybody."""
    return lambda messages, body: said  # noqa: ARG005 (a brain's shape)
