"""Replies of models: completions, failures as values, and what they cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from operator import add
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length"]

THOUGHTS = {
    "<think>": "</think>",  # DeepSeek, Qwen, GLM, Kimi K2, MiniMax M2, Nemotron, OLMo, ...
    "[THINK]": "[/THINK]",  # Mistral
    "<thinking>": "</thinking>",  # Claude, where it is asked to
    "<thought>": "</thought>",  # EXAONE Deep, Gemini
    "<seed:think>": "</seed:think>",  # Seed-OSS
    "<mm:think>": "</mm:think>",  # MiniMax M3
    "\u25c1think\u25b7": "\u25c1/think\u25b7",  # Kimi-VL, Kimi-Dev
    "<|channel>thought": "<channel|>",  # Gemma 4
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A
    "<|inner_prefix|>": "<|inner_suffix|>",  # Apertus
    "<|begin_of_thought|>": "<|end_of_thought|>",  # OpenThoughts, Sky-T1
}
"""The marks between which models write what they think before they answer; in any case, also with a space before >."""


def _mark(written: str) -> str:
    """Return the pattern of a mark."""
    return re.escape(written).replace(">", r"\s*>")


_THOUGHTS = {
    mark: (re.compile(_mark(mark), re.IGNORECASE), re.compile(_mark(end), re.IGNORECASE))
    for mark, end in THOUGHTS.items()
}
_MAY_BEGIN = re.compile(rf"\s*[{re.escape(''.join({mark[0] for mark in THOUGHTS}))}]")
_ANSWER = re.compile(  # what some models put around the answer
    r"\A\s*<\|(?:begin_of_solution|START_RESPONSE)\|>[\r\n]*(.*?)\s*(?:<\|(?:end_of_solution|END_RESPONSE)\|>\s*)?\Z",
    re.DOTALL,
)
_CHANNEL = (  # of harmony; a form such as JSON may stand behind its name
    r"(?:<\|(?:end|return)\|>)?(?:<\|start\|>assistant)?<\|channel\|>{}\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
)
_BEFORE, _FINAL = re.compile(_CHANNEL.format("(?:analysis|commentary)")), re.compile(_CHANNEL.format("final"))
_UNMARKED = re.compile(r"analysis(?=[A-Z]).*assistantfinal", re.DOTALL)  # harmony without its special tokens
_CLOSING = "|".join(map(_mark, THOUGHTS.values()))
_LAST_SIGNS = {mark[-1] for mark in THOUGHTS.values()}
_END = re.compile(rf"^\s*(?:{_CLOSING})\s*$|(?<=[.!?\u3002])(?:{_CLOSING})", re.MULTILINE | re.IGNORECASE)
_CONTROL = re.compile(
    r"(?:<\|(?:im_(?:start|end)|eot_id|eom_id|end_of_text|endoftext|end|return|start|channel|message|user|assistant)\|>"
    r"|<(?:start|end)_of_turn>|<turn\|>|<\uff5cend\u2581of\u2581sentence\uff5c>|</s>)\s*\Z"
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
        reasoning: the thought before the answer; the mark of one where the server counts it and does not show it.
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
    if not (begun or _MAY_BEGIN.match(text)):
        return "", text
    start = text.lstrip()
    for mark, (opening, closing) in _THOUGHTS.items():
        begins = opening.match(start)
        if begins or begun == mark:
            said = start[begins.end() :] if begins else start
            end = closing.search(said)
            thought, answer = (said[: end.start()], said[end.end() :].lstrip("\r\n")) if end else (said, "")
            return thought.strip() or ("" if end else mark), _ANSWER.sub(r"\1", answer)
    if begins := _BEFORE.match(start):
        end = _FINAL.search(start)
        thought = _CONTROL.sub("", _BEFORE.sub("\n", start[: end.start() if end else None]))
        return thought.strip() or ("" if end else begins[0]), _CONTROL.sub("", start[end.end() :] if end else "")
    final = _FINAL.match(start)
    return "", _CONTROL.sub("", start[final.end() :]) if final else _ANSWER.sub(r"\1", text)


def after_thought(thought: str, answer: str, mark: str = "<think>") -> str:
    """Return an answer as text with the thought before it, between marks; without a thought the answer alone."""
    return f"{mark}\n{thought}\n{THOUGHTS[mark]}\n\n{answer}" if thought else answer


def unparted(text: str, thought: str = "") -> str:
    """Return what shows that a text has a thought in it which cannot be parted, or another after `thought`; else ""."""
    if thought and not part_thought(text)[0]:
        return ""
    if _UNMARKED.match(text):
        return "the channels of the reply are not parted"
    end = _END.search(text) if any(sign in text for sign in _LAST_SIGNS) else None
    if end and not any(begins.search(text[: end.start()].strip(), 1) for begins, _ in _THOUGHTS.values()):
        return f"{end[0].strip()} ends a thought that has no beginning"
    return ""


def misread(reply: Completion) -> str:
    """Return what of a reply shows that its server or tokenizer misread its own model; empty for nothing."""
    if fault := unparted(reply.text, reply.reasoning):
        return f"{fault}: start the server with its reasoning parser"
    control = _CONTROL.search(reply.text)
    if control and not (control[0].strip() == "</s>" and "<s>" in reply.text):  # which is HTML too
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
    if fault := misread(reply):
        return Failure("control token", fault)
    if reply.finish_reason == "length":
        return Failure("length", f"cut off after {reply.usage.completion_tokens} tokens")
    return reply.text if reply.text.strip() else Failure("empty", "the reply has no text")


def still_thinking(reply: Completion) -> Failure:
    """Return the failure of a reply that is all thought."""
    tokens = f" of {reply.usage.completion_tokens} tokens" if reply.usage.completion_tokens else ""
    remedy = "raise thinking_tokens, or let the model think less (reasoning_effort, enable_thinking)"
    return Failure("still thinking", f"no answer after a thought{tokens}: {remedy}", usage=reply.usage)


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
