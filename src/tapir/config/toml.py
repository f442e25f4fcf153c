"""Recipes as TOML: reading with changes from the command line, and writing with comments."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from importlib import resources
from operator import getitem
from pathlib import Path
from typing import Any, get_args

from pydantic import JsonValue, ValidationError
from pydantic.fields import FieldInfo

from tapir.config.base import Section, leaves, suggestion
from tapir.config.recipe import Recipe
from tapir.config.validation import explain, idle_keys, kind_of, named_by_kind, outdated_keys, sections
from tapir.domain.errors import RecipeError


def shipped(folder: str = "") -> list[str]:
    """Return the names of the shipped recipes, or of what is in a folder beside them."""
    entries = (resources.files("tapir.recipes") / folder).iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


def load(source: str, changes: Iterable[str] = (), base: Iterable[str] = ()) -> Recipe:
    """Read a recipe: a TOML file, or a shipped one by its name.

    `changes` are "key=value" with a dotted key and a TOML value (a bare word is taken as text; a table changes the keys
    it names); what they leave without effect in the file gives way to them. `base` are the same, as if the file had
    them.
    """
    content = read_toml(source)
    for change in base:
        _apply(content, change)
    return _validate(content, {key for change in changes for key in _apply(content, change)})


def parse(content: Mapping[str, Any], changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe from its tables, with some keys set; every problem is named with the nearest right name."""
    tables = copy.deepcopy(dict(content))
    return _validate(tables, {key for change in changes for key in _apply(tables, change)})


def _validate(content: dict[str, Any], changed: Collection[str] = ()) -> Recipe:
    """Read a recipe from its tables, without the keys that the `changed` ones leave without effect."""
    while True:
        try:
            return Recipe.model_validate(content)
        except ValidationError as error:
            keys = outdated_keys(error, changed)
            if not keys:
                remedy = f"`tapir recipe show {_nearest_recipe(content)}` prints its keys with their meaning,"
                remedy += " `tapir recipe schema` those of every kind."
                raise RecipeError("\n".join(map(explain, error.errors())), remedy=remedy) from error
            _remove(keys, content)


