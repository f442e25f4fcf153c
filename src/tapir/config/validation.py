"""Validation errors of a recipe or a study as messages with location, value and suggestion."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Union, get_args, get_origin

from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails

from tapir.config.base import BY_NAME, Section, nearest
from tapir.config.recipe import Recipe

_MESSAGES = {
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a table"),
    "tuple_type": "must be a list",
    "missing": "is required",
}


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where in the file an error is."""

    path: tuple[str, ...]  # keys from the root, without the kinds that pydantic puts between them
    table: type[Section]  # that the last key is in
    kinds: tuple[type[Section], ...]  # every section that could stand in its place

    def below(self, name: str) -> str:
        """Return a key of the table at this spot, dotted as for --set."""
        return ".".join((*self.path, name))

    def elsewhere(self) -> list[str]:
        """Return the kinds of the same section that do have the last key."""
        others = (kind for kind in self.kinds if kind is not self.table and self.path[-1] in _keys(kind))
        return [kind_of(section) for section in others]


def explain(problem: ErrorDetails, root: type[Section] = Recipe) -> str:
    """Return an error in a table of type `root` as one line, or as one for each of several keys that clash."""
    spot, kind, context = _locate(problem["loc"], root), problem["type"], problem.get("ctx", {})
    key = ".".join(spot.path)
    if kind == "extra_forbidden":
        near = nearest(spot.path[-1], _keys(spot.table), cutoff=0.5)
        others = " or ".join(map(repr, spot.elsewhere()))
        meant = f"; did you mean {near}?" if near else ""
        return f"{key}: no such key{meant}" + (f"; it belongs to kind = {others}" if others else "")
    if kind == "literal_error":
        return _not_one_of(key, problem["input"], str(context["expected"]))
    if kind == "union_tag_invalid":
        return _not_one_of(spot.below("kind"), context["tag"], str(context["expected_tags"]))
    message = _MESSAGES.get(kind) or problem["msg"].removeprefix("Value error, ").replace(" after validation", "")
    message = re.sub(r"^(Input|String|Tuple|List|Dictionary) should ", "must ", message)
    if not spot.path:
        return message
    # A table is too long to be shown, and a value in place of an endpoint may be a key.
    hidden = kind in {"missing", "not_shown"} or isinstance(problem["input"], dict)
    hidden = hidden or (spot.path[0] == "endpoints" and len(spot.path) <= len(("endpoints", "NAME")))
    return f"{key}: {message}" if hidden else f"{key} = {problem['input']!r}: {message}"


def outdated_keys(error: ValidationError, changed: Collection[str]) -> list[str]:
    """Return keys that were valid until one of the `changed` keys put another kind or variant in their place."""
    outdated = [key for problem in error.errors() for key in _outdated(problem, changed)]
    return [key for key in outdated if not any(f"{name}.".startswith(f"{key}.") for name in changed)]


def idle_keys(error: ValidationError) -> list[str]:
    """Return keys without effect."""
    return [
        _locate(problem["loc"]).below(key)
        for problem in error.errors()
        if problem["type"] == "no_effect"
        for key in problem["ctx"]["idle"]
    ]


def _outdated(problem: ErrorDetails, changed: Collection[str]) -> Iterator[str]:
    spot = _locate(problem["loc"])
    if problem["type"] == "no_effect":
        for key, cause in problem["ctx"]["idle"].items():
            if {spot.below(cause), f"{spot.below(cause)}.kind"} & set(changed):
                yield spot.below(key)
    elif problem["type"] == "extra_forbidden" and spot.elsewhere():
        *table, key = spot.path
        if ".".join((*table, "kind")) in changed:
            yield ".".join((*table, key))


def sections(annotation: object) -> tuple[type[Section], ...]:
    """Return the sections that a field may hold: one, or one for each kind."""
    types = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)
    return tuple(section for section in types if isinstance(section, type) and issubclass(section, Section))


def named_by_kind(path: Sequence[str]) -> bool:
    """Return whether a text at this key of the recipe stands for a table of that kind."""
    table: type[Section] = Recipe
    for key in path[:-1]:
        options = sections(table.model_fields[key].annotation) if key in table.model_fields else ()
        if len(options) != 1:
            return False
        table = options[0]
    field = table.model_fields.get(path[-1])
    return field is not None and BY_NAME in field.metadata


def kind_of(section: type[Section]) -> str:
    """Return the value of `kind` for a section."""
    return str(get_args(section.model_fields["kind"].annotation)[0])


def _keys(section: type[Section]) -> list[str]:
    """Return the keys of a section as a recipe has them."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _locate(place: tuple[int | str, ...], table: type[Section] = Recipe) -> _Spot:
    """Follow the location of an error through the types of a table."""
    annotation: object = table
    path: list[str] = []
    kinds: tuple[type[Section], ...] = (table,)
    for part in place:
        options = sections(annotation)
        if annotation is JsonValue:  # part is the type of the value
            annotation = dict[str, JsonValue]
        elif get_origin(annotation) is dict:
            path.append(str(part))
            annotation = get_args(annotation)[1]
        elif len(options) > 1:  # part is the kind
            annotation, kinds = next(section for section in options if kind_of(section) == part), options
        elif options and not str(part).startswith("["):  # as pydantic calls a key, and the recipe one of several types
            path.append(str(part))
            kinds = kinds if options[0] in kinds else options
            table = options[0]
            field = table.model_fields.get(str(part))
            annotation = field.annotation if field else None
        elif not str(part).startswith("["):
            path.append(str(part))
    return _Spot(tuple(path), table, kinds)


def _not_one_of(key: str, value: object, expected: str) -> str:
    near = nearest(str(value), (option.strip("' ") for option in expected.replace(" or ", ",").split(",")))
    return f"{key} = {value!r}: must be {expected}" + (f"; did you mean {near!r}?" if near else "")
