"""Retry policy: which failed calls are retried, how often, and after which backoff."""

from __future__ import annotations

import email.utils
import json
import math
import random
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tapir.models.api.protocol import json_or_none

_RETRYABLE = frozenset({409, 424, 425, 498})  # beside those from 500 on
_TIMEOUTS = frozenset({408, 499, 504, 524})  # a proxy left, and what is behind it may have worked and billed
_STATUS = re.compile(r"[45][0-9]{2}")
_FATAL = frozenset({401, 402, 403, 404, 405, 407, 410})
_MOMENT = 1e9  # seconds from which on a wait is a moment, in Unix time
_QUOTA = re.compile(
    rb"(?i)insufficient.?(?:quota|balance|credit|fund)|(?:current|exceeded).{0,9}quota|quota.{0,9}exceeded|arrear"
    rb"|credit balance|out of (?:quota|credit)|(?:no|not enough|more) (?:credit|balance|fund)(?!s? w)|payment required"
    rb"|billing.(?:detail|hard|limit|account)|(?:key|usage|spend\w*|credit).limits?.{0,9}(?:reached|exceeded|exhausted)"
    rb"|(?:reach|exceed).{0,30}(?:usage|spend\w*|credit).limit|account.{0,40}good standing|account.?overdue"
    rb"|overdue.(?:balance|payment)|" + "余额不足|欠费".encode()
)
FILTER = re.compile(
    rb"(?i)content.?(?:filter|polic|moderation|exists risk)|data.?inspection|safety.check|requires moderation"
    rb"|(?:input|prompt|content)\b.{0,60}(?:flagged|violat|inappropriate)"
)
_REFUSED_KEY = re.compile(
    rb"(?i)api.?key.{0,30}(?:expired|not valid|invalid|revoked|disabled|leaked)|(?:invalid|incorrect|expired).api.?key"
    rb"|(?:organi[sz]ation|account|project)\b.{0,30}(?:disabled|deactivated|suspended)"
)
_FAULT = re.compile(rb"model (?:has )?(?:crashed|unloaded)|json_validate_failed", re.IGNORECASE)
_RATE = re.compile(
    rb"per.?(?:second|minute|hour|day)|\b[rt]p[smhd]\b|throttl|#token-limit|_per_base_model", re.IGNORECASE
)
_LIMITED = re.compile(rb"rate.?limit|too many (?:concurrent )?requests|throttl", re.IGNORECASE)
_TOO_LARGE = re.compile(rb"request too large|must be reduced|reduce your message", re.IGNORECASE)
_ABOUT = re.compile(r"messag|msg|code|type|status|reason|detail|descr|title|error|raw|quota|retry", re.IGNORECASE)
"""Names of the members of an error that say what is wrong; others may repeat texts of the request or of a reply."""
_RESET = re.compile(rb'x-ratelimit-reset"\s*:\s*"?([0-9]{13})\b', re.IGNORECASE)  # a moment, in milliseconds
_AGAIN = re.compile(
    rb"(?:again|retry|reset|wait(?!ed))[a-z]*\s+(?:in|after|for)?\s*((?:[0-9.]+\s*[a-z]+\s*)+)|retryDelay\W+([0-9.]+s)",
    re.IGNORECASE,
)
_DURATION = re.compile(rb"([0-9]+(?:\.[0-9]+)?)\s*(ms|millis|s|m(?!o)|h|d)", re.IGNORECASE)
_UNITS = {b"ms": 0.001, b"millis": 0.001, b"s": 1.0, b"m": 60.0, b"h": 3600.0, b"d": 86400.0}  # seconds
_SEARCHED = 4096  # bytes of a message
_SHORTEST_FIRST, _LONGEST_FIRST, _LONGEST_BACKOFF = 0.05, 0.5, 30.0  # seconds
_BACKOFF_FACTOR = 3.0


def is_retryable(kind: str) -> bool:
    """Whether a request that failed in this way, as `error_kind` calls it, may succeed later."""
    return kind not in {"bad-request", "refused", "not-found"}


def error_kind(status: int, content: bytes = b"") -> str:
    """Return the kind of failure that an HTTP status, with the words of its body, means for a request."""
    forbidden, said = status == HTTPStatus.FORBIDDEN, error_words(content)
    if status == HTTPStatus.TOO_MANY_REQUESTS or (forbidden and _LIMITED.search(said)):
        return "bad-request" if _TOO_LARGE.search(said) else "rate-limit"
    if status in _TIMEOUTS:
        return "timeout"
    page = forbidden and content.lstrip().startswith(b"<")  # of a firewall, which may be about one prompt
    failed = page or status in _RETRYABLE or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return "server" if failed or _FAULT.search(said) else "bad-request"


