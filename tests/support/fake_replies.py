"""Replies of the fake server as HTTP carries them: whole or streamed, and with the oddities of real providers."""

from __future__ import annotations

import json
from typing import Any

from support import fake_model

Json = dict[str, Any]

BILLED = (
    *("fence-json", "fence-xml", "fence-tail", "xai", "xai-details", "zero-usage", "no-usage", "filtered", "empty"),
    *(
        "filtered-no-usage",
        "unknown-end",
        "eos_token",
        "or-error",
        "parts",
        "think-literal",
        "eos-literal",
        "tick",
        "quote",
    ),
)
"""Oddities of replies with status 200, all of which a provider bills."""
STREAMS = ("", "comments", "no-done", "no-stream", "open-end", "counted-twice", "parts", "xai")
"""Of streams that are whole."""
BROKEN = {"cut": "cut", "silence": "timeout", "error-event": "server", "half": "cut"}
"""Of streams that end in the middle, with the kind of the failure."""

UNFINISHED = (
    "Could not finish the message because max_tokens or model output limit was reached."
    " Please try again with higher max_tokens."
)
_QUOTA = "You exceeded your current quota, please check your plan and billing details."
_DAY = "Rate limit reached on tokens per day (TPD): Limit 100000, Used 99980. Please try again in 1h12m."
_FILTERED = "The response was filtered due to the prompt triggering the content management policy."
_NO_TEMPERATURE = "Unsupported value: 'temperature' does not support {} with this model. Only the default (1) is."
_NO_MAX_TOKENS = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
_THOUGHTS = 20  # times the reply


def kind(body: Json) -> str:
    """What a request is for."""
    text = json.dumps(body)
    signs = {
        "judge": ("score_a",),
        "prefer": ("[[A]]",),
        "label": ("<label>", '"label"'),
        "expand": ("new_instruction", '"instructions"'),
    }
    return next((name for name, words in signs.items() if any(word in text for word in words)), "text")


def refusal(odd: str, body: Json, number: int) -> tuple[int, str, str, str] | None:
    """Status, message, code and Retry-After of a request that is not answered; it is the server's `number`-th."""
    if odd == "no-temperature" and body.get("temperature", 1) != 1:
        return 400, _NO_TEMPERATURE.format(body["temperature"]), "unsupported_value", ""
    if odd == "max-completion" and "max_tokens" in body:
        return 400, _NO_MAX_TOKENS, "unsupported_parameter", ""
    if odd == "azure-filter" and number <= 12:
        return 400, _FILTERED, "content_filter", ""
    if odd == "long-retry" and number > 5:
        return 429, _DAY, "rate_limit_exceeded", "4320"
    if odd == "quota429":
        return 429, _QUOTA, "exceeded_current_quota_error", ""
    return (308, "moved", "", "") if odd == "redirect" else None


def changed(odd: str, what: str, whole: bytes, number: int) -> tuple[bytes, int]:
    """A reply with an oddity, and the tokens that are billed as written."""
    reply = json.loads(whole)
    (choice,), usage = reply["choices"], reply["usage"]
    message, text = choice["message"], choice["message"]["content"]
    head, _, tail = text.partition("\n\n")
    verdicts = {"tick": "`[[A]]`", "quote": '"[[A]]"'}
    message["content"] = {
        "fence-json": f"```json\n{text}\n```",
        "fence-xml": f"```xml\n{text}\n```",
        "fence-tail": f"{head}\n\n```xml\n{tail}\n```",
        "parts": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": text}],
        "think-literal": f"In a chat template the closing tag `</think>` ends the reasoning. {text}",
        "eos-literal": f"{text} The end marker is <|end|> in this format, and {text}",
        "filtered": None,
        "filtered-no-usage": None,
        **dict.fromkeys(("empty", "empty-no-usage")),
        **(verdicts if what == "prefer" else {}),
    }.get(odd, text)
    choice["finish_reason"] = {
        **dict.fromkeys(("filtered", "filtered-no-usage"), "content_filter"),
        **dict.fromkeys(("empty", "empty-no-usage"), "stop"),
        "eos_token": "eos_token",
        "unknown-end": "quantum_flux",
    }.get(odd, choice["finish_reason"])
    if odd == "or-error" and number % 3 == 0:
        choice["finish_reason"], message["content"] = "error", ""
    written = usage["completion_tokens"]
    if odd.startswith("xai"):
        usage["completion_tokens_details"] = {"reasoning_tokens": _THOUGHTS * written}
        written += _THOUGHTS * written
        usage["total_tokens"] = usage["prompt_tokens"] + written
    if odd == "xai-details":
        del usage["total_tokens"]
    if odd == "zero-usage":
        reply["usage"] = dict.fromkeys(usage, 0)
    if odd.endswith("no-usage"):
        del reply["usage"]
    if odd == "filtered-no-usage":
        written = 0
    return json.dumps(reply).encode(), written


