"""Refusals by a server: its words, and the setting of the recipe that they are about."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from tapir.config.endpoints import EndpointConfig
from tapir.models.api.retry import error_in

SHOWN = 300  # characters of a server's message
_MARKED = "in the field {!r}"
_LONGEST = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_SCHEMA = ("response_format", "json_schema", "structured_outputs", "guided_json")
_FIELDS = ("temperature", *_LONGEST, *_SCHEMA, "top_logprobs", "logprobs", "seed")
_SCHEMA_WORDS = re.compile(r"\b(?:json.?schema|\w*schema|grammar|structured.outputs?)\b", re.IGNORECASE)
_TITLE = re.compile(rb"<title>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_MODEL = re.compile(
    r"""["'`]model["'`]|\bthe model\b.{0,200}\b(?:not|no)\b|\bno such model|\bmodel not\b""", re.IGNORECASE
)
TOO_LONG = re.compile(
    r"context|too (?:large|long|high|many)|exceed|at most|less than|(?:maximum|upper) (?:value|limit)", re.IGNORECASE
)
_ANOTHER = re.compile(r"use\W+\w*max_\w+|instead", re.IGNORECASE)


def error_message(content: bytes) -> str:
    """Return what a server says in the body of an error, with the field it complains of where that stands apart."""
    error = error_in(content)
    told = error if isinstance(error, Mapping) else {"message": error}
    message, field, more = told.get("message") or told.get("detail"), told.get("param"), told.get("metadata")
    raw = more.get("raw") if isinstance(more, Mapping) else None
    if not message:
        title = _TITLE.search(content)
        return (title[1] if title else content[:SHOWN]).decode(errors="replace").strip()
    said = message if isinstance(message, str) else json.dumps(message)
    if isinstance(raw, str):  # what a provider told a router
        said += f": {error_message(raw.encode(errors='replace'))}"
    named = isinstance(field, str) and field and field not in said
    return f"{_MARKED.format(field)}: {said}" if named else said


def refused_field(message: str, extra: Iterable[str] = ()) -> str:
    """Return the field of a request that a server's message names: the one set apart, else the first; or ""."""
    names = {*extra, *_FIELDS, "model"}
    found = [
        (match.start(), name) for name in names if (match := re.search(rf"(?<![\w-]){re.escape(name)}\b", message))
    ]
    marked = [name for name in names if _MARKED.format(name) in message]
    fields = [name for _, name in sorted(found) if name != "model"]  # many say "... with this model"
    weak = ["response_format"] * bool(_SCHEMA_WORDS.search(message)) + ["model"] * bool(_MODEL.search(message))
    return next(iter([*marked, *fields, *weak]), "")


def refuses_schema(message: str) -> bool:
    """Return whether a server's message is about the JSON schema that was sent."""
    return refused_field(message) in _SCHEMA


def remedy(name: str, config: EndpointConfig, message: str) -> str:
    """Return which setting of the recipe changes the field that a server complains of; "" where it names none."""
    field = refused_field(message, config.extra)
    if field in config.extra:
        return f"Change or remove {field} in endpoints.{name}.extra."
    if field in _LONGEST and TOO_LONG.search(message) and not _ANOTHER.search(message):
        return "Lower max_tokens of the teacher, judge or tagger."
    other = "max_tokens" if config.max_tokens_field == "max_completion_tokens" else "max_completion_tokens"
    settings = {
        ("temperature",): "temperature = false (of the teacher also expand_temperature): then none is sent",
        _LONGEST: f'endpoints.{name}.max_tokens_field = "{other}"',
        _SCHEMA: f"endpoints.{name}.json_schema = false",
        ("logprobs", "top_logprobs"): "judge.expected_score = false: the server gives no log-probabilities",
        ("model",): f"endpoints.{name}.model to a name that the server knows",
    }
    return next((f"Set {setting}." for fields, setting in settings.items() if field in fields), "")