def is_fatal(status: int, content: bytes) -> bool:
    """Whether every other request would fail too: the key, the model or the quota is refused."""
    one = status == HTTPStatus.FORBIDDEN and (FILTER.search(content) or error_kind(status, content) != "bad-request")
    key = status == HTTPStatus.BAD_REQUEST and _REFUSED_KEY.search(error_words(content))
    return bool(key) or (status in _FATAL and not one) or out_of_quota(content)


def out_of_quota(content: bytes) -> bool:
    """Whether a server says that there is no quota or credit left.

    A quota counted by the minute or the day, or one that the server says when to try again, is a rate limit.
    """
    said = error_words(content)
    return bool(_QUOTA.search(said)) and not _RATE.search(said) and stated_pause(said) is None


def error_words(content: bytes) -> bytes:
    """Return the body of an error without texts that it repeats of a request or a reply; all of what is no JSON."""
    said = json_or_none(content, object_hook=_own_words)
    return content if said is None else json.dumps(said, ensure_ascii=False).encode(errors="replace")


def _own_words(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: said for name, said in told.items() if not isinstance(said, str) or _ABOUT.search(name)}


def error_in(content: bytes) -> Any:
    """Return the error in the body of a response, an object or a text, at times in a list; the body where it is one."""
    reply = json_or_none(content)
    reply = reply[0] if isinstance(reply, list) and reply else reply
    return (reply.get("error") or ({} if reply.get("choices") else reply)) if isinstance(reply, Mapping) else None


def stated_status(content: bytes) -> int | None:
    """Return the HTTP status of an error that came in place of a reply with status 200; None where it names none."""
    error = error_in(content)
    codes = [error.get(name) for name in ("code", "status", "status_code")] if isinstance(error, Mapping) else []
    status = next((int(code) for code in map(str, codes) if _STATUS.fullmatch(code)), 0)
    said = json.dumps(error).encode() if error else b""
    if status or not out_of_quota(said):
        return status or (HTTPStatus.TOO_MANY_REQUESTS if _LIMITED.search(said) else None)
    return HTTPStatus.PAYMENT_REQUIRED


def retry_after(headers: Mapping[str, str], content: bytes = b"") -> float | None:
    """Return the seconds a server asks to wait; None where it does not say.

    The header holds seconds, milliseconds, or a moment, which is read by the server's own clock where it sends one;
    some servers say it in words only, and a router beside the words, as a moment.
    """
    now = _timestamp(headers.get("date", "")) or time.time()
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):
            seconds = float(headers[name]) * unit
            return max(0.0, seconds - (now if seconds > _MOMENT else 0.0)) if math.isfinite(seconds) else None
    until = _timestamp(said := headers.get("retry-after", ""))
    if reset := _RESET.search(content):
        until = until or int(reset[1]) / 1000
    words = f"retry in {said}; ".encode(errors="replace") + error_words(content)
    return max(0.0, until - now) if until else stated_pause(words)


def _timestamp(date: str) -> float | None:
    with suppress(ValueError):
        return email.utils.parsedate_to_datetime(date).timestamp()
    return None


def stated_pause(content: bytes) -> float | None:
    """Return the seconds that a message names, as in "try again in 1h12m"; None where it names none."""
    match = _AGAIN.search(content[:_SEARCHED])
    parts = _DURATION.findall(match[1] or match[2]) if match else []
    return sum(float(number) * _UNITS[unit.lower()] for number, unit in parts) if parts else None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a failed request is sent again."""

    attempts: int = 6  # in all; a 429 does not count
    rate_limited: int = 50  # times that one request may meet a 429
    pause_factor: float = 1.0  # of every backoff; tests use a small one

    def allows(self, attempts: int, rate_limited: int = 0) -> bool:
        """Whether a request that failed so often may be sent again."""
        return attempts < self.attempts and rate_limited < self.rate_limited

    def backoff_seconds(self, attempts: int, latency: float = 0.0) -> float:
        """Return the pause after so many attempts: exponential, with jitter, shorter for an endpoint of low latency."""
        first = max(_SHORTEST_FIRST, min(latency / 2 or _LONGEST_FIRST, _LONGEST_FIRST))
        longest = first * _BACKOFF_FACTOR ** max(0, attempts - 1)
        return min(longest, _LONGEST_BACKOFF) * random.uniform(0.5, 1.0) * self.pause_factor
