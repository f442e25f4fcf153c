"""The OpenAI-compatible chat protocol: a request as bytes, a reply as a completion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from tapir.domain.completion import Completion, Failure, FinishReason, Token, Usage
from tapir.llm.endpoint import Endpoint

_ALTERNATIVES = 20
_BYTES_PER_TOKEN = 4
_FINISHED: Mapping[str, FinishReason] = {"stop": "stop", "eos": "stop", "length": "length"}
_THOUGHT = ("<think>", "</think>")


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Schema:
    """The JSON schema a reply must fit, with its name."""

    name: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is drawn. A temperature of 1 is the protocol's default and is not sent."""

    temperature: float
    max_tokens: int
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a model.

    Attributes:
        sample: 0 for the first reply to this prompt, 1 for the next, ...; different samples are different calls.
        task: task of the instruction it is about, for the account; empty where none is known.
    """

    messages: Sequence[Message]
    sampling: Sampling
    schema: Schema | None = None
    sample: int = 0
    task: str = ""


def body(endpoint: Endpoint, request: Request) -> bytes:
    """The request as JSON with sorted keys: equal requests are equal bytes."""
    sampling = request.sampling
    content: dict[str, Any] = {
        "model": endpoint.model,
        "messages": request.messages,
        endpoint.max_tokens_field: sampling.max_tokens,
        **endpoint.extra,
    }
    if sampling.temperature != 1:
        content["temperature"] = sampling.temperature
    if sampling.logprobs:
        content |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
    if request.schema and endpoint.json_schema:
        schema = {"name": request.schema.name, "schema": request.schema.content, "strict": True}
        content["response_format"] = {"type": "json_schema", "json_schema": schema}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode(errors="replace")


def digest(sent: bytes, sample: int) -> bytes:
    """What a call is known by, 16 bytes: model, messages, sampling and sample, but not where it was sent."""
    return hashlib.blake2b(sent, digest_size=16, salt=sample.to_bytes(8, "big")).digest()


def read_reply(content: bytes, sent: bytes) -> Completion | Failure:
    """A complete answer of the server as a completion.

    Args:
        content: body of a reply with status 200.
        sent: body of the request, to estimate the tokens where the server does not count them.

    Returns:
        A failure of kind "malformed" if it is no chat completion, "refused" if the server's filter took the
        reply.
    """
    try:
        reply = json.loads(content)
        choice = reply["choices"][0]
        message = choice["message"]
        written, finish = message.get("content"), choice.get("finish_reason") or "stop"
        thought = message.get("reasoning") or message.get("reasoning_content") or ""
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Failure("malformed", f"no chat completion: {content[:200].decode(errors='replace')!r}")
    if not isinstance(written, str | None) or not isinstance(thought, str):
        return Failure("malformed", f"the reply's content is no text: {content[:200].decode(errors='replace')!r}")
    if finish not in _FINISHED:
        return Failure("refused", f"the server ended the reply with {finish!r}")
    text, inline = _without_thought(_encodable(written or ""))
    usage = _usage(reply.get("usage"), sent, content)
    return Completion(
        text=text,
        finish_reason=_FINISHED[finish],
        usage=usage,
        model=str(reply.get("model") or ""),
        reasoning=_encodable(thought) or inline,
        tokens=_tokens(choice.get("logprobs")),
    )


def _encodable(text: str) -> str:
    """Without lone surrogates, which JSON may carry and no file can."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _without_thought(text: str) -> tuple[str, str]:
    """The reply and the reasoning that some servers leave inside it."""
    begin, end = _THOUGHT
    if not text.lstrip().startswith(begin):
        return text, ""
    thought, closed, rest = text.lstrip().removeprefix(begin).partition(end)
    return (rest.lstrip(), thought.strip()) if closed else ("", thought.strip())


def _usage(counted: Any, sent: bytes, content: bytes) -> Usage:
    try:
        details = counted.get("prompt_tokens_details") or {}
        cached = int(details.get("cached_tokens") or 0)
        return Usage(int(counted["prompt_tokens"]), int(counted["completion_tokens"]), cached)
    except (TypeError, KeyError, AttributeError, ValueError):
        return Usage(len(sent) // _BYTES_PER_TOKEN, len(content) // _BYTES_PER_TOKEN)


def _tokens(logprobs: Any) -> tuple[Token, ...]:
    try:
        return tuple(
            Token(
                str(one["token"]),
                tuple((str(other["token"]), float(other["logprob"])) for other in one["top_logprobs"]),
            )
            for one in logprobs["content"]
        )
    except (TypeError, KeyError, ValueError):
        return ()


def pack(completion: Completion) -> bytes:
    """A completion as JSON, for the ledger; `unpack` reads it back."""
    usage = completion.usage
    content: dict[str, Any] = {
        "text": completion.text,
        "finish": completion.finish_reason,
        "model": completion.model,
        "usage": [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens],
    }
    if completion.reasoning:
        content["reasoning"] = completion.reasoning
    if completion.tokens:
        content["tokens"] = [[one.text, one.alternatives] for one in completion.tokens]
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def unpack(packed: bytes) -> Completion:
    """What `pack` wrote."""
    content = json.loads(packed)
    return Completion(
        content["text"],
        content["finish"],
        Usage(*content["usage"]),
        content["model"],
        content.get("reasoning", ""),
        tuple(Token(text, tuple((word, value) for word, value in rest)) for text, rest in content.get("tokens", ())),
    )
