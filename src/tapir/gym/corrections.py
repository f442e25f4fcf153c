"""Corrections of reasoning-gym's answers and scores, so that every answer of the embedded world is exact."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from math import prod
from typing import Any

_PRODUCT = re.compile(r"([+-]?)\s*(\d+(?:\s*\*\s*\d+)*)")
_STATEMENT = re.compile(r"(All|No|Some) (\w+) are (not )?(\w+)")
_STRAIGHT = 180  # degrees; an interior angle of a convex polygon is smaller
_TOLERANCE = 1e-4  # of a probability, as in the library
_NO_SUCCESS = 0.98


def true_answer(skill: str, entry: Mapping[str, Any]) -> str:
    """Return the answer of an entry of reasoning-gym 0.1, which computes 3 + 2 * 7 from left to right."""
    if skill != "basic_arithmetic":
        return str(entry["answer"])
    products = _PRODUCT.findall(entry["metadata"]["expression"])
    return str(sum((-1 if sign == "-" else 1) * prod(map(int, each.split("*"))) for sign, each in products))


def is_sound(skill: str, entry: Mapping[str, Any]) -> bool:
    """Return whether an entry has a true answer.

    The library names the wrong one of two people related by marriage, takes some invalid syllogisms for valid ones,
    and asks for angles of polygons that cannot be.
    """
    answer, metadata = str(entry["answer"]), entry["metadata"]
    if skill == "family_relationships":
        return not answer.endswith("in-law")
    if skill == "simple_geometry":
        return 0 < float(answer) < _STRAIGHT
    return skill != "syllogism" or _is_settled(metadata, follows=answer == "Yes")


def _is_settled(metadata: Mapping[str, Any], *, follows: bool) -> bool:
    """Return whether the answer to a syllogism holds, be there things of every kind or not."""
    statements = metadata["premise1"], metadata["premise2"], metadata["conclusion"]
    return all(_follows(*statements, inhabited=inhabited) == follows for inhabited in (False, True))


@lru_cache(maxsize=1 << 12)
def _follows(first: str, second: str, conclusion: str, *, inhabited: bool) -> bool:
    """Return whether a conclusion holds in all worlds where both premises do; `inhabited`: that have things of each."""
    read = [_STATEMENT.fullmatch(text) for text in (first, second, conclusion)]
    forms = [match.groups() for match in read if match]
    kinds = sorted({kind for _, subject, _, predicate in forms for kind in (subject, predicate)})

    def holds(form: tuple[str, ...], world: set[frozenset[str]]) -> bool:
        quantifier, subject, negated, predicate = form
        both = any({subject, predicate} <= thing for thing in world)
        only = any(subject in thing and predicate not in thing for thing in world)
        return {"All": not only, "No": not both, "Some": only if negated else both}[quantifier]

    return all(
        holds(forms[2], world)
        for world in _worlds(kinds)
        if holds(forms[0], world) and holds(forms[1], world) and (not inhabited or set(kinds) == set().union(*world))
    )


def _worlds(kinds: list[str]) -> Iterator[set[frozenset[str]]]:
    """Yield every choice of what there is: a thing is the set of kinds that it belongs to."""
    things = [frozenset(each) for size in range(1, len(kinds) + 1) for each in combinations(kinds, size)]
    for size in range(len(things) + 1):
        yield from map(set, combinations(things, size))


def true_score(skill: str, expected: str, answer: str, score: float) -> float:
    """Return the library's score of an answer, below success where it is full marks for a wrong one.

    The library takes 0 for 0.0546875 (one is the beginning of the other), times that are minutes off, and a word
    with one more letter.
    """
    if skill == "coin_flip":
        right = abs(float(Fraction(answer.replace(",", ""))) - float(Fraction(expected))) <= _TOLERANCE
    elif skill == "time_intervals":
        right = score == 1 and answer.startswith("-") == expected.startswith("-")
    elif skill == "spell_backward":
        right = answer.casefold() == expected.casefold()
    else:
        return score
    return score if right else min(score, _NO_SUCCESS)
