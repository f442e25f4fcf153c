"""The endpoints of the fake server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.fake_openai import batches, brain, completions
from tests.fake_openai.behaviour import Behaviour
from tests.fake_openai.completions import Answer, Brain, error
from tests.fake_openai.limit import Window, retry_after
from tests.fake_openai.tally import Tally
from tests.fake_openai.wire import HTML, Reply, Request

Json = dict[str, Any]


class Service:
    """One fake server, without its socket."""

    def __init__(self, behaviour: Behaviour, think: Brain = brain.reply) -> None:
        """A server that has seen nothing; `think` writes its replies."""
        self.behaviour = behaviour
        self.tally = Tally()
        self._think = think
        self._window = Window()
        self._batches = batches.Batches(self._line)

    def opened(self) -> None:
        """Counts a connection."""
        self.tally.connections += 1

    def handle(self, request: Request) -> Reply:
        """The reply to a request, decided at its arrival."""
        path = request.path.partition("?")[0]
        if path.startswith("/control"):
            return self._control(request.method, path, request.body)
        if request.method == "POST" and path == batches.CHAT:
            self.tally.arrived(time.time())
            return self._refused(request, chat=True) or self._chat(request)
        return self._refused(request, chat=False) or self._other(request, path)

    def finished(self, reply: Reply, *, sent: bool) -> None:
        """Counts a reply that went out, or whose client left first."""
        if not reply.chat:
            return
        self.tally.in_flight -= 1
        self.tally.by_status[str(reply.status) if sent else "left"] += 1
        if sent and reply.metered is not None:
            metered = reply.metered
            self.tally.answered(metered.digest, metered.prompt_tokens, metered.completion_tokens)

    def _error(self, request: Request, status: int, message: str, *, chat: bool, code: str | None = None) -> Reply:
        return Reply(status, self._echoing(request, error(status, message, code)), chat=chat)

    def _echoing(self, request: Request, body: bytes) -> bytes:
        """An error body, with the key in it if this server is that careless."""
        if not self.behaviour.echo_key:
            return body
        found = json.loads(body)
        found["error"]["message"] += f" (you sent: {request.headers.get('authorization', '')})"
        return json.dumps(found).encode()

    def _refused(self, request: Request, *, chat: bool) -> Reply | None:
        """The reply to a call that is not let in at all."""
        now = self.behaviour
        if now.refuse:
            return Reply(0, b"", manner="drop", chat=chat)
        if now.dead:
            page = f"<html><body><h1>{now.dead}</h1><p>upstream unavailable</p></body></html>"
            if now.echo_key:
                page += f"<!-- {request.headers.get('authorization', '')} -->"
            return Reply(now.dead, page.encode(), content_type=HTML, chat=chat)
        if now.status_for_all:
            return self._error(request, now.status_for_all, "every call is refused", chat=chat)
        if now.require_key and request.headers.get("authorization") != f"Bearer {now.require_key}":
            return self._error(request, 401, "Incorrect API key provided.", chat=chat, code="invalid_api_key")
        return None

    def _chat(self, request: Request) -> Reply:
        body = _chat_body(request.body)
        if body is None:
            return self._error(request, 400, "the body is no JSON object with messages", chat=True)
        digest = completions.digest_of(body)
        self.tally.recognised(digest)
        now = self.behaviour
        if now.rate_limit:
            wait = self._window.wait(time.monotonic(), now.rate_limit, now.rate_window, sliding=now.rate_sliding)
            if wait > 0:
                found = self._error(request, 429, "Rate limit reached", chat=True, code="rate_limit_exceeded")
                delay = now.latency if now.rate_after_latency else 0.0
                return Reply(429, found.body, delay, headers=retry_after(wait, now.retry_after), chat=True)
        answer = completions.answer(body, digest, now, self._think, self.tally)
        return Reply(
            answer.status,
            self._echoing(request, answer.body) if answer.status >= 400 else answer.body,
            answer.share_of_latency * now.latency,
            answer.content_type,
            manner=answer.manner,
            metered=answer.metered,
            chat=True,
        )

    def _line(self, body: Json) -> Answer:
        """One line of a batch: no key, no rate limit, no latency."""
        digest = completions.digest_of(body)
        self.tally.batch_lines += 1
        self.tally.recognised(digest)
        answer = completions.answer(body, digest, self.behaviour, self._think, self.tally)
        self.tally.by_status[str(answer.status)] += 1
        if answer.metered is not None:
            self.tally.answered(digest, answer.metered.prompt_tokens, answer.metered.completion_tokens)
        return answer

    def _other(self, request: Request, path: str) -> Reply:
        """Models, files and batches."""
        missing = self._error(request, 404, f"no such thing: {request.method} {path}", chat=False)
        names = path.removeprefix("/v1/").split("/")
        verb = (request.method, names[0], *names[2:])
        if verb == ("GET", "models") and len(names) == 1:
            known = self.behaviour.models or ("fake",)
            return _ok({"object": "list", "data": [{"id": one, "object": "model"} for one in known]})
        if not self.behaviour.supports_batch:
            return missing
        if verb in {("POST", "files"), ("POST", "batches")} and len(names) == 1:
            return self._upload(request) if names[0] == "files" else self._create_batch(request)
        if len(names) == 1:
            return missing
        file, batch = self._batches.files.get(names[1]), self._batches.batches.get(names[1])
        seconds = self.behaviour.batch_seconds
        replies: dict[tuple[str, ...], Callable[[], Reply]] = {}
        if file is not None:
            replies["GET", "files"] = lambda: _ok(self._batches.describe(names[1]))
            replies["GET", "files", "content"] = lambda: Reply(200, file[1], content_type="application/octet-stream")
        if batch is not None:
            replies["GET", "batches"] = lambda: _ok(self._batches.look(batch, seconds))
            replies["POST", "batches", "cancel"] = lambda: _ok(self._batches.cancel(batch, seconds))
        return replies.get(verb, lambda: missing)()

    def _upload(self, request: Request) -> Reply:
        try:
            purpose, name, content = batches.read_upload(request.headers.get("content-type", ""), request.body)
        except batches.MalformedUploadError as problem:
            return self._error(request, 400, str(problem), chat=False)
        if purpose != "batch":
            return self._error(request, 400, f"purpose is {purpose!r}, not 'batch'", chat=False)
        return _ok(self._batches.store(name, content))

    def _create_batch(self, request: Request) -> Reply:
        asked = _json_object(request.body) or {}
        if asked.get("input_file_id") not in self._batches.files:
            return self._error(request, 404, f"no such file: {asked.get('input_file_id')}", chat=False)
        if asked.get("endpoint") != batches.CHAT or asked.get("completion_window") != "24h":
            return self._error(request, 400, "endpoint or completion_window is not supported", chat=False)
        return _ok(self._batches.create(asked["input_file_id"], asked.get("metadata")))

    def _control(self, method: str, path: str, body: bytes) -> Reply:
        if path == "/control/reset":
            self.tally.reset()
            self._window = Window()
        elif method == "POST":
            try:
                self.behaviour = self.behaviour.changed(_json_object(body) or {})
            except ValueError as problem:
                return Reply(400, error(400, str(problem)))
        return _ok(self.tally.stats().as_json())


def _ok(found: Json) -> Reply:
    return Reply(200, json.dumps(found).encode())


def _json_object(body: bytes) -> Json | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _chat_body(body: bytes) -> Json | None:
    found = _json_object(body)
    if found is None or not isinstance(found.get("messages"), list):
        return None
    return found if all(isinstance(one, dict) for one in found["messages"]) else None
