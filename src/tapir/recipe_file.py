"""Recipes as text: TOML in with every mistake explained, commented TOML out."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tapir.errors import RecipeError
from tapir.recipe import ConstantSchedule, LinearSchedule, ListSchedule, PaperSchedule, Recipe, Section


def shipped() -> list[str]:
    """Names of the recipes inside the package."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files("tapir.recipes").iterdir()
        if entry.name.endswith(".toml")
    )


def load(source: str, changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: a TOML file, or the name of a shipped recipe.
        changes: "key=value" with a dotted key and a TOML value (a bare word is taken as text).

    Raises:
        RecipeError: it cannot be read, or a key or value is wrong; every problem is named.
    """
    content = _read(source)
    changed = [_apply(content, change) for change in changes]
    curriculum = content.get("curriculum")
    if "curriculum.variant" in changed and isinstance(curriculum, dict) and curriculum["variant"] == "single-round":
        for key in {"rounds", "schedule"} - {name.split(".")[1] for name in changed if "." in name}:
            curriculum.pop(key, None)  # the change asks for another variant than the file was written for
    return parse(content)


def parse(content: Mapping[str, Any]) -> Recipe:
    """A recipe from its tables.

    Raises:
        RecipeError: a key or value is wrong; every problem is named with the nearest right name.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = [_explain(one) for one in error.errors()]
        raise RecipeError(
            "\n".join(problems), remedy="`tapir recipe show gym` prints every key with its meaning."
        ) from error


def _read(source: str) -> dict[str, Any]:
    path = Path(source)
    if source in shipped():
        text = (resources.files("tapir.recipes") / f"{source}.toml").read_text(encoding="utf-8")
    elif path.suffix == ".toml":
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{source} cannot be read: {error}", remedy="Check the path.") from error
    else:
        near = difflib.get_close_matches(source, shipped(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"shipped recipes: {', '.join(shipped())}"
        raise RecipeError(
            f"no recipe named {source!r}; {hint}", remedy="Name a shipped recipe or a file that ends in .toml."
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source} is not valid TOML: {error}", remedy="Mend the line named.") from error


def _apply(content: dict[str, Any], change: str) -> str:
    """Set one key; returns its name."""
    key, equals, value = change.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {change!r} is not key=value", remedy="For example: --set curriculum.rounds=2")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    *tables, last = key.strip().split(".")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise RecipeError(
                f"--set {change!r}: {table} is not a table", remedy="`tapir recipe show gym` lists all keys."
            )
    content[last] = parsed
    return key.strip()


def _explain(problem: ErrorDetails) -> str:
    """One line: where, what, and what was probably meant."""
    place = [str(part) for part in problem["loc"]]
    where = ".".join(
        part for turn, part in enumerate(place) if place[turn - 1 : turn] != ["schedule"] or len(place) - 1 == turn
    )
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place[-1], _keys_at(place[:-1]), n=1, cutoff=0.5)
        return f"{where}: no such key" + (f"; did you mean {near[0]}?" if near else "")
    if problem["type"] in {"literal_error", "union_tag_invalid"}:
        options = str(problem.get("ctx", {}).get("expected") or problem.get("ctx", {}).get("expected_tags", ""))
        value = problem["input"] if problem["type"] == "literal_error" else problem.get("ctx", {}).get("tag")
        near = difflib.get_close_matches(
            str(value), [one.strip("' ") for one in options.replace(" or ", ",").split(",")], n=1
        )
        return f"{where} = {value!r}: must be {options}" + (f"; did you mean {near[0]!r}?" if near else "")
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    shown = "" if isinstance(problem["input"], dict) or problem["type"] == "missing" else f" = {problem['input']!r}"
    return f"{where}{shown}: {message[:1].lower()}{message[1:]}"


def _keys_at(place: list[str]) -> list[str]:
    model: type[BaseModel] = Recipe
    schedules = {"paper": PaperSchedule, "constant": ConstantSchedule, "linear": LinearSchedule, "list": ListSchedule}
    for part in place:
        found = schedules.get(part) if part in schedules else model.model_fields[part].annotation
        if isinstance(found, type) and issubclass(found, BaseModel):
            model = cast("type[BaseModel]", found)
    return list(model.model_fields)


def as_toml(recipe: Recipe) -> str:
    """Text that `load` reads back to the same recipe."""
    return "\n".join(_lines(recipe, "")).lstrip("\n") + "\n"


def _lines(section: Section, prefix: str) -> Iterator[str]:
    """The section's own keys first, then its tables."""
    fields = type(section).model_fields
    hidden = section.idle()
    for name, field in fields.items():
        value = getattr(section, name)
        if isinstance(value, Section) or name in hidden:
            continue
        if field.description:
            yield f"# {' '.join(field.description.split())}"
        yield f"{name} = {_value(value)}"
    for name, field in fields.items():
        value = getattr(section, name)
        if isinstance(value, Section) and name not in hidden:
            yield ""
            if field.description:
                yield f"# {' '.join(field.description.split())}"
            yield f"[{prefix}{name}]"
            yield from _lines(value, f"{prefix}{name}.")


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
