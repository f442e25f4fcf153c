"""From the JSON of a chat completion to what it is answered with, over HTTP or in a batch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from tests.fake_openai import tokens
from tests.fake_openai.behaviour import Behaviour
from tests.fake_openai.brain import Message, text_of
from tests.fake_openai.prose import thoughts
from tests.fake_openai.tally import Tally
from tests.fake_openai.wire import HTML, JSON, Metered

Json = dict[str, Any]
Brain = Callable[[list[Message], Json], str]
"""The messages and the whole body of a request, to the text of the reply."""

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}

_sorted_json = json.JSONEncoder(sort_keys=True).encode

NONSENSE = (
    (HTML, b"<html><body><h1>Sign in to continue</h1></body></html>"),
    (JSON, b"{}"),
    (JSON, b"null"),
    (JSON, b'{"choices": []}'),
    (JSON, b'{"choices": [{"index": 0, "finish_reason": "stop"}]}'),
    (JSON, b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": null}}]}'),
    (JSON, b'{"choices": {"message": "hello"}}'),
    (JSON, b'{"error": {"message": "upstream failed", "code": 502}}'),
    (JSON, b'["ok"]'),
    (JSON, b""),
)
"""Bodies of a status 200 that are no chat completion, each with its content type."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request gets, before it is put on the wire or into a batch file."""

    status: int
    body: bytes
    manner: Literal["whole", "cut", "hang"] = "whole"
    content_type: str = JSON
    share_of_latency: float = 0.0
    metered: Metered | None = None


def error(status: int, message: str, code: str | None = None, kind: str = "") -> bytes:
    """An error body as OpenAI writes it."""
    kind = kind or _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def digest_of(body: Json) -> bytes:
    """The digest of a request, whatever the order of its keys."""
    return blake2b(_sorted_json(body).encode(), digest_size=16).digest()


class Luck:
    """Four independent numbers in 0..1 for one attempt at one request."""

    def __init__(self, seed: int, digest: bytes, attempt: int) -> None:
        """Draws them."""
        drawn = blake2b(f"{seed} {attempt} ".encode() + digest, digest_size=16).digest()
        self.fault, self.jitter, self.length, self.variant = (
            int.from_bytes(drawn[place : place + 4], "little") / 2**32 for place in (0, 4, 8, 12)
        )

    def fault_of(self, behaviour: Behaviour) -> str:
        """The kind of fault this attempt meets, "" for none."""
        edge = 0.0
        for kind in ("error", "hang", "cut", "nonsense"):
            edge += getattr(behaviour, f"{kind}_share")
            if self.fault < edge:
                return kind
        return ""


def refusal(body: Json, behaviour: Behaviour, prompt_tokens: int) -> Answer | None:
    """Status 400 or 404 for what this server does not do; nothing if it does."""
    if behaviour.models and body.get("model") not in behaviour.models:
        message = f"The model `{body.get('model')}` does not exist or you do not have access to it."
        return Answer(404, error(404, message, "model_not_found", "invalid_request_error"))
    if not behaviour.supports_json_schema and "response_format" in body:
        return Answer(400, error(400, "'response_format' is not supported by this model", "unsupported_parameter"))
    if body.get("stream"):
        return Answer(400, error(400, "streaming is not supported", "unsupported_parameter"))
    if behaviour.context_limit and prompt_tokens > behaviour.context_limit:
        message = (
            f"This model's maximum context length is {behaviour.context_limit} tokens. "
            f"However, your messages resulted in {prompt_tokens} tokens."
        )
        return Answer(400, error(400, message, "context_length_exceeded"))
    return None


def answer(body: Json, digest: bytes, behaviour: Behaviour, brain: Brain, tally: Tally) -> Answer:
    """What a request that passed the key and the rate limit gets."""
    messages: list[Message] = body["messages"]
    prompt_tokens = tokens.count_prompt((str(one.get("role")), text_of(one)) for one in messages)
    refused = refusal(body, behaviour, prompt_tokens)
    if refused is not None:
        return refused
    luck = Luck(behaviour.seed, digest, tally.attempt(digest))
    share = 1 + behaviour.jitter * (2 * luck.jitter - 1)
    fault = luck.fault_of(behaviour)
    if fault:
        tally.faults[fault] += 1
    if fault == "error":
        return Answer(500, error(500, "The server had an error while processing your request"), share_of_latency=share)
    if fault == "hang":
        return Answer(200, b"", "hang")
    if fault == "nonsense":
        content_type, nonsense = NONSENSE[int(luck.variant * len(NONSENSE))]
        return Answer(200, nonsense, content_type=content_type, share_of_latency=share)
    text = brain(messages, body)
    finish = "stop"
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if luck.length < behaviour.finish_length_share:
        tally.faults["length"] += 1
        text, finish = text[: len(text) // 2], "length"
    elif limit and tokens.count(text) > limit:
        text, finish = tokens.first(text, limit), "length"
    whole, completion_tokens = _completion(body, digest, behaviour, (text, finish), prompt_tokens)
    if fault == "cut":
        early = luck.variant < 0.5
        sent = whole if early else whole[: len(whole) // 2]
        return Answer(200, sent, "cut" if early else "whole", share_of_latency=share)
    metered = Metered(digest, prompt_tokens, completion_tokens)
    return Answer(200, whole, share_of_latency=share, metered=metered)


def _completion(
    body: Json, digest: bytes, behaviour: Behaviour, said: tuple[str, str], prompt_tokens: int
) -> tuple[bytes, int]:
    """The body of a 200, and its completion tokens."""
    text, finish = said
    message = {"role": "assistant", "content": text}
    thought = ""
    if behaviour.reasoning != "none":
        thought = thoughts(digest)
        if behaviour.reasoning == "inline":
            message["content"] = f"<think>{thought}</think>\n\n{text}"
        else:
            message[behaviour.reasoning] = thought
    choice = {"index": 0, "finish_reason": finish, "message": message}
    reasoning_tokens = tokens.count(thought)
    completion_tokens = tokens.count(text) + reasoning_tokens
    found = {
        "id": "chatcmpl-" + digest.hex(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.get("model", "fake"),
        "choices": [choice],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
        },
    }
    written = json.dumps(found)
    if body.get("logprobs"):
        shown = tokens.logprobs(message["content"], int(body.get("top_logprobs") or 0), digest)
        # They are by far the most of such a body, and come as JSON already.
        written = written.replace('"finish_reason":', f'"logprobs": {shown}, "finish_reason":', 1)
    return written.encode(), completion_tokens