def without_idle(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a recipe without the keys that have no effect; an earlier version may have written some."""
    tables = copy.deepcopy(dict(content))
    while True:
        try:
            Recipe.model_validate(tables)
        except ValidationError as error:
            if keys := idle_keys(error):
                _remove(keys, tables)
                continue
        return tables


def _remove(keys: Iterable[str], content: dict[str, Any]) -> None:
    for key in keys:
        *tables, last = key.split(".")
        del reduce(getitem, tables, content)[last]


def _nearest_recipe(content: Mapping[str, Any]) -> str:
    """Return the shipped recipe that has the same kinds of roles."""
    kinds = {str(table.get("kind")) for table in content.values() if isinstance(table, dict)}
    return "alpaca-api" if "endpoints" in content or kinds & {"llm", "file", "hub", "judged"} else "gym"


def read_toml(source: str, kind: str = "recipe", folder: str = "") -> dict[str, Any]:
    """Read a TOML file, or the shipped one of that name."""
    path = Path(source)
    if source in shipped(folder):
        text = (resources.files("tapir.recipes") / folder / f"{source}.toml").read_text(encoding="utf-8")
    elif path.suffix == ".toml" or path.is_dir():
        remedy = "Name a TOML file; `tapir recipe show` prints a recipe, `tapir resume` goes on with a run's folder."
        try:
            content = path.read_bytes()  # PowerShell's > writes UTF-16
            text = content.decode("utf-16" if content.startswith((BOM_UTF16_BE, BOM_UTF16_LE)) else "utf-8-sig")
        except (OSError, UnicodeError) as error:
            why = "not text in UTF-8" if isinstance(error, UnicodeError) else error.strerror
            raise RecipeError(f"{source} cannot be read: {why}", remedy=remedy) from error
        if not text.strip():
            raise RecipeError(f"{source} is empty", remedy=remedy)
    else:
        remedy = f"Name a shipped {kind} or a file that ends in .toml."
        raise RecipeError(f"no {kind} named {source!r}; {suggestion(source, shipped(folder))}", remedy=remedy)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source} is not valid TOML: {error}", remedy="Fix the line shown above.") from error


def _apply(content: dict[str, Any], change: str) -> list[str]:
    """Set one key, or those that a table names, and return their names."""
    key, equals, value = change.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {change!r} is not key=value", remedy="For example: --set curriculum.rounds=2")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    *tables, last = key.strip().split(".")
    inner = content
    for depth, table in enumerate(tables, start=1):
        inner[table] = _spelt_out(inner.get(table, {}), tables[:depth])
        inner = inner[table]
        if not isinstance(inner, dict):
            raise RecipeError(
                f"--set {key.strip()}: {table} is not a table",
                remedy=f"`tapir recipe show {_nearest_recipe(content)}` lists its keys.",
            )
    _merge(inner, {last: parsed}, tables)
    return [name for name, _ in leaves({key.strip(): parsed})]


def _merge(table: dict[str, Any], changes: Mapping[str, Any], path: Sequence[str]) -> None:
    """Set keys of a table in its place; a table without keys replaces the one that is there."""
    for name, value in changes.items():
        inner = _spelt_out(table.get(name), [*path, name])
        if value and isinstance(value, dict) and isinstance(inner, dict):
            table[name] = inner
            _merge(inner, value, [*path, name])
        else:
            table[name] = value


def _spelt_out(value: Any, path: Sequence[str]) -> Any:
    """Return a text that names a kind as the table it stands for, and anything else as it is."""
    return {"kind": value} if isinstance(value, str) and named_by_kind(path) else value


def as_toml(recipe: Recipe) -> str:
    """Return text that `load` reads back to the same recipe."""
    return "\n".join(_lines(recipe, "")).lstrip("\n") + "\n"


def _lines(section: Section, prefix: str) -> Iterator[str]:
    """Yield the section's own keys, required ones first, then its tables."""
    fields = [(name, field) for name, field in type(section).model_fields.items() if name not in section.idle()]
    fields.sort(key=lambda item: (item[0] != "kind", not item[1].is_required()))
    for name, field in fields:
        value, key = getattr(section, name), field.alias or name
        if not _is_table(field, value):
            yield f"# {' '.join((type(section).__doc__ or '').split()) if name == 'kind' else _help(field)}"
            yield f"# {key} =" if value is None else f"{key} = {toml_value(value)}"
    for name, field in fields:
        value = getattr(section, name)
        if _is_table(field, value):
            yield from ("", f"# {_help(field)}", f"[{prefix}{name}]", *_table(value, f"{prefix}{name}."))


def _table(value: Section | Mapping[str, Section | str], prefix: str) -> Iterator[str]:
    if isinstance(value, Section):
        yield from _lines(value, prefix)
        return
    for name, item in value.items():
        if isinstance(item, Section):
            yield from ("", f"[{prefix}{_key(name)}]", *_lines(item, f"{prefix}{_key(name)}."))
        else:
            yield f"{_key(name)} = {toml_value(item)}"


def _is_table(field: FieldInfo, value: object) -> bool:
    """Return whether a value is written below a header of its own; fields of a request go on one line."""
    return isinstance(value, Section) or (isinstance(value, dict) and JsonValue not in get_args(field.annotation))


def _help(field: FieldInfo) -> str:
    options = sections(field.annotation)
    kinds = f" Kinds: {', '.join(map(kind_of, options))}." if len(options) > 1 else ""
    return " ".join((field.description or "").split()) + kinds


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_value(name)


def toml_value(value: object) -> str:
    """Format a value as TOML; tables become inline tables."""
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {toml_value(item)}" for name, item in value.items()) + "}"
    if isinstance(value, float):
        return repr(value)  # infinity too
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML wants it escaped, JSON does not
