"""Randomness that belongs to the item: run seed + purpose + item, never to the order of work."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def seed_for(seed: int, *parts: str | int) -> int:
    """A 31-bit seed for one purpose, e.g. ``seed_for(7, "train", 2)``."""
    text = "/".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 33


def priorities(ids: Sequence[str], seed: int) -> NDArray[np.uint64]:
    """A random rank for every id that depends on nothing but the id and the seed.

    An id is a digest already, so one round of SplitMix64 (Steele et al. 2014) with the seed is a
    fresh, independent shuffle; sorting by it is sampling without replacement.

    Args:
        ids: n instruction ids (hexadecimal).
        seed: from `seed_for`.

    Returns:
        Shape (n,), uint64.
    """
    digits = np.frombuffer(bytes.fromhex("".join(ids)), dtype=">u8").astype(np.uint64)
    with np.errstate(over="ignore"):
        state = digits + _GOLDEN * np.uint64(seed + 1)
        state = (state ^ (state >> np.uint64(30))) * _MIX_1
        state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))
