"""Items of the embedded world: generated from their address and scored by reasoning-gym.

An item's address is `gym:SKILL:LEVEL:INDEX`. The text, the exact answer and the scorer follow from it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from tapir.domain.errors import GymError
from tapir.gym.corrections import is_sound, true_answer, true_score
from tapir.gym.skills import SKILLS

if TYPE_CHECKING:
    from reasoning_gym.dataset import ProceduralDataset

FINAL_MARK = "####"
_RESERVED_SHARE = 5
_INDEX_SPACE = 2**31
# What scorers of the library raise on text they cannot parse.
_SCORER_ERRORS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, SyntaxError, RecursionError)


@dataclass(frozen=True, slots=True)
class GymItem:
    """One instruction with its exact answer; `entry` is what the library's scorer needs."""

    skill: str
    level: int
    index: int
    question: str
    answer: str
    entry: dict[str, Any]

    @property
    def address(self) -> str:
        """Address that generates the item: `gym:SKILL:LEVEL:INDEX`."""
        return f"gym:{self.skill}:{self.level}:{self.index}"


@cache
def _dataset(skill: str, level: int) -> ProceduralDataset:
    import reasoning_gym

    return reasoning_gym.create_dataset(skill, seed=0, size=_INDEX_SPACE, **SKILLS[skill].levels[level - 1])


@lru_cache(maxsize=1 << 16)
def item(skill: str, level: int, index: int) -> GymItem:
    """Return the item at an address; the same on every machine."""
    entry = _dataset(skill, level)[index]
    answer = true_answer(skill, entry)
    return GymItem(skill, level, index, str(entry["question"]).strip(), answer, {**entry, "answer": answer})


def from_address(address: str) -> GymItem:
    """Rebuild an item from `gym:SKILL:LEVEL:INDEX`."""
    scheme, *rest = address.split(":")
    if scheme != "gym" or len(rest) != 3 or rest[0] not in SKILLS:  # noqa: PLR2004
        message = f"{address!r} is not an address of the gym"
        raise GymError(message, remedy="The gym fills its roles only for its own instructions (gym:SKILL:LEVEL:INDEX).")
    return item(rest[0], int(rest[1]), int(rest[2]))


def is_reserved(text: str) -> bool:
    """Return whether an instruction is reserved for evaluation.

    A fifth of all texts, chosen by their digest, is reserved. Corpora, expansions and the pre-training of the
    student draw from the rest, so no seed can make the two overlap.
    """
    return hashlib.blake2b(text.encode(), digest_size=8).digest()[0] % _RESERVED_SHARE == 0


def stream(skill: str, level: int, *, key: str, reserved: bool, tries: int = 4000) -> Iterator[GymItem]:
    """Yield distinct items of one skill and level, each with a true answer, in an order fixed by `key`.

    Args:
        skill: its name.
        level: 1 to 4.
        key: names the random stream, e.g. ``"7/corpus"``.
        reserved: True draws from the texts reserved for evaluation, False from all others.
        tries: the stream ends after this many draws in a row without a new text.
    """
    generator = random.Random(f"{key}/{skill}/{level}")
    seen: set[str] = set()
    misses = 0
    while misses < tries:
        drawn = item(skill, level, generator.randrange(_INDEX_SPACE - 1))
        if drawn.question in seen or is_reserved(drawn.question) is not reserved:
            misses += 1
            continue
        misses = 0
        seen.add(drawn.question)
        if is_sound(skill, drawn.entry):
            yield drawn


def score(target: GymItem, reply: str) -> float:
    """Return the quality of a reply, 0 to 1, by the library's corrected scorer; an unreadable reply gets 0.

    What follows the last `####` is graded, or the whole reply.
    """
    answer = reply.rsplit(FINAL_MARK, 1)[-1].strip()
    # A distance to "nan" is no distance, but one scorer gives it full marks; in words it is right.
    if not answer or ("nan" in answer.casefold() and "nan" not in target.answer.casefold()):
        return 0.0
    try:
        return _score(target, answer)
    except _SCORER_ERRORS:
        try:
            _score(target, target.answer)
        except _SCORER_ERRORS as error:
            raise GymError(f"the scorer of {target.address} fails on the exact answer: {error!r}") from error
        return 0.0


def _score(target: GymItem, answer: str) -> float:
    quality = float(_dataset(target.skill, target.level).score_answer(answer, target.entry))
    return true_score(target.skill, target.answer, answer, quality)
