"""The OpenAI-compatible chat protocol: a request as bytes, a reply as a completion."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypedDict

from tapir.domain.completion import Completion, Failure, FinishReason, Token, Usage
from tapir.llm.endpoint import Endpoint

_ALTERNATIVES = 20
_BYTES_PER_TOKEN = 4
_MOST_TOKENS = 1 << 40  # a greater count is none
_SHOWN = 200  # bytes of a reply that nobody can read
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
    """How a reply is drawn.

    A temperature of 1, the protocol's default, is not sent to models that think (max_completion_tokens), because some
    refuse the field; elsewhere it is, because servers may have another default.
    """

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
    if sampling.temperature != 1 or endpoint.max_tokens_field == "max_tokens":
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
        A failure of kind "malformed" if it is no chat completion, "refused" if the model or the server's filter
        did not reply.
    """
    shown = content[:_SHOWN].decode(errors="replace")
    try:
        reply = json.loads(content)
        choice = reply["choices"][0]
        message = choice["message"]
        written, finish = message.get("content"), choice.get("finish_reason") or "stop"
        thought = message.get("reasoning") or message.get("reasoning_content") or ""
        refusal = message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Failure("malformed", f"no chat completion: {shown!r}")
    if not (isinstance(written, str | None) and isinstance(thought, str) and isinstance(finish, str)):
        return Failure("malformed", f"the reply's content is no text: {shown!r}")
    if finish not in _FINISHED:
        return Failure("refused", f"the server ended the reply with {encodable(finish)[:_SHOWN]!r}")
    if written is None and isinstance(refusal, str):
        return Failure("refused", f"the model refused: {encodable(refusal)[:_SHOWN]}")
    if written is None and not thought and finish == "stop":
        return Failure("malformed", f"the reply has no content: {shown!r}")
    text, inline = _without_thought(encodable(written or ""))
    reasoning, tokens, model = encodable(thought) or inline, _tokens(choice.get("logprobs")), reply.get("model")
    return Completion(
        text=text,
        finish_reason=_FINISHED[finish],
        usage=_counted(reply.get("usage")) or _estimated(sent, f"{reasoning}{text}", len(tokens)),
        model=encodable(model) if isinstance(model, str) else "",
        reasoning=reasoning,
        tokens=_spelling(tokens, text),
    )


def encodable(text: str) -> str:
    """Without lone surrogates, which JSON may carry and no file can."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _without_thought(text: str) -> tuple[str, str]:
    """The reply and the reasoning that some servers leave inside it, at times without its opening tag."""
    begin, end = _THOUGHT
    thought, closed, rest = text.partition(end)
    if thought.lstrip().startswith(begin):
        thought = thought.lstrip().removeprefix(begin)
        return (rest.lstrip(), thought.strip()) if closed else ("", thought.strip())
    if closed and begin not in thought:
        return rest.lstrip(), thought.strip()
    return text, ""


def _counted(usage: Any) -> Usage | None:
    """The server's count of tokens, if it is one."""
    try:
        details = usage.get("prompt_tokens_details") or {}
        counts = [int(usage["prompt_tokens"]), int(usage["completion_tokens"]), int(details.get("cached_tokens") or 0)]
    except (TypeError, LookupError, AttributeError, ValueError, OverflowError):
        return None
    if min(counts) < 0 or max(counts) > _MOST_TOKENS:
        return None
    prompt, completion, cached = counts
    return Usage(prompt, completion, min(cached, prompt))


def _estimated(sent: bytes, written: str, tokens: int) -> Usage:
    """Tokens by the length of the texts, and no more of them than were asked for."""
    asked = json.loads(sent)
    most = asked.get("max_completion_tokens") or asked.get("max_tokens") or _MOST_TOKENS
    return Usage(len(sent) // _BYTES_PER_TOKEN, min(tokens or len(written.encode()) // _BYTES_PER_TOKEN, most))


def _tokens(logprobs: Any) -> tuple[Token, ...]:
    try:
        return tuple(
            Token(
                encodable(str(one["token"])),
                tuple((encodable(str(other["token"])), float(other["logprob"])) for other in one["top_logprobs"]),
            )
            for one in logprobs["content"]
        )
    except (TypeError, LookupError, ValueError, OverflowError, RecursionError):
        return ()


def _spelling(tokens: Sequence[Token], text: str) -> tuple[Token, ...]:
    """The tokens that spell the text; all of them where no run of whole tokens does.

    vLLM also lists the token that ends the reply, and those of the reasoning before it.
    """
    bounds = [0, *accumulate(len(token.text) for token in tokens)]
    start = "".join(token.text for token in tokens).rfind(text)
    first, last = bisect_left(bounds, start), bisect_left(bounds, start + len(text))
    whole = start >= 0 and bounds[first] == start and bounds[last] == start + len(text)
    return tuple(tokens[first:last] if whole else tokens)


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
