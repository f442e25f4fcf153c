"""Seed corpus of the gym: imbalanced like public corpora, with few hard items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from tapir.config.base import suggestion
from tapir.config.corpus import GymCorpusConfig
from tapir.config.recipe import Recipe
from tapir.domain.apportion import apportion
from tapir.domain.errors import RecipeError
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.gym.skills import BY_FREQUENCY, TRAIN_LEVELS, TRAINED
from tapir.gym.world import stream

LEVEL_SHARES = (0.6, 0.3, 0.1)


def corpus(skills: Sequence[str], *, size: int, skew: float, seed: int) -> Iterator[Pair]:
    """Yield `size` pairs whose skills follow a power law and whose levels are mostly easy.

    A skill without enough distinct instances at one level gives more of the next easier one.

    `skew` is the exponent of the power law over `BY_FREQUENCY`; 0 gives every skill the same share.
    """
    ranked = [name for name in BY_FREQUENCY if name in skills]
    weights = [(rank + 1) ** -skew for rank in range(len(ranked))]
    for name, count in zip(ranked, apportion(weights, size), strict=True):
        pending = 0
        for level, share in reversed(list(zip(TRAIN_LEVELS, apportion(LEVEL_SHARES, int(count)), strict=True))):
            pending += int(share)
            for item in islice(stream(name, level, key=f"{seed}/corpus", reserved=False), pending):
                pending -= 1
                origin = Origin("corpus", source=item.address)
                yield Pair(Instruction.of(item.question, origin), Response(item.answer, "gym-teacher"))


def corpus_skills(recipe: Recipe) -> list[str]:
    """Return the skills of the gym's corpus, checked."""
    assert isinstance(recipe.corpus, GymCorpusConfig)  # noqa: S101 (the recipe holds gym roles to the gym corpus)
    known = [skill.name for skill in TRAINED]
    for name in recipe.corpus.skills:
        if name not in known:
            message = f"corpus.skills: no skill {name!r}; {suggestion(name, known)}"
            raise RecipeError(message, remedy="Fix the name in the recipe.")
    if len(recipe.corpus.skills) == 1:
        raise RecipeError(
            f"corpus.skills = {list(recipe.corpus.skills)}: task balance and the tagger need at least two skills",
            remedy="Add a skill, or leave the key out to use all.",
        )
    return [name for name in known if not recipe.corpus.skills or name in recipe.corpus.skills]
