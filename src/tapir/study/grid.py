"""A study as a file: variants of one recipe, seeds, and what the others are compared with."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field, JsonValue, ValidationError, model_validator

from tapir.errors import RecipeError
from tapir.recipe import Recipe
from tapir.recipe_file import load
from tapir.sections import Section, Text, Whole

UNTUNED = "untuned"
"""The student before any round; every run measures it, so it needs none of its own."""
_OURS = {"name": "the study and the variant are its name", "seed": "it is one of `seeds`"}


def _different(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if twice := sorted({one for one in seeds if seeds.count(one) > 1}):
        raise ValueError(f"{', '.join(map(str, twice))} more than once: every seed is one run")
    return seeds


def _free(settings: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for key in settings:
        if key in _OURS:
            raise ValueError(f"{key} cannot be set: {_OURS[key]}")
    return settings


Seeds: TypeAlias = Annotated[tuple[Whole, ...], Field(min_length=1), AfterValidator(_different)]
Settings: TypeAlias = Annotated[dict[str, JsonValue], AfterValidator(_free)]


class Variant(Section):
    """One way to choose what the student is trained on."""

    about: Text
    """What it is, in a few words."""
    seeds: Seeds | None = None
    """Its seeds, where they are not those of the study."""
    set: Settings = Field(default_factory=dict)
    """Keys of the recipe with their values; a table changes the keys it names and leaves the others."""


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
    method: str = ""
    """The variant that others leave a part out of: they are compared with it too. Empty for none."""
    benchmark: Text = "in-distribution"
    """The held-out set that decides."""
    set: Settings = Field(default_factory=dict)
    """Keys of the recipe for all variants."""
    variants: Annotated[dict[str, Variant], Field(min_length=1)]
    """Every variant in a table [variants.NAME]."""

    @model_validator(mode="after")
    def _has_what_it_names(self) -> Study:
        if self.baseline not in {*self.variants, UNTUNED}:
            raise ValueError(f"baseline: there is no variant {self.baseline!r}; {_meant(self.baseline, self.variants)}")
        if self.method not in {*self.variants, ""}:
            raise ValueError(f"method: there is no variant {self.method!r}; {_meant(self.method, self.variants)}")
        return self

    @model_validator(mode="after")
    def _names_its_variants(self) -> Study:
        for name in self.variants:
            if name == UNTUNED:
                raise ValueError(f"variants.{name}: the student before any round is measured in every run; rename it")
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
                raise ValueError(f"variants.{name}: a folder is named so: use letters, digits, _, - and . only")
        return self

    @model_validator(mode="after")
    def _can_be_compared(self) -> Study:
        base = self.seeds_of(self.baseline) if self.baseline in self.variants else ()
        for name in self.variants if base else ():
            if not set(self.seeds_of(name)) & set(base):
                raise ValueError(
                    f"variants.{name}.seeds = {list(self.seeds_of(name))}: none of them is a seed of the baseline"
                    f" {self.baseline}, {list(base)}, so the two cannot be compared"
                )
        return self

    def seeds_of(self, variant: str) -> tuple[int, ...]:
        """The seeds it is run with."""
        return self.variants[variant].seeds or self.seeds


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
    message = str(problem.get("msg", "")).removeprefix("Value error, ")
    if problem.get("type") == "extra_forbidden":
        name = key.rsplit(".", 1)[-1]
        known = Variant.model_fields if key.startswith("variants.") else Study.model_fields
        return f"{key} is no key of a study; {_meant(name, known)}"
    return f"{key}: {message}".removeprefix(": ")


def _meant(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def shipped() -> list[str]:
    """Names of the studies inside the package."""
    folder = resources.files("tapir.recipes") / "studies"
    return sorted(one.name.removesuffix(".toml") for one in folder.iterdir() if one.name.endswith(".toml"))


def _text(source: str) -> str:
    if source in shipped():
        return (resources.files("tapir.recipes") / "studies" / f"{source}.toml").read_text(encoding="utf-8")
    if not source.endswith(".toml"):
        hint = _meant(source, shipped())
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
        RecipeError: a variant's recipe is wrong or measures with something else than the others, or there is no such
            variant or seed.
    """
    for name in only:
        if name not in study.variants:
            raise RecipeError(
                f"no variant named {name!r}; {_meant(name, study.variants)}", remedy="Mend the name after --only."
            )
    chosen = [name for name in study.variants if not only or name in only]
    there = sorted({one for name in chosen for one in study.seeds_of(name)})
    if missing := sorted(set(seeds) - set(there)):
        whose = "none of the chosen variants" if only else "no variant"
        raise RecipeError(
            f"{whose} has the seed {missing[0]}; there are {', '.join(map(str, there))}",
            remedy="Mend the number after --seed.",
        )
    _measured_alike(study)
    return [
        Job(name, seed, _recipe(study, name, seed))
        for name in chosen
        for seed in study.seeds_of(name)
        if not seeds or seed in seeds
    ]


def _measured_alike(study: Study) -> None:
    """Differences between variants mean something only where all are asked the same held-out instructions."""
    first, wanted = "", None
    for name in study.variants:
        found = _recipe(study, name, study.seeds_of(name)[0]).evaluation
        if wanted is None:
            first, wanted = name, found
        elif found != wanted:
            raise RecipeError(
                f"variants.{name} is measured with another [evaluation] than variants.{first}",
                remedy="Set the keys of the evaluation for all variants, in [set].",
            )


def _recipe(study: Study, name: str, seed: int) -> Recipe:
    ours = study.variants[name].set | {"name": f"{study.name}/{name}", "seed": seed}
    try:
        return load(study.recipe, _changes(ours), _changes(study.set))
    except RecipeError as error:
        raise RecipeError(f"variants.{name}: {error}", remedy=error.remedy) from error


def _changes(settings: Mapping[str, JsonValue]) -> list[str]:
    return [f"{key}={_toml(value)}" for key, value in leaves(settings)]


def leaves(settings: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, JsonValue]]:
    """Dotted keys with their values, however the tables were written: curriculum.size = 5, or size in a table."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _toml(value: JsonValue) -> str:
    """A value as TOML; tables become inline tables."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)} = {_toml(one)}" for key, one in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else repr(value)
