"""Replies of the fake server's model, which recognises the prompts of this project by the fields they request."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

Message = Mapping[str, Any]
Json = Mapping[str, Any]

_TOKEN = re.compile(r"\w{1,6}|[^\w\s]", re.ASCII)
_SPELLED = re.compile(r"\s*[^\W\d]+|\s*\d{1,3}|\s*[^\w\s]|\s+")
_COMMON = "the a of to and in is it that for on with as be at by or an was not but".split()  # noqa: SIM905
_HIGHEST_SCORE = 10
_TAIL = "..."

_WANTED = re.compile(r"\b(?:[Ww]anted|[Ww]rite)\b\D*?(\d+)")
_TASK = re.compile(r"^Task(?: type)?: *(.+?) *$", re.MULTILINE)
_LABEL_LINE = re.compile(r"^- (.+?)\s*$", re.MULTILINE)
_QUOTED = re.compile(r"<((?:instruction|seed|example)(?:_?\d+)?)\b[^>]*>(.*?)</\1>", re.DOTALL)
_JSON_REQUESTED = "Reply with one JSON object"
_LONG_WORD = re.compile(r"[^\W\d_]{4,}")

# The first pattern that matches decides. The opening makes an instruction that its own pattern recognises.
_TASKS = {
    "Code Debug": (r"\bdebug|\bbug\b|fix (the|this) code", "Find the bug in a Python function."),
    "Code Generation": (r"\bcode\b|\bfunctions?\b|\bpython\b|\bscript\b", "In Python code:"),
    "Multilingual": (r"\btranslat|\b(french|german|spanish)\b", "Translate into French:"),
    "Literature": (r"\bliterature|\bnovel\b|\bpoet\b", "As literature:"),
    "History": (r"\bhistor|\bcentury\b|\bancient\b", "As history:"),
    "Law": (r"\blaws?\b|\blegal|\bcourt\b", "As a question of law:"),
    "Math": (r"\bmath|\bequations?\b|\bsolve\b|^(?=.*\d).*(calculate|how many|\bsum\b)", "Calculate 17 times 23."),
    "Reasoning": (r"\breason|\blogic|\bpuzzle|\briddle", "Reason step by step:"),
    "Writing": (r"\bwrite\b|\bstory\b|\bessay\b|\bpoem\b|\bdraft\b", "Write a story:"),
}
_PATTERNS = {label: re.compile(pattern, re.IGNORECASE | re.DOTALL) for label, (pattern, _) in _TASKS.items()}

_NOUNS = (  # noqa: SIM905
    "account bridge budget calendar camera castle cloud compass contract custom engine festival forest garden habit"
    " harbour holiday interview island journey kitchen ladder lantern lecture library machine market meadow mirror"
    " mountain museum notebook orchard package painting pattern pencil planet pocket railway recipe river season"
    " shelter signal station storm summary theatre ticket tunnel village weather window workshop"
).split()
_AUDIENCES = ("a beginner", "a busy manager", "children", "a visitor", "an engineer", "a jury", "a small team")
_FRAMES = (
    "Explain how the {a} is connected with the {b} to {who}.",
    "Compare a {a} with a {b} and name three differences that matter to {who}.",
    "Describe what would change for {who} if every {a} needed a {b}.",
    "List five things {who} should know about the {a} before choosing the {b}.",
    "Give {who} a plan of one week that begins with the {a} and ends with the {b}.",
    "Which mistakes do people make with a {a} near a {b}? Advise {who}.",
    "Summarise the history of the {a} for {who}, and say where the {b} comes in.",
    "Suggest a name for a {a} made out of a {b} that appeals to {who}.",
    "Draft a short notice for {who} about the {b} that was found near the {a}.",
    "Invent a rule that keeps the {a} and the {b} apart, and justify it to {who}.",
)
_OPENINGS = ("Most of the work lies in", "It helps to keep in mind", "A careful reader notices", "Next comes")
_MIDDLES = ("the order of the steps", "how much time there is", "the cost of an error", "who uses the result")
_ENDINGS = ("and the rest can wait.", "although there are exceptions.", "so that each claim can be checked.")
_SENTENCES = [f"{one} {two}, {three}" for one in _OPENINGS for two in _MIDDLES for three in _ENDINGS]
_VERDICTS = ("Answer {x} stays close to the question.", "Answer {x} misses a detail.", "Answer {x} repeats itself.")


def count_tokens(text: str) -> int:
    """Words in pieces of six characters; a mark, or a character outside ASCII, is one each."""
    return len(_TOKEN.findall(text))


def dressed(text: str, dress: str) -> str:
    """The reply in what some models put around it, or its last paragraph where the dress begins with dots."""
    head, gap, tail = text.rpartition("\n\n") if dress.startswith(_TAIL) else ("", "", text)
    return head + gap + dress.removeprefix(_TAIL).replace("{}", tail) if dress else text


def count_prompt(messages: Sequence[Message]) -> int:
    return sum(count_tokens(text_of(message)) + 4 for message in messages)


def first_tokens(text: str, limit: int) -> str:
    for number, piece in enumerate(_TOKEN.finditer(text)):
        if number == limit:
            return text[: piece.start()].rstrip()
    return text


def logprobs(text: str, top: int, digest: bytes) -> str:
    """`choices[0].logprobs` as JSON: every token with its likeliest alternatives, itself the first of them.

    A number from 1 to 10 has its neighbours as the likeliest others, so that an expected score can be computed.
    """
    rng = random.Random(digest)
    tokens = [_logprob(token, top, rng.randrange(16)) for token in _SPELLED.findall(text)]
    return f'{{"content": [{", ".join(tokens)}]}}'


@lru_cache(maxsize=20_000)
def _logprob(token: str, top: int, level: int) -> str:
    sure = 0.55 + 0.44 * level / 16
    word = token.strip()
    lead = token[: len(token) - len(token.lstrip())]
    others = [lead + one for one in _COMMON if one != word]
    if word in {"A", "B"}:
        others.insert(0, lead + ("B" if word == "A" else "A"))
    if word.isdecimal() and 1 <= int(word) <= _HIGHEST_SCORE:
        near = sorted(range(1, _HIGHEST_SCORE + 1), key=lambda one: abs(one - int(word)))
        others = [f"{lead}{one}" for one in near[1:]] + others
    shares = [sure, *((1 - sure) / 2 ** (rank + 1) for rank in range(len(others)))]
    shown = [{"token": one, "logprob": math.log(share)} for one, share in zip([token, *others], shares, strict=True)]
    return json.dumps({**shown[0], "top_logprobs": shown[:top]})


def text_of(message: Message) -> str:
    """The text of a message, whether its content is a text or a list of parts."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def reply(messages: Sequence[Message], body: Json) -> str:
    """Judge, tagger and teacher in one."""
    prompt = "\n".join(text_of(message) for message in messages)
    # All turns of the user, so that a request to repair a reply still shows what is to be judged.
    user = "\n".join(text_of(message) for message in messages if message.get("role") == "user")
    salt = f"{body.get('seed')} {body.get('temperature')} {body.get('model')}"
    rng = random.Random(blake2b(f"{salt} {prompt}".encode(), digest_size=16).digest())
    wanted = body.get("response_format") or {}
    schema = wanted.get("json_schema", {}).get("schema", {}).get("properties", {})
    if not schema and _JSON_REQUESTED in prompt:
        schema = {name: {} for name in re.findall(r'"(\w+)": ', prompt[prompt.rindex(_JSON_REQUESTED) :])}

    def wants(name: str) -> bool:
        return name in schema if schema else f"<{name}>" in prompt

    if wants("score_a"):
        scores = {name: score(_part(user, f"answer_{name[-1]}")) for name in ("score_a", "score_b")}
        return _judgement(rationale(rng, "AB"), scores, as_json=bool(schema))
    if wants("score"):
        return _judgement(rationale(rng, "A"), {"score": score(_part(user, "answer"))}, as_json=bool(schema))
    if wants("label"):
        label = label_of(_subject(user), _labels(user, schema))
        return json.dumps({"label": label}) if schema else f"<label>{label}</label>"
    if wants("new_instruction") or wants("instructions"):
        return _expansion(rng, user, schema)
    text = essay(rng, _subject(user))
    return json.dumps({name: _fill(kind, text) for name, kind in schema.items()}) if schema else text


