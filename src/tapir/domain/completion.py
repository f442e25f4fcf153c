"""What a model gives back for one request: a completion, or a failure as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written for one completion; `cached_tokens` is the part of the prompt read from a cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a reply and what might have stood in its place.

    Attributes:
        alternatives: (text, natural logarithm of its probability), most probable first; the token itself
            is among them.
    """

    text: str
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished reply; `finish_reason` is "length" where the model was cut off.

    Attributes:
        reasoning: what the model thought before it answered, where the server tells it apart.
        tokens: the reply token by token, where log-probabilities were asked for.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    model: str
    reasoning: str = ""
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Trouble with one item: it travels in the same stream as the good replies."""

    kind: str
    message: str
    attempts: int = 1


def usable(reply: Completion | Failure) -> tuple[str | None, str | None]:
    """The text of a reply, or why it cannot be used: a cut or empty text is never taken for an answer."""
    if isinstance(reply, Failure):
        return None, f"{reply.kind}: {reply.message}"
    if reply.finish_reason == "length":
        return None, f"length: cut off after {reply.usage.completion_tokens} tokens"
    if not reply.text.strip():
        return None, "empty: the reply has no text"
    return reply.text, None
