"""Random seeds and ranks that depend on the run's seed, the purpose and the item, never on the order of work."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

ItemT = TypeVar("ItemT")

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def seed_for(seed: int, *parts: str | int) -> int:
    """Return a 31-bit seed for one purpose, e.g. ``seed_for(7, "train", 2)``."""
    text = "/".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 33


def priorities(ids: Sequence[str], seed: int) -> NDArray[np.uint64]:
    """Return a random rank for every id that depends only on the id and the seed.

    An id is a digest already, so one round of SplitMix64 (Steele et al. 2014) with the seed is a
    fresh, independent shuffle; sorting by it is sampling without replacement.
    """
    digits = np.frombuffer(bytes.fromhex("".join(ids)), dtype=">u8").astype(np.uint64)
    with np.errstate(over="ignore"):
        state = digits + _GOLDEN * np.uint64(seed + 1)
        state = (state ^ (state >> np.uint64(30))) * _MIX_1
        state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


def shuffled(items: Iterable[ItemT], id_of: Callable[[ItemT], str], seed: int) -> list[ItemT]:
    """Return the items in the order of their `priorities`; the beginning of it is a random sample."""
    items = list(items)
    return [items[place] for place in priorities(list(map(id_of, items)), seed).argsort(kind="stable")]