def _fill(kind: Json, text: str) -> object:
    """A value that fits the schema of a property."""
    return kind["enum"][0] if "enum" in kind else 7 if kind.get("type") == "number" else text


def score(answer: str) -> int:
    """The quality of an answer from 1 to 10, by its text alone: the same in both orders of display."""
    clean = answer.strip()
    number = blake2b(clean.encode(), digest_size=2).digest()[0]
    if len(clean) < 20:
        return 1 + number % 2
    return 1 + number % 7 + (3 if 40 <= len(clean) <= 1500 else 0)


def label_of(instruction: str, labels: Sequence[str]) -> str:
    """One of the labels: by keywords where some match, otherwise by the digest of the instruction."""
    for label, pattern in _PATTERNS.items():
        if label in labels and pattern.search(instruction):
            return label
    number = int.from_bytes(blake2b(instruction.encode(), digest_size=8).digest(), "little")
    return labels[number % len(labels)]


def essay(rng: random.Random, topic: str) -> str:
    """30 to 150 words that mention a few words of the topic."""
    known = _words(topic)
    about = f"This is about {' and '.join(rng.sample(known, min(3, len(known))))}."
    wanted = rng.randint(30, 150)
    return _first_words([about, *rng.choices(_SENTENCES, k=wanted // 5)], wanted)


def rationale(rng: random.Random, names: str) -> str:
    """What a judge writes, in 60 to 140 words, before it scores the answers with these names."""
    wanted = rng.randint(60, 140)
    sentences: list[str] = []
    for number, verdict in enumerate(rng.choices(_VERDICTS, k=wanted // 10 + 1)):
        sentences += [verdict.format(x=names[number % len(names)]), rng.choice(_SENTENCES)]
    return _first_words(sentences, wanted)


def _first_words(sentences: Sequence[str], wanted: int) -> str:
    return " ".join(" ".join(sentences).split(" ")[:wanted])


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.lower() for word in _LONG_WORD.findall(text[:400]))) or _NOUNS


def _judgement(why: str, scores: Mapping[str, int], *, as_json: bool) -> str:
    if as_json:
        return json.dumps({"rationale": why, **scores})
    return "\n".join([why, "", *(f"<{name}>{value}</{name}>" for name, value in scores.items())])


def _part(text: str, tag: str) -> str:
    """What stands between a tag and its end; of several the last, as prompts explain their tags first."""
    parts = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return str(parts[-1]) if parts else text


def _subject(user: str) -> str:
    """What a message is about: its quoted part if it has one, otherwise all of it but its lists."""
    quoted = _QUOTED.search(user)
    return quoted[2].strip() if quoted else _LABEL_LINE.sub("", user).strip()


def _labels(user: str, schema: Json) -> Sequence[str]:
    enum = schema.get("label", {}).get("enum")
    labels = enum or [line.split(": ")[0] for line in _LABEL_LINE.findall(_QUOTED.sub("", user))]
    return labels or ["Others"]


def _expansion(rng: random.Random, user: str, schema: Json) -> str:
    """New instructions: 1 of 10 is empty, 1 of 8 of the others is nearly a seed, the rest is new."""
    outside = _QUOTED.sub("", user)
    wanted, task = _WANTED.search(outside), _TASK.search(outside)
    seeds = [quoted[2].strip() for quoted in _QUOTED.finditer(user)] or [outside[:200].strip()]
    opening = _TASKS.get(task[1] if task else "", ("", ""))[1]
    texts = list(_instructions(rng, seeds, opening, min(int(wanted[1]) if wanted else 1, 100)))
    if "instructions" in schema:
        return json.dumps({"instructions": texts})
    if schema:
        return json.dumps({"new_instruction": texts[0] if texts else ""})
    return "\n".join(f"<new_instruction>{text}</new_instruction>" for text in texts)


def _instructions(rng: random.Random, seeds: Sequence[str], opening: str, count: int) -> Iterator[str]:
    for _ in range(count):
        seed = rng.choice(seeds)
        if rng.random() < 1 / 10:
            yield ""
        elif rng.random() < 1 / 8:
            yield f"Please {seed[:1].lower()}{seed[1:]}"
        else:
            a, b, who = rng.choice(_words(seed)), rng.choice(_NOUNS), rng.choice(_AUDIENCES)
            yield f"{opening} {rng.choice(_FRAMES).format(a=a, b=b, who=who)}".strip()
