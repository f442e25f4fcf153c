"""What the fake model says: it knows the prompts of this project by the tags or the JSON schema they ask for."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from tests.fake_openai import tasks
from tests.fake_openai.prose import AUDIENCES, FRAMES, NOUNS, essay, rationale, words_of

Message = Mapping[str, Any]
Json = Mapping[str, Any]

NO_ANSWERS = frozenset({"i am not sure.", "i am not sure", "i don't know.", "i do not know."})
_SHORTEST_ANSWER = 20
_GOOD_LENGTHS = range(40, 1501)
_MOST_INSTRUCTIONS = 100

_WANTED = re.compile(r"\b(?:[Ww]anted|[Ww]rite)\b\D*?(\d+)")
_TASK = re.compile(r"^Task(?: type)?: *(.+?) *$", re.MULTILINE)
_LABEL_LINE = re.compile(r"^- (.+?)\s*$", re.MULTILINE)
_QUOTED = re.compile(r"<((?:instruction|seed|example)(?:_?\d+)?)\b[^>]*>(.*?)</\1>", re.DOTALL)
_JSON_ASKED = "Reply with one JSON object"


def text_of(message: Message) -> str:
    """The text of a message, whether its content is a text or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def reply(messages: Sequence[Message], body: Json) -> str:
    """The default brain: judge, tagger and teacher in one."""
    prompt = "\n".join(text_of(one) for one in messages)
    # All turns of the user, so that a request to repair a reply still sees what is to be judged.
    user = "\n".join(text_of(one) for one in messages if one.get("role") == "user")
    salt = f"{body.get('seed')} {body.get('temperature')} {body.get('model')}"
    rng = random.Random(blake2b(f"{salt} {prompt}".encode(), digest_size=16).digest())
    schema = _properties(body)
    if not schema and _JSON_ASKED in prompt:
        schema = {name: {} for name in re.findall(r'"(\w+)": ', prompt[prompt.rindex(_JSON_ASKED) :])}

    def wants(name: str) -> bool:
        return name in schema if schema else f"<{name}>" in prompt

    if wants("score_a"):
        shown = {one: score(_part(user, f"answer_{one[-1]}")) for one in ("score_a", "score_b")}
        return _judged(rationale(rng, ("A", "B"), 60, 140), shown, as_json=bool(schema))
    if wants("score"):
        shown = {"score": score(_part(user, "answer"))}
        return _judged(rationale(rng, ("A",), 60, 140), shown, as_json=bool(schema))
    if wants("label"):
        label = tasks.label_of(_subject(user), _labels(user, schema))
        return json.dumps({"label": label}) if schema else f"<label>{label}</label>"
    if wants("new_instruction") or wants("instructions"):
        return _expanded(rng, user, schema)
    text = essay(rng, _subject(user), 30, 150)
    return json.dumps(dict.fromkeys(schema, text)) if schema else text


def score(answer: str) -> int:
    """The quality of an answer from 1 to 10, by its text alone: the same in both orders of display."""
    clean = answer.strip()
    number = blake2b(clean.encode(), digest_size=2).digest()[0]
    if len(clean) < _SHORTEST_ANSWER or clean.lower() in NO_ANSWERS:
        return 1 + number % 2
    return 1 + number % 7 + (3 if len(clean) in _GOOD_LENGTHS else 0)


def _judged(why: str, scores: Mapping[str, int], *, as_json: bool) -> str:
    if as_json:
        return json.dumps({"rationale": why, **scores})
    return "\n".join([why, "", *(f"<{name}>{value}</{name}>" for name, value in scores.items())])


def _properties(body: Json) -> Mapping[str, Any]:
    wanted = body.get("response_format") or {}
    found: Mapping[str, Any] = wanted.get("json_schema", {}).get("schema", {}).get("properties", {})
    return found


def _part(text: str, tag: str) -> str:
    """What stands between a tag and its end; of several the last, as prompts explain their tags first."""
    found = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return found[-1] if found else text


def _subject(user: str) -> str:
    """What a message is about: its quoted part if it has one, otherwise all of it but its lists."""
    found = _QUOTED.search(user)
    return found[2].strip() if found else _LABEL_LINE.sub("", user).strip()


def _labels(user: str, schema: Json) -> Sequence[str]:
    enum = schema.get("label", {}).get("enum")
    if enum:
        return list(enum)
    found = [one.split(": ")[0] for one in _LABEL_LINE.findall(_QUOTED.sub("", user))]
    return found or ["Others"]


def _expanded(rng: random.Random, user: str, schema: Json) -> str:
    """New instructions: 1 of 10 is empty, 1 of 8 of the others is nearly a seed, the rest is new."""
    outside = _QUOTED.sub("", user)
    asked = _WANTED.search(outside)
    wanted = min(int(asked[1]) if asked else 1, _MOST_INSTRUCTIONS)
    seeds = [found[2].strip() for found in _QUOTED.finditer(user)] or [outside[:200].strip()]
    task = _TASK.search(outside)
    opening = tasks.OPENINGS.get(task[1] if task else "", "")
    found = [_new_instruction(rng, seeds, opening) for _ in range(wanted)]
    if "instructions" in schema:
        return json.dumps({"instructions": found})
    if schema:
        return json.dumps({"new_instruction": found[0] if found else ""})
    return "\n".join(f"<new_instruction>{one}</new_instruction>" for one in found)


def _new_instruction(rng: random.Random, seeds: Sequence[str], opening: str) -> str:
    if rng.random() < 1 / 10:
        return ""
    seed = rng.choice(seeds)
    if rng.random() < 1 / 8:
        return f"Please {seed[:1].lower()}{seed[1:]}"
    known = rng.choice(words_of(seed) or NOUNS)
    frame = rng.choice(FRAMES).format(a=known, b=rng.choice(NOUNS), who=rng.choice(AUDIENCES))
    return f"{opening} {frame}".strip()
