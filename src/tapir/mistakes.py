"""Mistakes in a recipe, in the recipe's words: where, what, and what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Union, get_args, get_origin

from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails

from tapir.recipe import Recipe
from tapir.sections import Section

_PLAINLY = {
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "tuple_type": "must be a list",
    "missing": "is required",
}


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where in the recipe an error is.

    Attributes:
        path: keys from the root, without the kinds that pydantic puts between them.
        table: the section that the last key is in.
        kinds: every section that could stand in its place.
    """

    path: tuple[str, ...]
    table: type[Section]
    kinds: tuple[type[Section], ...]

    @property
    def key(self) -> str:
        """As it is written with --set."""
        return ".".join(self.path)

    def beside(self, name: str) -> str:
        """Another key of the same table."""
        return ".".join((*self.path[:-1], name))

    def below(self, name: str) -> str:
        """A key of the table at this spot."""
        return ".".join((*self.path, name))

    def elsewhere(self) -> list[str]:
        """Kinds of the same section that do have the last key."""
        return [kind_of(one) for one in self.kinds if one is not self.table and self.path[-1] in one.model_fields]


def explain(problem: ErrorDetails) -> str:
    """One line, or one for each thing that does not fit together."""
    spot, kind, context = _locate(problem["loc"]), problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(spot.path[-1], list(spot.table.model_fields), n=1, cutoff=0.5)
        others = " or ".join(map(repr, spot.elsewhere()))
        meant = f"; did you mean {near[0]}?" if near else ""
        return f"{spot.key}: no such key{meant}" + (f"; it belongs to kind = {others}" if others else "")
    if kind == "literal_error":
        return _not_one_of(spot.key, problem["input"], str(context["expected"]))
    if kind == "union_tag_invalid":
        return _not_one_of(spot.below("kind"), context["tag"], str(context["expected_tags"]))
    message = _PLAINLY.get(kind) or problem["msg"].removeprefix("Value error, ").replace(" after validation", "")
    message = re.sub(r"^(Input|String|Tuple|List|Dictionary) should ", "must ", message)
    if not spot.path:
        return message
    shown = f" = {problem['input']!r}" if _may_be_shown(problem, spot) else ""
    return f"{spot.key}{shown}: {message}"


def left_over(error: ValidationError, changed: Collection[str]) -> list[str]:
    """Keys that were right until a change put another kind or variant in the place of theirs.

    Args:
        error: what is wrong with the recipe after the changes.
        changed: dotted keys that were set beside the file; none of these is left over.
    """
    found = [key for problem in error.errors() for key in _outdated(problem, changed)]
    return [key for key in found if not any(f"{name}.".startswith(f"{key}.") for name in changed)]


def idle(error: ValidationError) -> list[str]:
    """Keys that have no effect beside others."""
    found = [(_locate(problem["loc"]), problem) for problem in error.errors() if problem["type"] == "no_effect"]
    return [spot.below(key) for spot, problem in found for key in problem["ctx"]["idle"]]


def _outdated(problem: ErrorDetails, changed: Collection[str]) -> Iterator[str]:
    spot = _locate(problem["loc"])
    if problem["type"] == "no_effect":
        for key, cause in problem["ctx"]["idle"].items():
            if {spot.below(cause), f"{spot.below(cause)}.kind"} & set(changed):
                yield spot.below(key)
    elif problem["type"] == "extra_forbidden" and spot.beside("kind") in changed and spot.elsewhere():
        yield spot.key


def sections(annotation: object) -> tuple[type[Section], ...]:
    """The sections that a field may hold: one, or one for each kind."""
    found = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)
    return tuple(one for one in found if isinstance(one, type) and issubclass(one, Section))


def kind_of(section: type[Section]) -> str:
    """What `kind` says where a table is this section."""
    return str(get_args(section.model_fields["kind"].annotation)[0])


def _locate(place: tuple[int | str, ...]) -> _Spot:
    """Follow an error's place through the recipe's types."""
    found: object = Recipe
    path: list[str] = []
    table: type[Section] = Recipe
    kinds: tuple[type[Section], ...] = (Recipe,)
    for part in place:
        options = sections(found)
        if found is JsonValue:  # part is the type of the value
            found = dict[str, JsonValue]
        elif get_origin(found) is dict:
            path.append(str(part))
            found = get_args(found)[1]
        elif len(options) > 1:  # part is the kind
            found, kinds = next(one for one in options if kind_of(one) == part), options
        elif options and part != "[key]":
            path.append(str(part))
            kinds = kinds if options[0] in kinds else options
            table = options[0]
            field = table.model_fields.get(str(part))
            found = field.annotation if field else None
        elif part != "[key]":
            path.append(str(part))
    return _Spot(tuple(path), table, kinds)


def _not_one_of(key: str, value: object, expected: str) -> str:
    options = [one.strip("' ") for one in expected.replace(" or ", ",").split(",")]
    near = difflib.get_close_matches(str(value), options, n=1)
    return f"{key} = {value!r}: must be {expected}" + (f"; did you mean {near[0]!r}?" if near else "")


def _may_be_shown(problem: ErrorDetails, spot: _Spot) -> bool:
    """A table is too long; what stands where an endpoint belongs may be its key."""
    if problem["type"] in {"missing", "not_shown"} or isinstance(problem["input"], dict):
        return False
    return spot.path[0] != "endpoints" or len(spot.path) > len(("endpoints", "NAME"))
