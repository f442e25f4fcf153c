"""OpenAI-compatible chat protocol: request bodies and replies."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias

from tapir.config.endpoints import EndpointConfig
from tapir.domain.completion import Completion, Failure, Token, Usage, part_thought
from tapir.models.api.usage import billed_usage, read_usage, tells_thought

Message: TypeAlias = dict[str, str]
"""One turn of a chat, its role and its content."""

ROOM_FOR_THOUGHT = 4096
"""Tokens that a second call has on top where all of the first reply was thought."""

_ALTERNATIVES = 20
_SHOWN = 200  # bytes of a reply that nobody can read
THOUGHT = re.compile(r"(?:reasoning|thinking|thoughts?)(?:_(?:content|text|details|blocks))?")
"""Names of the members of a message that hold its thought apart."""

_HIDDEN = "<think>"  # in place of a thought that the server counts and does not show
_UNFINISHED = re.compile(rb"could not finish the message because max_tokens", re.IGNORECASE)
_HOLDERS = ("thinking", "text", "reasoning", "content", "summary")  # of a thought's text in an object
_ENDS = {
    "refused": re.compile(r"filter|safety|recitation|refus|block|prohibited|spii|sensitive|guardrail|toxic|violat"),
    "failed": re.compile(r"error|abort|cancel|timeout|timed_out|fail|overload|insufficient|crash|unload"),
    "length": re.compile(r"length|max|limit|exceed|truncat"),
    "stop": re.compile(r"^(?:(?:stop|eos|end)(?:_?(?:token|turn|sequence|found))?|completed?|finished|done)$"),
}
"""What a finish reason means, by words in it: the first of these that is found."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The JSON schema a reply must fit, with its name."""

    name: str
    content: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, **properties: Any) -> Schema:
        """Return the schema of an object with just these properties."""
        content = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
        return cls(name, content)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is sampled; a seed is sent where there is one.

    A temperature of 1, the protocol's default, is not sent to reasoning models (max_completion_tokens), because some
    refuse the field; elsewhere it is, because servers may have another default. False is never sent.
    """

    temperature: float
    max_tokens: int
    logprobs: bool = False
    seed: int | None = None
    thinking_tokens: int = 0  # on top of those of the endpoint


@dataclass(frozen=True, slots=True)
class Request:
    """A chat completion to be requested; the `task` of its instruction is for the costs, "" where none is known."""

    messages: Sequence[Message]
    sampling: Sampling
    schema: Schema | None = None
    sample: int = 0  # 1 for the second reply to this prompt, ...; different samples are different calls
    task: str = ""


def body(endpoint: EndpointConfig, request: Request) -> bytes:
    """Return the request as JSON with sorted keys: equal requests are equal bytes."""
    sampling = request.sampling
    content: dict[str, Any] = {
        "model": endpoint.model,
        "messages": request.messages,
        endpoint.max_tokens_field: sampling.max_tokens + endpoint.thinking_tokens + sampling.thinking_tokens,
        **endpoint.extra,
    }
    if sampling.temperature is not False and (sampling.temperature != 1 or endpoint.max_tokens_field == "max_tokens"):
        content["temperature"] = sampling.temperature
    if sampling.seed is not None:
        content["seed"] = sampling.seed
    if sampling.logprobs:
        content |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
    if request.schema and endpoint.json_schema:
        schema = {"name": request.schema.name, "schema": request.schema.content, "strict": True}
        content["response_format"] = {"type": "json_schema", "json_schema": schema}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode(errors="replace")


def digest(sent: bytes, sample: int) -> bytes:
    """Return the key of a call, 16 bytes: of model, messages, sampling and sample, but not of where it is sent."""
    return hashlib.blake2b(sent, digest_size=16, salt=sample.to_bytes(8, "big")).digest()


def json_or_none(text: str | bytes, **how: Any) -> Any:
    """Return what JSON that somebody else wrote says; None where it is not valid or nested too deep."""
    try:
        text = text if isinstance(text, str) else text.decode(json.detect_encoding(text), "replace")
        return json.loads(text, **how)
    except (ValueError, RecursionError):
        return None


def read_reply(content: bytes, sent: bytes) -> Completion | Failure:
    """Read the content of a response as a completion; so is an error that says that all of it was thought.

    A failure holds the usage that the server billed, None where the content tells nothing about it. It is of kind
    "malformed" if the content is no completion, "refused" if the model or a filter did not reply, "server" if the
    server says that it failed on the way. The body of the request that was `sent` serves to estimate the tokens where
    the server does not count them.
    """
    reply = json_or_none(content)
    try:
        return _read_completion(reply, sent)
    except (LookupError, TypeError, AttributeError, RecursionError):
        if _UNFINISHED.search(content):
            return Completion("", "length", billed_usage(reply, sent, "", 0, cut=True), "", _HIDDEN)
        shown = content[:_SHOWN].decode(errors="replace")
        return Failure("malformed", f"no chat completion: {shown!r}", usage=read_usage(reply))


def _read_completion(reply: Any, sent: bytes) -> Completion | Failure:
    choice = reply if "done" in reply and not reply.get("choices") else reply["choices"][0]
    message = choice.get("message") or {"content": choice.get("text")}
    answer, thought = read_content(message.get("content"))
    named = (read_thought(one) for name, one in message.items() if THOUGHT.fullmatch(name))
    thought, finish = next((one for one in (thought, *named) if one.strip()), ""), read_finish(choice)
    error = finish in {"", "error"} and (choice.get("error") or reply.get("error"))
    ended = finish or (read_usage(reply) or Usage()).completion_tokens
    finish = f"error: {json.dumps(error)}" if error else finish or "stop"
    reasoning, text = (encodable(thought), encodable(answer)) if thought else part_thought(encodable(answer))
    tokens, model = _read_tokens(choice.get("logprobs")), reply.get("model")
    known = "failed" if error else next((name for name, words in _ENDS.items() if words.search(finish)), "")
    without = not answer and not reasoning and (message.get("content") is None or not known or not ended)
    if known in {"failed", "refused"} or (without and known in {"stop", ""}):
        return _read_failure(message, finish, known, billed_usage(reply, sent, f"{reasoning}{text}", len(tokens)))
    if known == "length" and not text.strip() and not reasoning and tells_thought(reply):
        reasoning = _HIDDEN
    return Completion(
        text=text,
        finish_reason="length" if known == "length" else "stop",
        usage=billed_usage(reply, sent, f"{reasoning}{text}", len(tokens), cut=known == "length"),
        model=encodable(model) if isinstance(model, str) else "",
        reasoning=reasoning,
        tokens=_trim_tokens(tokens, text),
        unknown_finish="" if known else finish,
    )


def read_finish(choice: Mapping[str, Any]) -> str:
    """Return a finish reason in lower case, without what some libraries write before it; "" where there is none yet."""
    said = re.sub(r"\A(?:\w+\.)+", "", str(choice.get("finish_reason") or choice.get("done_reason") or "").strip())
    word = said.lower().replace("-", "_").removeprefix("finish_reason_")
    return "" if word in {"null", "none"} else word


def read_content(content: Any) -> tuple[str, str]:
    """Return text and thought of a message: a text, nothing, a list of parts, one part, or the JSON asked for, read."""
    if isinstance(content, str) or content is None:
        return content or "", ""
    if isinstance(content, Mapping):
        if "type" not in content and {*content} != {"text"}:
            return json.dumps(content, ensure_ascii=False), ""
        content = [content]
    if not isinstance(content, list):
        raise TypeError(type(content).__name__)
    texts, thoughts = [], []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if isinstance(part, str):
            texts.append(part)
        elif kind in {"text", "output_text"}:
            texts.append(part["text"])
        elif kind in {"thinking", "reasoning", "thought"}:
            thoughts.append(read_thought(part))
    return "".join(texts), "".join(thoughts)


def read_thought(said: Any) -> str:
    """Return a thought that stands apart: a text, parts of one in a list, or an object with a text."""
    if isinstance(said, Mapping):
        return next(filter(None, map(read_thought, map(said.get, _HOLDERS))), "")
    return "".join(map(read_thought, said)) if isinstance(said, list) else said if isinstance(said, str) else ""


def _read_failure(message: Mapping[str, Any], finish: str, known: str, usage: Usage | None) -> Failure:
    """Return why a reply without an answer has none."""
    refusal, kind = message.get("refusal"), "server" if known == "failed" else "refused"
    if kind == "refused" and isinstance(refusal, str) and refusal:
        return Failure(kind, f"the model refused: {encodable(refusal)[:_SHOWN]}", usage=usage)
    if known == "stop":
        raise LookupError("content")
    return Failure(kind, f"the server ended the reply with {encodable(finish)[:_SHOWN]!r}", usage=usage)


def encodable(text: str) -> str:
    """Return the text without lone surrogates, which JSON may carry and no file can."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _read_tokens(logprobs: Any) -> tuple[Token, ...]:
    """Read tokens with their alternatives; a character that several tokens make up is the text of the last of them."""
    try:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        told = all(dict(token).get("bytes") or not token["token"] for token in logprobs["content"])
        return tuple(
            Token(
                decode(bytes(token.get("bytes") or ())) if told else encodable(str(token["token"])),
                tuple(
                    (encodable(str(one["token"])), float(one["logprob"]))
                    for one in token["top_logprobs"]
                    if float(one["logprob"]) < 1
                ),
            )
            for token in logprobs["content"]
        )
    except (TypeError, LookupError, ValueError, OverflowError, RecursionError):
        return ()


def _trim_tokens(tokens: Sequence[Token], text: str) -> tuple[Token, ...]:
    """Return the tokens that spell the text; all of them where no run of whole tokens does.

    vLLM also lists the token that ends the reply, and those of the reasoning before it.
    """
    bounds = [0, *accumulate(len(token.text) for token in tokens)]
    start = "".join(token.text for token in tokens).rfind(text)
    first, last = bisect_left(bounds, start), bisect_left(bounds, start + len(text))
    whole = start >= 0 and bounds[first] == start and bounds[last] == start + len(text)
    return tuple(tokens[first:last] if whole else tokens)


def pack(completion: Completion) -> bytes:
    """Return a completion as JSON, for the ledger; `unpack` reads it back."""
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
        content["tokens"] = [[token.text, token.alternatives] for token in completion.tokens]
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def unpack(packed: bytes) -> Completion:
    """Read what `pack` wrote."""
    content = json.loads(packed)
    return Completion(
        content["text"],
        content["finish"],
        Usage(*content["usage"]),
        content["model"],
        content.get("reasoning", ""),
        tuple(Token(text, tuple((word, value) for word, value in rest)) for text, rest in content.get("tokens", ())),
    )
