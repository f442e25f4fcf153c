"""A recipe as commented TOML: every key, its value here, and its help above it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import BaseModel

from tapir.recipe import Recipe


def as_toml(recipe: Recipe) -> str:
    """Text that `tapir.recipe.load` reads back to the same recipe."""
    return "\n".join(_lines(recipe, "")).lstrip("\n") + "\n"


def _lines(section: BaseModel, prefix: str) -> Iterator[str]:
    """The section's own keys first, then its tables."""
    fields = type(section).model_fields
    hidden = _without_effect(section)
    for name, field in fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel) or name in hidden:
            continue
        if field.description:
            yield f"# {' '.join(field.description.split())}"
        yield f"{name} = {_value(value)}"
    for name, field in fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel) and name not in hidden:
            yield ""
            if field.description:
                yield f"# {' '.join(field.description.split())}"
            yield f"[{prefix}{name}]"
            yield from _lines(value, f"{prefix}{name}.")


def _without_effect(section: BaseModel) -> set[str]:
    """Keys that the recipe would refuse because another key leaves them without effect."""
    hidden = set()
    if getattr(section, "variant", None) == "single-round":
        hidden |= {"rounds", "schedule"}
    if getattr(section, "shares", None) == "fixed":
        hidden.add("minimum")
    return hidden


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
