"""Held-out sets of the gym for an evaluation of its own."""

from __future__ import annotations

import importlib.util

from tapir.assemble.tasks import skills
from tapir.domain.randomness import seed_for
from tapir.errors import MissingExtra, RecipeError
from tapir.gym.robustness import GymSuite, beside_plain
from tapir.gym.skills import TRAINED
from tapir.recipe import Recipe
from tapir.sections import GymCorpus

__all__ = ["GymSuite", "beside_plain", "gym_suite"]


def gym_suite(recipe: Recipe, *, per_task: int, harder: int, unseen: int, perturbed: int, sample: int) -> GymSuite:
    """The gym's held-out sets for the skills of a recipe; all trained skills where its corpus is not the gym's.

    Args:
        recipe: of the student.
        per_task: as the sizes in `GymSuite`; 0 leaves a set out.
        harder: see there.
        unseen: see there.
        perturbed: see there.
        sample: which draw of prompts; it also fixes how they are perturbed.

    Raises:
        MissingExtra: the library of the gym is not installed.
        RecipeError: every size is 0, or the recipe names a skill that does not exist.
    """
    if importlib.util.find_spec("reasoning_gym") is None:
        raise MissingExtra("the gym needs reasoning_gym", remedy="pip install 'tapir-distill[gym]'")
    if not per_task + harder + unseen + perturbed:
        raise RecipeError(
            "--per-task, --harder, --unseen and --perturbed are all 0: there is nothing to measure",
            remedy="Leave one of them out, or give it a number.",
        )
    named = skills(recipe) if isinstance(recipe.corpus, GymCorpus) else [one.name for one in TRAINED]
    return GymSuite(tuple(named), per_task, harder, unseen, perturbed, sample, seed_for(sample, "gym suite"))
