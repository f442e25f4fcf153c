"""The task types of a recipe."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from tapir.domain.task import TaskDistribution, Taxonomy
from tapir.errors import RecipeError
from tapir.gym.skills import TRAINED
from tapir.recipe import Recipe
from tapir.sections import GymCorpus


def skills(recipe: Recipe) -> list[str]:
    """The skills of the gym's corpus.

    Raises:
        RecipeError: one of them does not exist or may not be trained on.
    """
    assert isinstance(recipe.corpus, GymCorpus)  # noqa: S101 (the recipe holds gym roles to the gym corpus)
    known = [skill.name for skill in TRAINED]
    for name in recipe.corpus.skills:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise RecipeError(f"corpus.skills: no skill {name!r}; {hint}", remedy="Mend the name in the recipe.")
    if len(recipe.corpus.skills) == 1:
        raise RecipeError(
            f"corpus.skills = {list(recipe.corpus.skills)}: task balance and the tagger need at least two skills",
            remedy="Add a skill, or leave the key out to use all.",
        )
    return [name for name in known if not recipe.corpus.skills or name in recipe.corpus.skills]


def taxonomy(recipe: Recipe) -> Taxonomy:
    """The recipe's taxonomy, limited to the skills in play where it is the gym's.

    Raises:
        RecipeError: there is no such taxonomy, or its shares are not a distribution.
    """
    name = recipe.curriculum.target.taxonomy
    shipped = resources.files("tapir.recipes") / "taxonomies" / f"{name}.toml"
    try:
        text = shipped.read_text("utf-8") if shipped.is_file() else Path(name).read_text("utf-8")
        found = Taxonomy.from_toml(text)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"curriculum.target.taxonomy = {name!r}: {error}",
            remedy="Name a shipped taxonomy (gym, paper) or a TOML file with name, version and [shares].",
        ) from error
    if isinstance(recipe.corpus, GymCorpus):
        found = _of_the_gym(found, name, skills(recipe))
    elif name == "gym":
        raise RecipeError(
            "curriculum.target.taxonomy = 'gym' has the gym's skills, which no other corpus has",
            remedy="Set it to paper, or to a TOML file of your own.",
        )
    kept = [label for label, share in found.target.shares.items() if share > 0]
    if recipe.curriculum.target.minimum * len(kept) > 1:
        raise RecipeError(
            f"curriculum.target.minimum = {recipe.curriculum.target.minimum} for {len(kept)} tasks"
            " is more than everything",
            remedy=f"Use at most {1 / len(kept):.3f}.",
        )
    return found


def _of_the_gym(found: Taxonomy, name: str, wanted: Sequence[str]) -> Taxonomy:
    missing = [skill for skill in wanted if skill not in found.labels]
    if missing:
        raise RecipeError(
            f"curriculum.target.taxonomy = {name!r} has no share for {', '.join(missing)}",
            remedy="The gym's tasks are its skills: use the taxonomy gym, or add the missing labels to yours.",
        )
    try:
        target = TaskDistribution.of({skill: found.target.shares[skill] for skill in wanted})
    except ValueError as error:
        raise RecipeError(
            f"curriculum.target.taxonomy = {name!r}: {error}", remedy="Give the skills in play a share above 0."
        ) from error
    return Taxonomy(found.name, found.version, target)