def streamed(odd: str, whole: bytes, written: int) -> tuple[tuple[bytes, ...], str, int]:
    """The events of a reply, how its connection ends ("whole", "cut", "hang"), and the tokens billed as written."""
    reply = json.loads(whole)
    (choice,), usage = reply["choices"], reply.get("usage")
    content = choice["message"]["content"] or ""
    pieces = content if isinstance(content, list) else [content[at : at + 24] for at in range(0, len(content), 24)]
    deltas = [{"content": [piece] if isinstance(content, list) else piece} for piece in pieces]
    events: list[Json] = [
        {"choices": [{"index": 0, "delta": delta}]} for delta in [{"role": "assistant", "content": ""}, *deltas]
    ]
    last: list[Json] = [
        {"model": reply["model"], "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]},
        {"choices": [], "usage": usage},
    ]
    if odd in BROKEN:
        events = events[: len(events) // 2]
        written = fake_model.count_tokens("".join(event["choices"][0]["delta"]["content"] for event in events))
        last = [{"error": {"message": "the worker died", "code": 500}}] if odd == "error-event" else []
    if odd == "counted-twice":
        events[0]["usage"] = {"prompt_tokens": usage["prompt_tokens"], "completion_tokens": 1}
        last[1]["usage"] = {"completion_tokens": written, "prompt_tokens": 0}
    lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in (*events, *last)]
    if odd == "comments":
        lines = [part for line in lines for part in (b": keep-alive\n\n", line)]
    if odd == "open-end":
        lines[-1] = lines[-1].strip()
    elif odd not in {"no-done", *BROKEN}:
        lines.append(b"data: [DONE]\n\n")
    return tuple(lines), {"cut": "cut", "silence": "hang"}.get(odd, "whole"), written


def completion(body: Json, text: str, finish: str, known: tuple[bytes, int, str, str]) -> tuple[bytes, int]:
    """The body of a 200, and the tokens of its reply."""
    digest, read, reasoning, thought = known
    message = {"role": "assistant", "content": text}
    if reasoning == "inline":
        message["content"] = f"<think>{thought}</think>\n\n{text}" if text else f"<think>{thought}"
    elif reasoning not in {"", "hidden", "unfinished"}:
        message[reasoning] = thought
    written = fake_model.count_tokens(text) + fake_model.count_tokens(thought)
    usage: Json = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    if reasoning == "hidden":
        usage["completion_tokens_details"] = {"reasoning_tokens": fake_model.count_tokens(thought)}
    choice = {"index": 0, "finish_reason": finish, "message": message}
    content = json.dumps({"model": body.get("model", "fake"), "choices": [choice], "usage": usage})
    if body.get("logprobs"):
        shown = fake_model.logprobs(message["content"], int(body.get("top_logprobs") or 0), digest)
        content = content.replace('"finish_reason":', f'"logprobs": {shown}, "finish_reason":', 1)
    return content.encode(), written
