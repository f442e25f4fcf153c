"""A study as a file: variants of one recipe, seeds, and what the others are compared with."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import Field, JsonValue, ValidationError, model_validator

from tapir.errors import RecipeError
from tapir.recipe import Recipe
from tapir.recipe_file import load
from tapir.sections import Section, Text, Whole

UNTUNED = "untuned"
"""The student before any round; every run measures it, so it needs none of its own."""
Seeds: TypeAlias = Annotated[tuple[Whole, ...], Field(min_length=1)]


class Variant(Section):
    """One way to choose what the student is trained on."""

    about: Text
    """What it is, in a few words."""
    seeds: Seeds | None = None
    """Its seeds, where they are not those of the study."""
    set: dict[str, JsonValue] = Field(default_factory=dict)
    """Keys of the recipe with their values."""


class Study(Section):
    """A grid of variants and seeds."""

    name: Text
    """Of the study, for its report."""
    recipe: Text
    """What all variants begin with: a shipped recipe or a TOML file."""
    seeds: Seeds
    """Every variant is run with each of them; the same seed means the same corpus for all."""
    baseline: Text
    """The variant that all others are compared with."""
    benchmark: Text = "in-distribution"
    """The held-out set that decides."""
    set: dict[str, JsonValue] = Field(default_factory=dict)
    """Keys of the recipe for all variants."""
    variants: Annotated[dict[str, Variant], Field(min_length=1)]
    """Every variant in a table [variants.NAME]."""

    @model_validator(mode="after")
    def _has_its_baseline(self) -> Study:
        if self.baseline not in {*self.variants, UNTUNED}:
            near = difflib.get_close_matches(self.baseline, self.variants, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.variants)}"
            raise ValueError(f"baseline: there is no variant {self.baseline!r}; {hint}")
        if UNTUNED in self.variants:
            raise ValueError(f"variants.{UNTUNED}: the student before any round is measured in every run; rename it")
        return self


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a study."""

    variant: str
    seed: int
    recipe: Recipe

    def folder(self, study: Path) -> Path:
        """Where it is run."""
        return study / self.variant / f"seed-{self.seed}"


def read(source: str) -> Study:
    """A study from a TOML file or the name of a shipped one.

    Raises:
        RecipeError: it cannot be read, or a key or value is wrong.
    """
    try:
        content = tomllib.loads(_text(source))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source} is not valid TOML: {error}", remedy="Mend the line named.") from error
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        problems = [f"{source}: {_told(one)}" for one in error.errors()]
        raise RecipeError("\n".join(problems), remedy="docs/studies.md explains every key of a study.") from error


def _told(problem: Mapping[str, object]) -> str:
    place = problem.get("loc", ())
    key = ".".join(map(str, place)) if isinstance(place, tuple) else ""
    if problem.get("type") == "extra_forbidden":
        known = [*Study.model_fields, *Variant.model_fields]
        near = difflib.get_close_matches(key.rsplit(".", 1)[-1], known, n=1)
        return f"{key} is no key of a study" + (f"; did you mean {near[0]}?" if near else "")
    return f"{key}: {problem.get('msg', '')}".removeprefix(": ")


def shipped() -> list[str]:
    """Names of the studies inside the package."""
    folder = resources.files("tapir.recipes") / "studies"
    return sorted(one.name.removesuffix(".toml") for one in folder.iterdir() if one.name.endswith(".toml"))


def _text(source: str) -> str:
    if source in shipped():
        return (resources.files("tapir.recipes") / "studies" / f"{source}.toml").read_text(encoding="utf-8")
    if not source.endswith(".toml"):
        near = difflib.get_close_matches(source, shipped(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"shipped studies: {', '.join(shipped())}"
        raise RecipeError(f"no study named {source!r}; {hint}", remedy="Name a shipped study or a TOML file.")
    try:
        return Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{source} cannot be read: {error}", remedy="Check the path.") from error


def jobs(study: Study, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Job]:
    """Every run of a study, variant by variant, each with a recipe that was checked.

    Args:
        study: the grid.
        only: names of variants; empty means all.
        seeds: a part of the seeds; empty means all.

    Raises:
        RecipeError: a variant's recipe is wrong, or there is no such variant.
    """
    for name in only:
        if name not in study.variants:
            near = difflib.get_close_matches(name, study.variants, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(study.variants)}"
            raise RecipeError(f"no variant named {name!r}; {hint}", remedy="Mend the name after --only.")
    found = []
    for name, variant in study.variants.items():
        if only and name not in only:
            continue
        wanted = [one for one in variant.seeds or study.seeds if not seeds or one in seeds]
        found += [Job(name, seed, _recipe(study, name, seed)) for seed in wanted]
    if not found:
        raise RecipeError(f"nothing to run: no variant has the seeds {list(seeds)}", remedy="Mend --seeds.")
    return found


def _recipe(study: Study, name: str, seed: int) -> Recipe:
    settings = study.set | study.variants[name].set | {"name": f"{study.name}/{name}", "seed": seed}
    try:
        return load(study.recipe, _changes(settings))
    except RecipeError as error:
        raise RecipeError(f"variants.{name}: {error}", remedy=error.remedy) from error


def _changes(settings: Mapping[str, JsonValue]) -> Iterator[str]:
    for key, value in settings.items():
        yield f"{key}={_toml(value)}"


def _toml(value: JsonValue) -> str:
    """A value as TOML; tables become inline tables."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {_toml(one)}' for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
