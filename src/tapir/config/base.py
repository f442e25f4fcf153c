"""Base classes of the recipe's sections.

The line under a field is its help. Defaults live here and in the recipe, and nowhere else.
"""

from __future__ import annotations

import difflib
import inspect
import json
import pkgutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    Tag,
    WithJsonSchema,
    WrapValidator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tapir.domain.errors import RecipeError

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Count: TypeAlias = Annotated[int, Field(ge=1, strict=True)]
CountOrCounts: TypeAlias = Annotated[
    Annotated[Count, Tag("[one]")] | Annotated[tuple[Count, ...], Tag("[several]")],
    Discriminator(lambda value: "[several]" if isinstance(value, list | tuple) else "[one]"),
]
Whole: TypeAlias = Annotated[int, Field(ge=0, strict=True)]
Temperature: TypeAlias = Annotated[float, Field(ge=0, le=2)]
_OFF = {"anyOf": [{"const": False}, {"type": "number", "minimum": 0, "maximum": 2}]}
SentTemperature: TypeAlias = Annotated[
    Temperature,
    WrapValidator(lambda value, check: value if value is False else check(value)),
    PlainSerializer(lambda value: value),
    WithJsonSchema(_OFF),
]
"""Of a request to a server; False sends none, for models that take none."""
Text: TypeAlias = Annotated[str, Field(min_length=1)]
Endpoints: TypeAlias = Annotated[tuple[str, ...], Field(min_length=1)]


class Section(BaseModel):
    """A table of the recipe; an unknown key is an error, and so is a key without effect."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # a key pasted where its name belongs must not reach a log
        serialize_by_alias=True,
    )

    implementation: ClassVar[str] = ""
    """Class that implements the section, as "module:Class"; its `build(section, context)` makes one."""

    operational: ClassVar[frozenset[str]] = frozenset()
    """Keys that change at most the last bits of what is computed: a run may go on with others."""

    def load(self) -> Any:
        """Import the class that implements the section."""
        return pkgutil.resolve_name(self.implementation)

    def idle(self) -> Mapping[str, str]:
        """Return the keys without effect here, each with the key of this section that makes it so."""
        return {}

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Section:
        clash = {key: cause for key, cause in self.idle().items() if key in self.model_fields_set}
        if clash:
            problems = [
                f"{' and '.join(keys)} {'has' if len(keys) == 1 else 'have'} no effect with"
                f" {cause} = {json.dumps(getattr(value, 'kind', value))}: remove {' and '.join(keys)}"
                for cause in sorted(set(clash.values()))
                for keys, value in [(sorted(key for key in clash if clash[key] == cause), getattr(self, cause))]
            ]
            raise PydanticCustomError("no_effect", "{problem}", {"problem": "; ".join(problems), "idle": clash})
        return self

    @model_serializer(mode="wrap")
    def _without_idle(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key not in self.idle()}


class CustomConfig(Section):
    """A class of the user's own in a role of the run."""

    place: ClassVar[str] = ""
    """Key of the section in a recipe, for messages."""
    role: ClassVar[type] = object
    """Protocol of `tapir.domain.roles` whose members the class must have."""

    kind: Literal["custom"]
    class_: Annotated[str, Field(alias="class", pattern=r"^[\w.]+:[\w.]+$")]
    """The class as "package.module:Class"; the package is installed or on PYTHONPATH."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Passed to `Class.build(section, context)` with the section, or to `Class(**options)` if it has no `build`."""

    def load(self) -> Any:
        """Import the class."""
        try:
            return pkgutil.resolve_name(self.class_)
        except (ImportError, AttributeError, ValueError) as error:
            raise RecipeError(
                f"{self.place}.class = {self.class_!r} cannot be imported: {error}",
                remedy='Write "package.module:Class", and install the package or put its folder on PYTHONPATH.',
            ) from error

    def build(self, context: object) -> Any:
        """Return an instance of the class that has every member its role needs."""
        implementation = self.load()
        make = getattr(implementation, "build", None)
        try:
            instance = make(self, context) if callable(make) else implementation(**self.options)
        except TypeError as error:
            raise RecipeError(
                f"{self.place}.class = {self.class_!r} cannot be built with options = {self.options}: {error}",
                remedy=f"Fix {self.place}.options, or give the class a build(section, context).",
            ) from error
        needed = [name for name in vars(self.role) | inspect.get_annotations(self.role) if not name.startswith("_")]
        missing = [name for name in needed if not hasattr(instance, name)]
        if missing:
            raise RecipeError(
                f"{self.place}.class = {self.class_!r} lacks {', '.join(missing)}",
                remedy=f"Add what tapir.domain.roles.{self.role.__name__} has: {', '.join(needed)}.",
            )
        return instance


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the most similar of the known names; "" where none is similar."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), "")


def suggestion(name: str, known: Collection[str], otherwise: str = "") -> str:
    """Return which of the known names may be meant: the nearest, or `otherwise`, by default all of them."""
    near = nearest(name, known)
    return f"did you mean {near}?" if near else otherwise or f"there are {', '.join(known)}"


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys with their values, however the tables were written: curriculum.size = 5, or size in a table."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


BY_NAME = BeforeValidator(lambda value: {"kind": value} if isinstance(value, str) else value)
"""Reads a text as a table of this kind without keys."""


def kind_or(kind: str) -> BeforeValidator:
    """Return a validator that reads a table without a kind as this one."""
    return BeforeValidator(lambda value: {"kind": kind, **value} if isinstance(value, dict) else value)
