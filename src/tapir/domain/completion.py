"""Replies of models: completions, failures as values, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from operator import add
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written for one completion; `cached_tokens` is the part of the prompt read from a cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*map(add, astuple(self), astuple(other)))


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a reply; the alternatives, itself among them, are (text, log-probability), most probable first."""

    text: str
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished reply; `finish_reason` is "length" where the model was cut off.

    Attributes:
        reasoning: the thought before the answer, where the server returns it apart.
        tokens: of the reply, where log-probabilities were requested.
        unknown_finish: the server's word for the end, where it is none that is known; it is taken for a stop.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    model: str
    reasoning: str = ""
    tokens: tuple[Token, ...] = ()
    unknown_finish: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error with one item, as a value in the same stream as the replies; `usage` where the server billed it."""

    kind: str
    message: str
    attempts: int = 1
    usage: Usage | None = None


def nothing_special(text: str) -> str:  # noqa: ARG001
    """Return that no special token is written out in a text: what is assumed of a student without a tokenizer."""
    return ""


def text_or_failure(reply: Completion | Failure) -> str | Failure:
    """Return the text of a reply; a failed call, a cut reply and an empty one are failures."""
    if isinstance(reply, Failure):
        return reply
    if reply.finish_reason == "length":
        return Failure("length", f"cut off after {reply.usage.completion_tokens} tokens")
    return reply.text if reply.text.strip() else Failure("empty", "the reply has no text")


def usable(
    reply: Completion | Failure, special: Callable[[str], str] = nothing_special
) -> tuple[str | None, str | None]:
    """Return (text, None), or (None, reason) for a failed, cut or empty reply, or one with a `special` token in it."""
    text = text_or_failure(reply)
    if isinstance(text, Failure):
        return None, f"{text.kind}: {text.message}"
    if token := special(text):
        return None, f"special token: {token} is written out in the reply"
    return text, None


@dataclass(frozen=True, slots=True)
class Spending:
    """Calls, tokens and money for one task ("" unknown) in one stage of one round; without prices the cost is 0."""

    round: int
    stage: str
    task: str
    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # part of the prompt's
    completion_tokens: int = 0
    cost: float = 0.0
    possible_calls: int = 0  # that ended without a reply and may have been billed all the same
    possible_cost: float = 0.0  # at most
