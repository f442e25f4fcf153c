"""Streamed replies: the server-sent events of a chat completion, put together into one reply."""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

from tapir.domain.completion import Failure
from tapir.models.api.protocol import THOUGHT, json_or_none, read_content, read_finish, read_thought
from tapir.models.api.usage import billed_usage, usage_in

_OPTIONS = b',"stream":true,"stream_options":{"include_usage":true}}'
_BARE = re.compile(rb'\{.*"(?:delta":\s*\{|done":\s*(?:true|false)).*\}')  # an event on a line, without "data:"


def streamed(body: bytes) -> bytes:
    """Return the body of a request with the wish that its reply is streamed; its digest is that of the body without."""
    return body[:-1] + _OPTIONS


class StreamedReply:
    """A reply that arrives in pieces; one that is no stream of events is kept as it is."""

    def __init__(self) -> None:
        self.ended = False
        self._lines: list[bytes] = [b""]  # without the events that are read; the last may be a part of a line
        self._is_stream = False
        self._event = b""  # the name of the event that is read
        self._error: Any = None
        self._texts: dict[str, list[str]] = {"content": []}
        self._index: Any = None  # of the choice that is read: the first
        self._tokens: list[Any] = []
        self._reply: dict[str, Any] = {}
        self._finish: Any = None

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the response."""
        first, *rest = piece.replace(b"\r", b"\n").split(b"\n")
        self._lines[-1] += first
        for line in rest:
            if self._read(self._lines[-1].strip()):
                self._lines[-1] = line
            else:
                self._lines.append(line)

    def content(self) -> bytes:
        """Return the reply as a server sends it that does not stream."""
        if not self._is_stream:
            return b"\n".join(self._lines)
        if self._error is not None:
            return json.dumps({"error": self._error}).encode()
        message = {name: "".join(texts) for name, texts in self._texts.items() if texts}
        told = {"finish_reason": self._finish, "logprobs": {"content": self._tokens}}
        choice = {"message": {"content": None, **message}, **told}
        return json.dumps({**self._reply, "choices": [choice]}).encode()

    def failure(self, sent: bytes, failure: Failure | None) -> Failure | None:
        """Return why the stream is not whole, None where it is; what has arrived is charged.

        `failure` is how the connection ended, None where it was closed in order; a whole reply before that is taken.
        """
        if failure is None and self._read(self._lines[-1].strip()):
            self._lines[-1] = b""  # the last line may lack its end
        if not self._is_stream:
            return None if failure and json_or_none(self.content()) is not None else failure
        if self._error is not None:
            if not any(map("".join, self._texts.values())):
                return None  # an error in place of a reply
            said = self._error.get("message") if isinstance(self._error, dict) else self._error
            failure = Failure("server", f"the server ended the stream: {said}")
        elif self.ended or self._finish:
            return None
        elif failure is None:
            failure = Failure("cut", "the stream ended before the reply")
        text, *others = ["".join(texts) for texts in self._texts.values()]
        written = text + max(others, key=len, default="")  # a thought may come under two names
        return Failure(failure.kind, failure.message, usage=billed_usage(self._reply, sent, written, len(self._tokens)))

    def _read(self, line: bytes) -> bool:
        """Read a line of an event stream; False where it is a line of something else."""
        line = line.removeprefix(codecs.BOM_UTF8)
        name, _, data = line.partition(b":")
        if name == b"event":
            self._event = data.strip()
        if name == b"data" or (line.startswith(b"{") if self._is_stream else _BARE.fullmatch(line)):
            self._is_stream = True
            self._take(data.strip() if name == b"data" else line)
            self._event = b""
        return self._is_stream or not line or line.startswith(b":") or name in {b"event", b"id", b"retry"}

    def _take(self, data: bytes) -> None:
        self.ended = self.ended or data == b"[DONE]"
        if data in {b"", b"[DONE]"} or data.isalpha():  # "ping"
            return
        try:
            event = json_or_none(data)
            failed = event.get("error") or (event if self._event == b"error" else None)
            self._error = self._error or (None if self._finish else failed)  # after its end a reply is whole
            if event.get("model"):
                self._reply["model"] = event["model"]
            counts = {name: count for name, count in usage_in(event).items() if count}  # some count in several events
            self._reply["usage"] = self._reply.get("usage", {}) | counts
            for choice in event.get("choices") or [event] * ("done" in event):
                self._index = choice.get("index") if self._index is None else self._index
                if choice.get("index") != self._index:
                    continue
                self._finish = read_finish(choice) or self._finish
                self._error = choice.get("error") or self._error
                self._tokens += (choice.get("logprobs") or {}).get("content") or ()
                whole = choice.get("message") or {"content": choice.get("text")}
                delta = (choice["delta"] or {}) if "delta" in choice else whole
                pieces = dict(delta)
                if isinstance(delta.get("content"), list):
                    pieces["content"], pieces["reasoning"] = read_content(delta["content"])
                for name, text in pieces.items():
                    said = read_thought(text) if THOUGHT.fullmatch(name) else text
                    if isinstance(said, str) and (name in {"content", "refusal"} or THOUGHT.fullmatch(name)):
                        self._texts.setdefault(name, []).append(said)
        except (LookupError, AttributeError, TypeError, RecursionError):
            self._error = self._error or f"an event of the stream cannot be read: {data[:200]!r}"
