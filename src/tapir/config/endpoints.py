"""Sections of the recipe for language models behind servers: addresses, limits, prices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, JsonValue, field_validator
from pydantic_core import PydanticCustomError

from tapir.config.base import Count, Section, Share, Text, Whole
from tapir.domain.completion import Usage

AUTO: Literal["auto"] = "auto"  # of a setting that the server answers
Money: TypeAlias = Annotated[float, Field(ge=0)]

_SET_ELSEWHERE = {
    "model": "set endpoints.NAME.model",
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), "set max_tokens of the teacher, judge or tagger"),
    "temperature": "set temperature of the teacher, judge or tagger",
    **dict.fromkeys(("messages", "stream", "n"), "every call sets it by itself"),
}
_CREDENTIALS = frozenset({"key", "api_key", "apikey", "token", "access_token", "authorization", "password", "secret"})
_LONGEST_NAME = 60
_LONGEST_MIXED_NAME = 20


class EndpointConfig(Section):
    """A model behind an OpenAI-compatible server."""

    operational: ClassVar[frozenset[str]] = frozenset(
        {
            *("base_url", "key", "concurrency", "requests_per_minute", "tokens_per_minute"),
            *("timeout", "stream", "idle_timeout"),
            *("price_input", "price_cached", "price_output", "batch", "batch_price"),
        }
    )

    base_url: str
    """Address up to and including the version, as in "https://api.openai.com/v1"."""
    model: Text = AUTO
    """Name of the model on the server; "auto": the only one it has."""
    key: str = ""
    """Name of the environment variable that holds the key, never the key itself; empty for a server without keys."""
    json_schema: Literal[True, False, "auto"] = AUTO
    """Whether the server supports a JSON schema for the reply (response_format); "auto" finds out with one call."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the request field for the longest reply."""
    thinking_tokens: Whole = 0
    """Longest thought of a model that thinks, in tokens; added to the longest reply of every role."""
    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """Additional fields of every request, e.g. { reasoning_effort = "low" }."""
    concurrency: Whole = 0
    """Calls at once; 0 adapts it to the server."""
    requests_per_minute: Whole = 0
    """Rate limit of the server in requests; 0 is no limit."""
    tokens_per_minute: Whole = 0
    """Rate limit of the server in tokens; 0 is no limit."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Timeout of one call in seconds."""
    stream: bool = False
    """Read the tokens of a reply as they come, so that a call that hangs is known by its silence."""
    idle_timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds without a byte after which a streamed call is given up."""
    price_input: Money = 0.0
    """Money per million tokens of prompts."""
    price_cached: Money | None = None
    """Money per million cached tokens of prompts; not set means as price_input."""
    price_output: Money = 0.0
    """Money per million tokens of replies."""
    batch: bool = False
    """Use the batch API of the server: cheaper and slower; the run stops and collects the replies later."""
    batch_price: Share = 0.5
    """Share of the price that a call in a batch costs."""

    def idle(self) -> Mapping[str, str]:
        """Without batches there is no price for them, and without streams no silence in them."""
        return ({} if self.batch else {"batch_price": "batch"}) | ({} if self.stream else {"idle_timeout": "stream"})

    @property
    def costs(self) -> bool:
        """Whether any price is set."""
        return bool(self.price_input or self.price_cached or self.price_output)

    def cost(self, usage: Usage, *, batched: bool = False) -> float:
        """Return what a call of this usage costs, in the currency of the prices; less in a batch."""
        return self.price(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, batched=batched)

    def price(self, read: float, cached: float, written: float, *, batched: bool) -> float:
        """Return what so many tokens cost; those read from a cache are among those read."""
        cached_price = self.price_input if self.price_cached is None else self.price_cached
        total = (read - cached) * self.price_input + cached * cached_price + written * self.price_output
        return total / 1_000_000 * (self.batch_price if batched else 1.0)

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
                raise _not_shown(f"{name} is not taken here: {_SET_ELSEWHERE[name]}")
        if _holds_null(value):
            raise _not_shown("null is not taken: a recipe is TOML, which has none")
        return value


class CallsConfig(Section):
    """Budget, ledger and retries of all calls to servers."""

    operational: ClassVar[frozenset[str]] = frozenset({"max_cost", "ledger", "attempts"})

    max_cost: Money = 0.0
    """Stop before more than this is spent, in the currency of the prices; 0 is no limit."""
    ledger: str = ""
    """File that keeps every reply, which several runs may share; empty means one in the run's folder."""
    attempts: Count = 6
    """Largest number of attempts for one call."""


def _is_key(value: str) -> bool:
    """Return whether a text looks like a key and not like the name of a variable or an address."""
    if value.startswith(("http://", "https://")):
        return False
    mixed = any(sign.isdigit() for sign in value) and any(sign.islower() for sign in value)
    return "-" in value or len(value) > (_LONGEST_MIXED_NAME if mixed else _LONGEST_NAME)


def _holds_null(value: JsonValue) -> bool:
    if isinstance(value, dict | list):
        return any(map(_holds_null, value.values() if isinstance(value, dict) else value))
    return value is None


def _not_shown(message: str) -> PydanticCustomError:
    """Return an error whose value stays out of every message."""
    return PydanticCustomError("not_shown", "{problem}", {"problem": message})
