"""Items of the embedded world: regenerated from their address, scored by their own library.

An item's address is `gym:SKILL:LEVEL:INDEX`. The text, the exact answer and the scorer all
follow from it, so nothing has to be remembered for a judgement to be repeatable.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from tapir.errors import GymError
from tapir.gym.skills import SKILLS

if TYPE_CHECKING:
    from reasoning_gym.dataset import ProceduralDataset

FINAL_MARK = "####"
_RESERVED_SHARE = 5
_INDEX_SPACE = 2**31
# What scorers of the library raise on text they cannot parse.
_SCORER_ERRORS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, SyntaxError, RecursionError)


@dataclass(frozen=True, slots=True)
class Item:
    """One instruction with its exact answer; `entry` is what the library's scorer needs."""

    skill: str
    level: int
    index: int
    question: str
    answer: str
    entry: dict[str, Any]

    @property
    def address(self) -> str:
        """Where the item can be made again: `gym:SKILL:LEVEL:INDEX`."""
        return f"gym:{self.skill}:{self.level}:{self.index}"


@cache
def _dataset(skill: str, level: int) -> ProceduralDataset:
    import reasoning_gym

    return reasoning_gym.create_dataset(skill, seed=0, size=_INDEX_SPACE, **SKILLS[skill].config(level))


@lru_cache(maxsize=1 << 16)
def item(skill: str, level: int, index: int) -> Item:
    """The item at one address; the same address gives the same item on every machine."""
    entry = _dataset(skill, level)[index]
    return Item(skill, level, index, str(entry["question"]).strip(), str(entry["answer"]), entry)


def from_address(address: str) -> Item:
    """Rebuild an item from `gym:SKILL:LEVEL:INDEX`.

    Raises:
        GymError: the text is not an address of this world.
    """
    scheme, *rest = address.split(":")
    if scheme != "gym" or len(rest) != 3 or rest[0] not in SKILLS:  # noqa: PLR2004
        message = f"{address!r} is not an address of the gym"
        raise GymError(message, remedy="The gym fills its roles only for its own instructions (gym:SKILL:LEVEL:INDEX).")
    return item(rest[0], int(rest[1]), int(rest[2]))


def is_reserved(text: str) -> bool:
    """Whether an instruction belongs to evaluation alone.

    A fifth of all texts, chosen by their digest, is set aside for good. Corpora, expansions and the
    pre-training of the student draw from the rest, so no seed can make the two meet.
    """
    return hashlib.blake2b(text.encode(), digest_size=8).digest()[0] % _RESERVED_SHARE == 0


def stream(skill: str, level: int, *, key: str, reserved: bool, tries: int = 4000) -> Iterator[Item]:
    """Distinct items of one skill and level in an order fixed by `key`.

    Args:
        skill: its name.
        level: 1 to 4.
        key: names the random stream, e.g. ``"7/corpus"``; equal keys give equal streams.
        reserved: True draws from the texts kept for evaluation, False from all others.
        tries: the stream ends after this many draws in a row without a new text.
    """
    generator = random.Random(f"{key}/{skill}/{level}")
    seen: set[str] = set()
    misses = 0
    while misses < tries:
        found = item(skill, level, generator.randrange(_INDEX_SPACE - 1))
        if found.question in seen or is_reserved(found.question) is not reserved:
            misses += 1
            continue
        misses = 0
        seen.add(found.question)
        yield found


def final_answer(text: str) -> str:
    """The part of a reply that is judged: what follows the last `####`, or the whole reply."""
    return text.rsplit(FINAL_MARK, 1)[-1].strip()


def score(found: Item, reply: str) -> float:
    """Quality of a reply in [0, 1] by the library's own scorer; what it cannot read is 0.

    Raises:
        GymError: the scorer fails on the exact answer too, so it says nothing about the reply.
    """
    answer = final_answer(reply)
    if not answer or "nan" in answer.casefold():  # a distance to "nan" is no distance: one scorer gives it full marks
        return 0.0
    try:
        return _scored(found, answer)
    except _SCORER_ERRORS:
        try:
            _scored(found, found.answer)
        except _SCORER_ERRORS as error:
            raise GymError(f"the scorer of {found.address} fails on the exact answer: {error!r}") from error
        return 0.0


def _scored(found: Item, answer: str) -> float:
    return float(_dataset(found.skill, found.level).score_answer(answer, found.entry))
