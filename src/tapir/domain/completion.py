"""What a model gives back for one request: a completion, or a failure as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written for one completion."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished reply; `finish_reason` is "length" where the model was cut off."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    model: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Trouble with one item: it travels in the same stream as the good replies."""

    kind: str
    message: str
    attempts: int = 1
