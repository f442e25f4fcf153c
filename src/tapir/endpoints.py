"""Sections of the recipe about language models behind servers: where they are, and what calls may cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, JsonValue, field_validator
from pydantic_core import PydanticCustomError

from tapir.sections import Count, Section, Share, Text, Whole

Money: TypeAlias = Annotated[float, Field(ge=0)]

_SET_ELSEWHERE = {
    "model": "endpoints.NAME.model",
    "max_tokens": "max_tokens of the teacher, judge or tagger",
    "max_completion_tokens": "max_tokens of the teacher, judge or tagger",
    "temperature": "temperature of the teacher or judge",
}
_NOT_TAKEN = frozenset({"messages", "stream", "n"})
_CREDENTIALS = frozenset({"key", "api_key", "apikey", "token", "access_token", "authorization", "password", "secret"})
_LONGEST_NAME = 60
_LONGEST_MIXED_NAME = 20


class Endpoint(Section):
    """A model behind an OpenAI-compatible server."""

    operational: ClassVar[frozenset[str]] = frozenset(
        {
            "base_url",
            "key",
            "concurrency",
            "requests_per_minute",
            "tokens_per_minute",
            "timeout",
            "price_input",
            "price_cached",
            "price_output",
            "batch",
            "batch_price",
        }
    )
    """Keys that do not change what is computed: a run may go on with others."""

    base_url: str
    """Address up to and including the version, as in "https://api.openai.com/v1"."""
    model: Text
    """What the server calls the model."""
    key: str = ""
    """Name of the environment variable that holds the key, never the key itself; empty for a server without keys."""
    json_schema: bool = False
    """Whether the server takes a JSON schema for the reply (response_format)."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the longest reply."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """More fields for the body of every request, as in { reasoning_effort = "low" }."""
    concurrency: Whole = 0
    """Calls at once; 0 finds it while working."""
    requests_per_minute: Whole = 0
    """The server's limit; 0 where it is not known."""
    tokens_per_minute: Whole = 0
    """The server's limit; 0 where it is not known."""
    timeout: Annotated[float, Field(gt=0)] = 300.0
    """Seconds for one call."""
    price_input: Money = 0.0
    """Money per million tokens of prompts."""
    price_cached: Money | None = None
    """Money per million tokens of prompts that the server had in its cache; not set means as price_input."""
    price_output: Money = 0.0
    """Money per million tokens of replies."""
    batch: bool = False
    """Send calls through the server's batch interface: cheaper and slower, the run stops and collects later."""
    batch_price: Share = 0.5
    """Share of the price that a call in a batch costs."""

    def idle(self) -> Mapping[str, str]:
        """Without batches there is no price for them."""
        return {} if self.batch else {"batch_price": "batch"}

    @property
    def costs(self) -> bool:
        """Whether any price is set."""
        return bool(self.price_input or self.price_cached or self.price_output)

    @field_validator("base_url", mode="before")
    @classmethod
    def _address_without_secrets(cls, value: object) -> str:
        if not isinstance(value, str) or any(sign in value for sign in "@?#") or _is_key(value):
            raise _not_shown(
                'must be an address like "https://api.openai.com/v1", without user, password or anything behind'
                " a ? or # (the value is not shown); the key belongs into an environment variable that `key` names"
            )
        if not re.fullmatch(r"https?://[^\s/]+\S*", value):
            raise ValueError('must start with http:// or https://, as in "https://api.openai.com/v1"')
        return value.rstrip("/")

    @field_validator("key", mode="before")
    @classmethod
    def _name_of_a_variable(cls, value: object) -> str:
        if not isinstance(value, str) or _is_key(value):
            raise _not_shown(
                "looks like a key itself, so it is not shown; put the key into an environment variable"
                ' and write that variable\'s name here, as in key = "OPENAI_API_KEY"'
            )
        if value and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value, re.ASCII):
            raise _not_shown(
                "must be the name of an environment variable (letters, digits and _; the value is not shown),"
                ' as in key = "OPENAI_API_KEY"'
            )
        return value

    @field_validator("extra", mode="after")
    @classmethod
    def _adds_to_the_request(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in value:
            if name.lower().replace("-", "_") in _CREDENTIALS:
                raise _not_shown(f"{name} is not taken: the key comes from the environment variable that `key` names")
            if name in _SET_ELSEWHERE:
                raise _not_shown(f"{name} is not taken here: set {_SET_ELSEWHERE[name]}")
            if name in _NOT_TAKEN:
                raise _not_shown(f"{name} is not taken: every call sets it by itself")
        if _holds_null(value):
            raise _not_shown("null is not taken: a recipe is TOML, which has none")
        return value


class Calls(Section):
    """What is true of all calls to servers together."""

    operational: ClassVar[frozenset[str]] = frozenset({"max_cost", "ledger", "attempts"})
    """Keys that do not change what is computed: a run may go on with others."""

    max_cost: Money = 0.0
    """Stop before more than this is spent, in the currency of the prices; 0 is no limit."""
    ledger: str = ""
    """File that remembers every reply, which several runs may share; empty means one in the run's folder."""
    attempts: Count = 6
    """How often one call is tried."""


def _is_key(value: str) -> bool:
    """Whether a text looks like a key and not like the name of a variable or an address."""
    if value.startswith(("http://", "https://")):
        return False
    mixed = any(sign.isdigit() for sign in value) and any(sign.islower() for sign in value)
    return (
        value.startswith("sk-")
        or "-" in value
        or len(value) > _LONGEST_NAME
        or (mixed and len(value) > _LONGEST_MIXED_NAME)
    )


def _holds_null(value: JsonValue) -> bool:
    if isinstance(value, dict):
        return any(_holds_null(one) for one in value.values())
    if isinstance(value, list):
        return any(_holds_null(one) for one in value)
    return value is None


def _not_shown(message: str) -> PydanticCustomError:
    """An error whose value stays out of every message."""
    return PydanticCustomError("not_shown", "{problem}", {"problem": message})
