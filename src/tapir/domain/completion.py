"""Replies of models: completions, failures as values, and what they cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from operator import add
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length"]

THOUGHTS = {"<think>": "</think>", "[THINK]": "[/THINK]", "<thinking>": "</thinking>"}
"""The marks between which models write what they think before they answer."""

_CHANNEL = (  # of harmony; a form such as JSON may stand behind its name
    r"(?:<\|(?:end|return)\|>)?(?:<\|start\|>assistant)?<\|channel\|>{}\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
)
_BEFORE, _FINAL = re.compile(_CHANNEL.format("(?:analysis|commentary)")), re.compile(_CHANNEL.format("final"))
_UNMARKED = re.compile(r"analysis(?=[A-Z]).*assistantfinal", re.DOTALL)  # harmony without its special tokens
_CLOSING = "|".join(map(re.escape, THOUGHTS.values()))
_END = re.compile(rf"^\s*(?:{_CLOSING})\s*$|(?<=[.!?\u3002])(?:{_CLOSING})", re.MULTILINE)
_CONTROL = re.compile(
    r"(?:<\|(?:im_(?:start|end)|eot_id|eom_id|end_of_text|endoftext|end|return|start|channel|message|user|assistant)\|>"
    r"|<(?:start|end)_of_turn>|<\uff5cend\u2581of\u2581sentence\uff5c>|</s>)\s*\Z"
)


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
        reasoning: the thought before the answer.
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

    @property
    def all_thought(self) -> bool:
        """Whether there is a thought and no answer after it."""
        return bool(self.reasoning) and not self.text.strip()

    def parted(self, begun: str = "") -> Completion:
        """Return the reply with a thought at its beginning in `reasoning`; one that came apart stays as it is.

        `begun` is the mark of a thought with which the prompt ended already. What follows the thought is the answer.
        """
        thought, answer = ("", self.text) if self.reasoning else part_thought(self.text, begun)
        return replace(self, text=answer, reasoning=thought) if thought or answer != self.text else self


@dataclass(frozen=True, slots=True)
class Failure:
    """An error with one item, as a value in the same stream as the replies; `usage` where the server billed it."""

    kind: str
    message: str
    attempts: int = 1
    usage: Usage | None = None


def part_thought(text: str, begun: str = "") -> tuple[str, str]:
    """Return the thought that a reply begins with, and what follows; a thought that never ends leaves nothing.

    One that never ends and is empty is the mark that begins it.
    """
    start = text.lstrip()
    for opening, closing in THOUGHTS.items():
        if start.startswith(opening) or begun == opening:
            thought, ended, answer = start.removeprefix(opening).partition(closing)
            return thought.strip() or ("" if ended else opening), answer.lstrip("\r\n")
    if begins := _BEFORE.match(start):
        end = _FINAL.search(start)
        thought = _CONTROL.sub("", _BEFORE.sub("\n", start[: end.start() if end else None]))
        return thought.strip() or ("" if end else begins[0]), _CONTROL.sub("", start[end.end() :] if end else "")
    final = _FINAL.match(start)
    return "", _CONTROL.sub("", start[final.end() :]) if final else text


def after_thought(thought: str, answer: str, mark: str = "<think>") -> str:
    """Return an answer as text with the thought before it, between marks; without a thought the answer alone."""
    return f"{mark}\n{thought}\n{THOUGHTS[mark]}\n\n{answer}" if thought else answer


def misread(text: str) -> str:
    """Return what of a reply shows that its server or tokenizer misread its own model; empty for nothing."""
    if (end := _END.search(text)) and max(map(text[: end.start()].strip().find, THOUGHTS)) <= 0:
        return f"{end[0].strip()} ends a thought that has no beginning: start the server with its reasoning parser"
    if _UNMARKED.match(text):
        return "the channels of the reply are not parted: start the server with its reasoning parser"
    control = _CONTROL.search(text)
    if control and not (control[0].strip() == "</s>" and "<s>" in text):  # which is HTML too
        return f"the control token {control[0].strip()} ends the text: check the server's chat template and stop tokens"
    return ""


def always_fit(text: str) -> str:  # noqa: ARG001
    """Return that nothing speaks against training on a text."""
    return ""


def text_or_failure(reply: Completion | Failure) -> str | Failure:
    """Return the text of a reply; a failed call, a cut reply and one without an answer are failures."""
    if isinstance(reply, Failure):
        return reply
    if reply.all_thought:
        return still_thinking(reply)
    if fault := misread(reply.text):
        return Failure("control token", fault)
    if reply.finish_reason == "length":
        return Failure("length", f"cut off after {reply.usage.completion_tokens} tokens")
    return reply.text if reply.text.strip() else Failure("empty", "the reply has no text")


def still_thinking(reply: Completion) -> Failure:
    """Return the failure of a reply that is all thought."""
    tokens = reply.usage.completion_tokens
    remedy = "raise thinking_tokens, or let the model think less (reasoning_effort, enable_thinking)"
    return Failure("still thinking", f"no answer after a thought of {tokens} tokens: {remedy}", usage=reply.usage)


def usable(reply: Completion | Failure, unfit: Callable[[str], str] = always_fit) -> tuple[str | None, str | None]:
    """Return (text, None), or (None, reason) for a failed, cut or empty reply, or one that is `unfit` for training."""
    text = text_or_failure(reply)
    if isinstance(text, Failure):
        return None, f"{text.kind}: {text.message}"
    if reason := unfit(text):
        return None, reason
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
