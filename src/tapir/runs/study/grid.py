"""Study files: variants of one recipe, seeds, baseline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field, JsonValue, ValidationError, model_validator

from tapir.config.base import Section, Text, Whole, leaves, suggestion
from tapir.config.corpus import GymCorpusConfig
from tapir.config.evaluation import ExactEvaluationConfig, GymEvaluationConfig, HeldOut
from tapir.config.recipe import Recipe
from tapir.config.toml import load, read_toml, toml_value
from tapir.config.validation import explain
from tapir.domain.errors import RecipeError, changed_keys

UNTUNED = "untuned"
"""The student before any round; every run measures it, so it needs none of its own."""
_OURS = {"name": "the study and the variant are its name", "seed": "it is one of `seeds`"}


def _check_distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ValueError(f"{', '.join(map(str, twice))} more than once: every seed is one run")
    return seeds


def _check_settings(settings: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for key in settings:
        if key in _OURS:
            raise ValueError(f"{key} cannot be set: {_OURS[key]}")
    return settings


Seeds: TypeAlias = Annotated[tuple[Whole, ...], Field(min_length=1), AfterValidator(_check_distinct)]
Settings: TypeAlias = Annotated[dict[str, JsonValue], AfterValidator(_check_settings)]


class VariantConfig(Section):
    """One way to choose what the student is trained on."""

    about: Text
    """What it is, in a few words."""
    seeds: Seeds | None = None
    """Its seeds, where they are not those of the study."""
    set: Settings = Field(default_factory=dict)
    """Keys of the recipe with their values; a table changes the keys it names and leaves the others."""


class StudyConfig(Section):
    """A grid of variants and seeds."""

    name: Text
    """Of the study, for its report."""
    recipe: Text
    """What all variants begin with: a shipped recipe or a TOML file."""
    seeds: Seeds
    """Every variant is run with each of them; the same seed means the same corpus for all."""
    baseline: Text
    """The variant that all others are compared with."""
    method: str = ""
    """The variant that others leave a part out of: they are compared with it too. Empty for none."""
    benchmark: Text = "in-distribution"
    """The held-out set that decides."""
    set: Settings = Field(default_factory=dict)
    """Keys of the recipe for all variants."""
    variants: Annotated[dict[str, VariantConfig], Field(min_length=1)]
    """Every variant in a table [variants.NAME]."""

    @model_validator(mode="after")
    def _check_variants(self) -> StudyConfig:
        for key, name, none in (("baseline", self.baseline, UNTUNED), ("method", self.method, "")):
            if name not in {*self.variants, none}:
                raise ValueError(f"{key}: there is no variant {name!r}; {suggestion(name, self.variants)}")
        base = self.seeds_of(self.baseline) if self.baseline in self.variants else ()
        for name in self.variants:
            if name == UNTUNED:
                raise ValueError(f"variants.{name}: the student before any round is measured in every run; rename it")
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
                raise ValueError(f"variants.{name}: a folder is named so: use letters, digits, _, - and . only")
            if base and not set(self.seeds_of(name)) & set(base):
                raise ValueError(
                    f"variants.{name}.seeds = {list(self.seeds_of(name))}: none of them is a seed of the baseline"
                    f" {self.baseline}, {list(base)}, so the two cannot be compared"
                )
        return self

    def seeds_of(self, variant: str) -> tuple[int, ...]:
        """Return the seeds of a variant."""
        return self.variants[variant].seeds or self.seeds


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One run of a study."""

    variant: str
    seed: int
    recipe: Recipe

    def folder(self, study: Path) -> Path:
        """Return its run directory."""
        return study / self.variant / f"seed-{self.seed}"


def read(source: str) -> StudyConfig:
    """Read a study from a TOML file or by the name of a shipped one."""
    try:
        return StudyConfig.model_validate(read_toml(source, "study", "studies"))
    except ValidationError as error:
        problems = [f"{source}: {explain(problem, StudyConfig)}" for problem in error.errors()]
        raise RecipeError("\n".join(problems), remedy="docs/studies.md explains every key of a study.") from error


