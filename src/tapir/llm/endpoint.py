"""One model behind an OpenAI-compatible server: where it is, what it takes, what it costs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tapir.domain.completion import Usage
from tapir.errors import RoleError

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Money per million tokens; `cached` is the price of prompt tokens that the server had in its cache."""

    input: float = 0.0
    cached: float = 0.0
    output: float = 0.0

    def of(self, usage: Usage) -> float:
        """What one call cost."""
        fresh = usage.prompt_tokens - usage.cached_tokens
        return (
            fresh * self.input + usage.cached_tokens * self.cached + usage.completion_tokens * self.output
        ) / _MILLION


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model and how to call it.

    Attributes:
        name: what the recipe calls it.
        base_url: up to and including the version, e.g. "https://api.openai.com/v1".
        key_name: environment variable that holds the key; empty for a server that wants none.
        json_schema: whether the server takes a JSON schema for the reply.
        extra: more fields of the request body.
        concurrency: calls at once, at most; 0 finds it while working.
        requests_per_minute: 0 where it is not known.
        tokens_per_minute: 0 where it is not known.
        timeout: seconds for one call, at most.
        batch: whether calls go through the server's batch interface.
        batch_price: share of the price that a call in a batch costs.
    """

    name: str
    base_url: str
    model: str
    key_name: str = ""
    json_schema: bool = False
    max_tokens_field: str = "max_tokens"
    extra: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    timeout: float = 300.0
    price: Price = Price()
    batch: bool = False
    batch_price: float = 0.5

    def key(self) -> str:
        """The key, read from the environment at every start and kept nowhere else.

        Raises:
            RoleError: the variable is not set, or holds something no HTTP header can carry.
        """
        if not self.key_name:
            return ""
        value = os.environ.get(self.key_name, "").strip()
        if not value:
            raise RoleError(
                f"endpoints.{self.name}: the environment variable {self.key_name} is not set",
                remedy=f"export {self.key_name}=... (the key of {self.base_url}), then run the same command again.",
            )
        if not (value.isascii() and value.isprintable()):
            raise RoleError(
                f"endpoints.{self.name}: the key in {self.key_name} holds a line break or a character that no key has",
                remedy="Copy the key again; its value is not shown here.",
            )
        return value

    def cost(self, usage: Usage) -> float:
        """What one call cost, in the currency of the recipe's prices."""
        return self.price.of(usage) * (self.batch_price if self.batch else 1.0)
