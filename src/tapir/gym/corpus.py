"""The gym's seed corpus: imbalanced the way public corpora are, and short of what is hard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from tapir.domain.apportion import apportion
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.gym.skills import TRAIN_LEVELS
from tapir.gym.world import stream

LEVEL_SHARES = (0.6, 0.3, 0.1)

# From what public corpora are full of to what they hardly have.
BY_FREQUENCY = (
    "letter_counting",
    "spell_backward",
    "chain_sum",
    "syllogism",
    "basic_arithmetic",
    "word_sequence_reversal",
    "number_filtering",
    "family_relationships",
    "products",
    "calendar_arithmetic",
    "leg_counting",
    "simple_equations",
    "aiw",
    "number_sequence",
    "time_intervals",
    "simple_geometry",
    "complex_arithmetic",
    "gcd",
    "count_bits",
    "rotate_matrix",
    "base_conversion",
    "fraction_simplification",
    "prime_factorization",
)


def corpus(skills: Sequence[str], *, size: int, skew: float, seed: int) -> Iterator[Pair]:
    """`size` pairs whose skills follow a power law and whose levels are mostly easy.

    A skill without enough distinct instances at one level gives more of the next easier one.

    Args:
        skills: which skills, any order.
        size: how many pairs in all.
        skew: exponent of the power law over `BY_FREQUENCY`; 0 gives every skill the same share.
        seed: chooses the instances.
    """
    ranked = [name for name in BY_FREQUENCY if name in skills]
    weights = [(rank + 1) ** -skew for rank in range(len(ranked))]
    for name, count in zip(ranked, apportion(weights, size), strict=True):
        owed = 0
        for level, share in reversed(list(zip(TRAIN_LEVELS, apportion(LEVEL_SHARES, int(count)), strict=True))):
            owed += int(share)
            for found in islice(stream(name, level, key=f"{seed}/corpus", reserved=False), owed):
                owed -= 1
                origin = Origin("corpus", source=found.address)
                yield Pair(Instruction.of(found.question, origin), Response(found.answer, "gym-teacher"))
