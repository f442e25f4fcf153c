"""Which words of an instruction belong to its skill's template: found in the skill's own items, not written down."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from itertools import islice

from tapir.gym.world import from_address, stream

_TOKEN = re.compile(r"[^\W\d_]+(?:'[a-z]+)?|\d+|\S")
_SAMPLE = 150  # items a template is found in
_FEW = 3  # with fewer words than this in common, a skill has several wordings
_GROUP = 5  # items of one wording


@dataclass(frozen=True, slots=True)
class Token:
    """A word, a number or a sign.

    Attributes:
        before: the white space in front of it.
        template: whether it stands there in every item.
        free: whether it is a word that may be written differently.
    """

    before: str
    text: str
    template: bool
    free: bool


@dataclass(frozen=True, slots=True)
class _Template:
    """What all items of a skill and level have in common, or those with the same first word; their answers."""

    common: tuple[str, ...]
    by_opening: Mapping[str, tuple[str, ...]]
    answers: frozenset[str]


def split(text: str) -> tuple[str, ...]:
    """The words, numbers and signs of a text."""
    return tuple(_TOKEN.findall(text))


def tokens_of(text: str, address: str) -> list[Token]:
    """The instruction in pieces that join to it again; `address` says of which skill and level it is.

    A token belongs to the template only if there is no other way to find the template in the text, so a word of the
    content that also is a word of the template is never taken for it.

    Raises:
        GymError: the address is none of the gym.
    """
    item = from_address(address)
    template = _template(item.skill, item.level)
    pieces = list(_TOKEN.finditer(text))
    words = [one.group() for one in pieces]
    known = template.by_opening.get(words[0], template.common) if words else ()
    signless = [word for word in known if len(word) > 1 and word[0].isalpha()]  # a rare item lacks a common sign
    places = _places(words, known) or _places(words, signless)
    ends = [0, *(one.end() for one in pieces)]
    brackets = _bracketed(words)
    return [
        Token(
            text[end : one.start()],
            one.group(),
            place in places,
            place in places and place not in brackets and _free(one.group(), template.answers),
        )
        for place, (end, one) in enumerate(zip(ends, pieces, strict=False))
    ]


def _free(word: str, answers: frozenset[str]) -> bool:
    """Not a sign, a letter, an abbreviation (GCD, HH) or an answer (Yes)."""
    return word[0].isalpha() and len(word) > 1 and not word.isupper() and word not in answers


def _bracketed(words: Sequence[str]) -> set[int]:
    """The places between brackets: examples and forms of the answer."""
    found, depth = set(), 0
    for place, word in enumerate(words):
        depth += word == "("
        if depth:
            found.add(place)
        depth -= word == ")" and depth > 0
    return found


@cache
def _template(skill: str, level: int) -> _Template:
    items = list(islice(stream(skill, level, key="template", reserved=False), _SAMPLE))
    texts = [split(one.question) for one in items]
    answers = frozenset(one.answer for one in items)
    common = _common(texts)
    if sum(_free(word, answers) for word in common) >= _FEW:
        return _Template(common, {}, answers)
    groups: dict[str, list[tuple[str, ...]]] = {}
    for words in texts:
        groups.setdefault(words[0], []).append(words)
    return _Template(
        common,
        {first: _common(group) for first, group in groups.items() if first.isalpha() and len(group) >= _GROUP},
        answers,
    )


def _common(texts: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return reduce(_subsequence, map(tuple, texts))


def _subsequence(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
    """The longest common subsequence, by dynamic programming (Wagner and Fischer 1974)."""
    length = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            length[i][j] = length[i + 1][j + 1] + 1 if a[i] == b[j] else max(length[i + 1][j], length[i][j + 1])
    found: list[str] = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            found.append(a[i])
            i, j = i + 1, j + 1
        elif length[i + 1][j] >= length[i][j + 1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def _places(words: Sequence[str], template: Sequence[str]) -> set[int]:
    """Where the template's tokens must stand: the first and the last way to find it agree on the place."""
    first = _earliest(words, template)
    last = _earliest(words[::-1], template[::-1])
    if first is None or last is None:
        return set()
    backwards = [len(words) - 1 - place for place in reversed(last)]
    return {a for a, b in zip(first, backwards, strict=True) if a == b}


def _earliest(words: Sequence[str], template: Sequence[str]) -> list[int] | None:
    found, place = [], 0
    for token in template:
        while place < len(words) and words[place] != token:
            place += 1
        if place == len(words):
            return None
        found.append(place)
        place += 1
    return found