def runs_of(study: StudyConfig, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[StudyRun]:
    """Return the runs of a study, variant by variant, each with a checked recipe.

    `only` and `seeds` choose variants and seeds; empty means all.
    """
    for name in only:
        if name not in study.variants:
            hint = suggestion(name, study.variants)
            raise RecipeError(f"no variant named {name!r}; {hint}", remedy="Fix the name after --only.")
    chosen = [name for name in study.variants if not only or name in only]
    available = sorted({seed for name in chosen for seed in study.seeds_of(name)})
    if missing := sorted(set(seeds) - set(available)):
        whose = "none of the chosen variants" if only else "no variant"
        raise RecipeError(
            f"{whose} has the seed {missing[0]}; there are {', '.join(map(str, available))}",
            remedy="Fix the number after --seed.",
        )
    _check_same_evaluation(study)
    return [
        StudyRun(name, seed, _recipe(study, name, seed))
        for name in chosen
        for seed in study.seeds_of(name)
        if not seeds or seed in seeds
    ]


def _check_same_evaluation(study: StudyConfig) -> None:
    """Check that all variants are measured with the same held-out instructions: else no difference means anything."""
    recipes = {name: _recipe(study, name, study.seeds_of(name)[0]) for name in study.variants}
    (first, expected), *others = recipes.items()
    for name, recipe in others:
        if recipe.evaluation != expected.evaluation:
            raise RecipeError(
                f"variants.{name} is measured with another [evaluation] than variants.{first}",
                remedy="Set the keys of the evaluation for all variants, in [set].",
            )
        if differing := changed_keys(_held_out_from(expected), _held_out_from(recipe)):
            raise RecipeError(
                f"variants.{name} holds out other prompts than variants.{first}: {'; '.join(differing)}",
                remedy="Set these keys for all variants, in [set]; or measure with evaluation.file and held_out = 0.",
            )
        if differing := changed_keys(_graded_by(expected), _graded_by(recipe)):
            raise RecipeError(
                f"variants.{name} is graded otherwise than variants.{first}: {'; '.join(differing)}",
                remedy="Set these keys for all variants, in [set]; or measure with a benchmark that a program grades.",
            )


def _held_out_from(recipe: Recipe) -> dict[str, JsonValue]:
    """Return what decides which prompts are held out from the corpus, and their references; nothing where none are."""
    evaluation = recipe.evaluation
    if isinstance(evaluation, GymEvaluationConfig) and isinstance(recipe.corpus, GymCorpusConfig):
        return {"corpus.skills": list(recipe.corpus.skills)}
    if not (isinstance(evaluation, HeldOut) and evaluation.held_out):
        return {}
    others = {"screen", "near_duplicates"}  # what they drop is only left out of training
    if isinstance(evaluation, ExactEvaluationConfig):
        others.add("answers")  # the corpus's own are expected, whoever's are learnt
    return dict(leaves({"corpus": recipe.corpus.model_dump(mode="json", exclude=others)}))


def _graded_by(recipe: Recipe) -> dict[str, JsonValue]:
    """Return who judges the answers and writes their references, and what gives the prompts their tasks."""
    evaluation, held_out = recipe.evaluation, isinstance(recipe.evaluation, HeldOut)
    roles = ["judge"] if evaluation.needs_judge else []
    if held_out:
        exact = isinstance(evaluation, ExactEvaluationConfig)
        roles += ["tagger", *(["teacher"] if recipe.answers() != "corpus" and not exact else [])]
    content = {role: getattr(recipe, role).model_dump(mode="json") for role in roles}
    for name in sorted({name for role in roles for name in recipe.users().get(role, ())}):
        content[f"endpoints.{name}"] = recipe.endpoints[name].model_dump(mode="json", include={"base_url", "model"})
    return dict(
        leaves(content | ({"curriculum.target.taxonomy": recipe.curriculum.target.taxonomy} if held_out else {}))
    )


def _recipe(study: StudyConfig, name: str, seed: int) -> Recipe:
    settings = study.variants[name].set | {"name": f"{study.name}/{name}", "seed": seed}
    try:
        return load(study.recipe, _changes(settings), _changes(study.set))
    except RecipeError as error:
        raise RecipeError(f"variants.{name}: {error}", remedy=error.remedy) from error


def _changes(settings: Mapping[str, JsonValue]) -> list[str]:
    return [f"{key}={toml_value(value)}" for key, value in leaves(settings)]
