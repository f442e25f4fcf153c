"""Recipes as text: TOML in with every mistake explained, commented TOML out."""

from __future__ import annotations

import copy
import difflib
import json
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import JsonValue, ValidationError
from pydantic.fields import FieldInfo

from tapir.errors import RecipeError
from tapir.mistakes import explain, idle, kind_of, left_over, sections
from tapir.recipe import Recipe
from tapir.sections import Section


def shipped() -> list[str]:
    """Names of the recipes inside the package."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files("tapir.recipes").iterdir()
        if entry.name.endswith(".toml")
    )


def load(source: str, changes: Iterable[str] = (), base: Iterable[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: a TOML file, or the name of a shipped recipe.
        changes: "key=value" with a dotted key and a TOML value (a bare word is taken as text). What they leave
            without effect in the file gives way to them.
        base: the same, as if the file had them.

    Raises:
        RecipeError: it cannot be read, or a key or value is wrong; every problem is named.
    """
    content = _read(source)
    for change in base:
        _apply(content, change)
    changed = {_apply(content, change) for change in changes}
    return _validated(content, lambda error: left_over(error, changed))


def changed(content: Mapping[str, Any], changes: Iterable[str]) -> Recipe:
    """A recipe from its tables, with some keys set.

    Raises:
        RecipeError: a key or value is wrong.
    """
    tables = copy.deepcopy(dict(content))
    for change in changes:
        _apply(tables, change)
    return parse(tables)


def parse(content: Mapping[str, Any]) -> Recipe:
    """A recipe from its tables.

    Raises:
        RecipeError: a key or value is wrong; every problem is named with the nearest right name.
    """
    return _validated(dict(content), lambda _error: ())


def restored(content: Mapping[str, Any]) -> Recipe:
    """The recipe of a run as its folder keeps it, without keys of an earlier version that have no effect in this one.

    Raises:
        RecipeError: it is not one that this version knows.
    """
    return _validated(copy.deepcopy(dict(content)), idle)


def differences(recipe: Recipe, content: Mapping[str, Any]) -> list[str]:
    """Where a recipe differs from that of a run as its folder keeps it, as `Recipe.differences` says it."""
    try:
        return recipe.differences(restored(content).resolved())
    except RecipeError:
        return recipe.differences(content)


def _validated(content: dict[str, Any], stale: Callable[[ValidationError], Collection[str]]) -> Recipe:
    """A recipe from its tables, of which the keys that `stale` finds in an error are taken away."""
    while True:
        try:
            return Recipe.model_validate(content)
        except ValidationError as error:
            found = stale(error)
            if not found:
                raise _explained(error, content) from error
            for key in found:
                _remove(content, key)


def _explained(error: ValidationError, content: Mapping[str, Any]) -> RecipeError:
    problems = [explain(one) for one in error.errors()]
    remedy = (
        f"`tapir recipe show {_alike(content)}` prints its keys with their meaning,"
        " `tapir recipe schema` those of every kind."
    )
    return RecipeError("\n".join(problems), remedy=remedy)


def _alike(content: Mapping[str, Any]) -> str:
    """The shipped recipe that has the same kinds of roles, so that what it shows can be used."""
    kinds = {str(table.get("kind")) for table in content.values() if isinstance(table, dict)}
    return "alpaca-api" if "endpoints" in content or kinds & {"llm", "file", "hub", "judged"} else "gym"


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
    inner = content
    for table in tables:
        inner = inner.setdefault(table, {})
        if not isinstance(inner, dict):
            raise RecipeError(
                f"--set {key.strip()}: {table} is not a table",
                remedy=f"`tapir recipe show {_alike(content)}` lists its keys.",
            )
    inner[last] = parsed
    return key.strip()


def _remove(content: dict[str, Any], key: str) -> None:
    *tables, last = key.split(".")
    for table in tables:
        content = content[table]
    del content[last]


def as_toml(recipe: Recipe) -> str:
    """Text that `load` reads back to the same recipe."""
    return "\n".join(_lines(recipe, "")).lstrip("\n") + "\n"


def _lines(section: Section, prefix: str) -> Iterator[str]:
    """The section's own keys first, what must be said before what may be left out; then its tables."""
    fields = [(name, field) for name, field in type(section).model_fields.items() if name not in section.idle()]
    fields.sort(key=lambda one: (one[0] != "kind", not one[1].is_required()))
    for name, field in fields:
        value = getattr(section, name)
        if not _is_table(field, value):
            yield from _help(field)
            yield f"# {name} =" if value is None else f"{name} = {_value(value)}"
    for name, field in fields:
        value = getattr(section, name)
        if _is_table(field, value):
            yield ""
            yield from _help(field)
            yield f"[{prefix}{name}]"
            yield from _table(value, f"{prefix}{name}.")


def _table(value: Section | Mapping[str, Section | str], prefix: str) -> Iterator[str]:
    if isinstance(value, Section):
        yield from _lines(value, prefix)
        return
    for name, one in value.items():
        if isinstance(one, Section):
            yield from ("", f"[{prefix}{_key(name)}]", *_lines(one, f"{prefix}{_key(name)}."))
        else:
            yield f"{_key(name)} = {_value(one)}"


def _is_table(field: FieldInfo, value: object) -> bool:
    """Whether a value is written below a header of its own; fields of a request go on one line."""
    return isinstance(value, Section) or (isinstance(value, dict) and JsonValue not in get_args(field.annotation))


def _help(field: FieldInfo) -> Iterator[str]:
    options = sections(field.annotation)
    if field.description:
        also = f" Kinds: {', '.join(map(kind_of, options))}." if len(options) > 1 else ""
        yield f"# {' '.join(field.description.split())}{also}"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: object) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {_value(one)}" for name, one in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML wants it escaped, JSON does not
