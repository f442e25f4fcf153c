"""Text of realistic length from small lists of words, the same for the same digest."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

NOUNS = [
    "account",
    "bridge",
    "budget",
    "calendar",
    "camera",
    "castle",
    "cloud",
    "compass",
    "contract",
    "custom",
    "engine",
    "festival",
    "forest",
    "garden",
    "habit",
    "harbour",
    "holiday",
    "interview",
    "island",
    "journey",
    "kitchen",
    "ladder",
    "lantern",
    "lecture",
    "library",
    "machine",
    "market",
    "meadow",
    "measure",
    "mirror",
    "mountain",
    "museum",
    "notebook",
    "orchard",
    "package",
    "painting",
    "pattern",
    "payment",
    "pencil",
    "planet",
    "pocket",
    "puzzle",
    "railway",
    "recipe",
    "river",
    "schedule",
    "season",
    "shelter",
    "signal",
    "station",
    "storm",
    "summary",
    "theatre",
    "ticket",
    "tunnel",
    "village",
    "weather",
    "window",
    "workshop",
]
AUDIENCES = (
    "a beginner", "a busy manager", "children", "a new colleague", "a visitor", "an engineer", "a friend", "a jury",
    "first-year students", "a curious neighbour", "a small team", "the public",
)  # fmt: skip
FRAMES = (
    "Explain how the {a} is connected with the {b} to {who}.",
    "Compare a {a} with a {b} and name three differences that matter to {who}.",
    "Describe what would change for {who} if every {a} needed a {b}.",
    "List five things {who} should know about the {a} before choosing the {b}.",
    "Give {who} a plan of one week that begins with the {a} and ends with the {b}.",
    "Which mistakes do people make with a {a} near a {b}? Advise {who}.",
    "Summarise the history of the {a} for {who}, and say where the {b} comes in.",
    "Suggest a name for a {a} made out of a {b} that appeals to {who}.",
    "Draft a short notice for {who} about the {b} that was found beside the {a}.",
    "Outline both sides of the argument that a {a} is worth more than a {b}, for {who}.",
    "What should {who} ask before moving the {a} away from the {b}?",
    "Invent a rule that keeps the {a} and the {b} apart, and justify it to {who}.",
)

_OPENINGS = (
    "The first thing to look at is", "A good place to begin is", "Most of the work lies in",
    "What decides the matter is",
    "It helps to keep in mind", "In practice people start from", "Nothing here contradicts", "A careful reader notices",
    "The answer depends on", "Another point worth making concerns", "To be precise, one has to name", "Next comes",
)  # fmt: skip
_MIDDLES = (
    "the way the parts fit together", "the order in which the steps are taken", "how much time there is",
    "what was asked for in the question", "the difference between cause and occasion", "a clear statement of the goal",
    "the cost of getting it wrong", "an example that everybody can follow", "the limits of the available evidence",
    "who is going to use the result", "the assumption behind the whole plan", "the shortest path to a working version",
)  # fmt: skip
_ENDINGS = (
    "because everything else follows from it.", "and the rest can wait.", "as long as nothing unusual happens.",
    "although there are exceptions.", "which is easy to overlook.", "so that each claim can be checked.",
    "and this holds in most cases.", "even if it takes a little longer.", "before any detail is settled.",
    "unless the situation changes.", "which keeps the explanation short.", "and that settles the question.",
)  # fmt: skip

_VERDICTS = (
    "Answer {x} stays close to what was asked.", "Answer {x} is clear in its structure.", "Answer {x} misses a detail.",
    "The tone of answer {x} fits the question.", "Answer {x} could have given an example.",
    "The claims of answer {x} hold up when they are checked.", "Answer {x} repeats itself towards the end.",
    "A reader would find answer {x} useful as it stands.", "Answer {x} leaves one part of the request open.",
)  # fmt: skip

_SENTENCES = [f"{one} {two}, {three}" for one in _OPENINGS for two in _MIDDLES for three in _ENDINGS]
_SHORTEST_SENTENCE = 5

_WORD = re.compile(r"[^\W\d_]{4,}")
_SCAN = 400


def words_of(text: str) -> Sequence[str]:
    """The longer words of the beginning of a text, in small letters, each once."""
    return list(dict.fromkeys(one.lower() for one in _WORD.findall(text[:_SCAN])))


def essay(rng: random.Random, topic: str, shortest: int, longest: int) -> str:
    """`shortest` to `longest` words that mention a few words of the topic."""
    known = words_of(topic) or NOUNS
    wanted = rng.randint(shortest, longest)
    about = f"This is about {' and '.join(rng.sample(known, min(3, len(known))))}."
    sentences = rng.choices(_SENTENCES, k=wanted // _SHORTEST_SENTENCE)
    return _first_words([about, *sentences], wanted)


def rationale(rng: random.Random, names: Sequence[str], shortest: int, longest: int) -> str:
    """What a judge says, in `shortest` to `longest` words, before it scores the answers with these names."""
    wanted = rng.randint(shortest, longest)
    found: list[str] = []
    for number, verdict in enumerate(rng.choices(_VERDICTS, k=wanted // (2 * _SHORTEST_SENTENCE) + 1)):
        found += [verdict.format(x=names[number % len(names)]), rng.choice(_SENTENCES)]
    return _first_words(found, wanted)


def _first_words(sentences: Sequence[str], wanted: int) -> str:
    return " ".join(" ".join(sentences).split(" ")[:wanted])


def thoughts(digest: bytes) -> str:
    """What a reasoning model thinks before it replies."""
    rng = random.Random(digest)
    return "Let me think. " + essay(rng, "the request and its parts", 20, 80)
