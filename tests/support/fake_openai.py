"""Fake OpenAI-compatible server without its socket: chat completions with faults and limits, files and batches."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any
from urllib.parse import parse_qs

from aiohttp import web

from support import fake_model, fake_replies
from support.fake_files import FakeBatch, json_or_text, uploaded_file
from support.fake_model import Message
from support.window import Window, retry_after

Json = dict[str, Any]
Brain = Callable[[list[Message], Json], str]
"""Messages and whole body of a request, to the text of the reply."""
CHAT = "/v1/chat/completions"

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_NONSENSE = (
    b"<html><body><h1>Sign in to continue</h1></body></html>",
    b"null",
    b'{"choices": []}',
    b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": null}}]}',
    b'{"error": {"message": "upstream failed", "code": 502}}',
    b"",
)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the server does. Times are seconds, shares lie in 0..1; a zero or an empty text switches off.

    The four faults (`error_share` to `nonsense_share`) exclude each other. They are drawn from the digest of the
    request's JSON and its attempt number, so that a retried request gets fresh luck and the order of arrival does not
    matter. Refusals come at once, everything else after the latency.
    """

    latency: float = 0.1
    jitter: float = 0.0  # the latency varies by up to this share, both ways
    sigma: float = 0.0  # of a lognormal latency around that, the same for the same request
    error_share: float = 0.0  # status 500
    hang_share: float = 0.0  # accepted, never answered
    cut_share: float = 0.0  # half of them end before their Content-Length, half are whole HTTP with half the JSON
    nonsense_share: float = 0.0  # status 200 and no chat completion
    finish_length_share: float = 0.0  # half the reply, finish_reason "length"
    refuse: bool = False  # the connection is dropped without a byte
    dead: int = 0  # every call gets this status and an HTML page, as from a proxy before a dead server
    status_for_all: int = 0  # every call gets this status and an OpenAI error body
    rate_limit: int = 0  # chat completions per window
    rate_window: float = 1.0
    rate_sliding: bool = False  # otherwise windows are fixed, the first one from the first request on
    rate_after_latency: bool = False  # otherwise a 429 comes at once
    retry_after: str = "float"  # or "integer", "date", "none"
    require_key: str = ""
    echo_key: bool = False  # error bodies repeat the Authorization header
    context_limit: int = 0  # prompt tokens
    length_limit: int = 0  # tokens of prompt and reply together
    tells_limit: bool = True  # the list of models has it
    supports_batch: bool = True
    reasoning: str = ""  # or "reasoning", "reasoning_content", "inline", "hidden", "unfinished"
    thoughts: int = 0  # words that it thinks before every reply, out of the same limit
    dress: str = ""  # what stands around a reply ("{}") or its last paragraph ("...{}"), as "```\\n{}\\n```"
    models: tuple[str, ...] = ()  # none: any model is known
    takes_any_name: bool = False  # of a model, whatever it lists
    refused_fields: tuple[str, ...] = ()  # of a request, with status 400
    names_refused: bool = True  # otherwise the error does not say which field it is
    ignores_schema: bool = False  # response_format changes nothing
    batch_seconds: float = 0.2
    odd: str = ""  # an oddity of real providers, see fake_replies
    odd_only: str = ""  # or "judge", "prefer", "label", "expand", "text": the kind of request that is answered so


@dataclass
class Stats:
    """Counts since the start; of chat completions only.

    Attributes:
        requests: that arrived over HTTP, whatever became of them.
        by_status: lines of batches included; "left" are requests whose client went away first.
        repeats: requests that had been answered with a complete 200 before: what a resumed run would pay twice.
        prompt_tokens: of replies that are billed, as is the next: all but those that were cut below HTTP.
    """

    requests: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    in_flight_max: int = 0
    distinct: int = 0
    repeats: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    connections: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request, over HTTP or as a line of a batch."""

    status: int
    body: bytes
    ending: str = "whole"  # or "cut", "hang", "drop"
    delay: float = 0.0
    events: tuple[bytes, ...] = ()  # of a stream, which ends as `ending` says
    retry_after: str = ""
    tokens: tuple[int, int] = (0, 0)
    digest: bytes = b""


def error(status: int, message: str, code: str = "", param: str | None = None) -> Answer:
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    content = {"error": {"message": message, "type": kind, "param": param, "code": code or None}}
    return Answer(status, json.dumps(content).encode())


def ok(content: Any) -> Answer:
    return Answer(200, json.dumps(content).encode())


class FakeOpenAi:
    """The server without its socket. Tests change what is public here."""

    def __init__(self, behaviour: Behaviour, brain: Brain) -> None:
        self.behaviour = behaviour
        self.brain = brain
        self.stats = Stats()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, FakeBatch] = {}
        self.uploads: list[bytes] = []
        self.lists_batches = True
        self.batches_per_page = 100
        self.lost_answers = 0  # so many created batches are answered with a 502
        self.echo = ""  # repeated in the errors of batch lines
        self.reset()

    def reset(self) -> None:
        """Forget what was seen; behaviour, files and batches stay."""
        self.stats = Stats(in_flight=self.stats.in_flight)
        self._window = Window()
        self._attempts: Counter[bytes] = Counter()
        self._answered: set[bytes] = set()
        self._clients: set[object] = set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request over HTTP."""
        content = await request.read()
        if request.path.startswith("/control"):
            if request.path.endswith("/reset"):
                self.reset()
            self.behaviour = replace(self.behaviour, **json.loads(content or b"{}"))
            return web.Response(body=json.dumps(vars(self.stats)).encode())
        if (request.method, request.path) != ("POST", CHAT):
            answer = self._refusal(request) or self._other(request, content)
            await self._wait(request, answer)
            return await self._deliver(request, answer)
        self._arrive(request)
        outcome = "left"
        try:
            answer = self._refusal(request) or self._chat(content)
            await self._wait(request, answer)
            outcome = str(answer.status)
            return await self._deliver(request, answer)
        finally:
            self.stats.in_flight -= 1
            self.stats.by_status[outcome] += 1

    async def _wait(self, request: web.BaseRequest, answer: Answer) -> None:
        if answer.ending == "drop":
            assert request.transport is not None
            request.transport.abort()
        await asyncio.sleep(3600 if answer.ending in {"hang", "drop"} and not answer.events else answer.delay)

    def _arrive(self, request: web.BaseRequest) -> None:
        assert request.transport is not None
        self._clients.add(request.transport.get_extra_info("peername"))
        self.stats.connections = len(self._clients)
        self.stats.requests += 1
        self.stats.in_flight += 1
        self.stats.in_flight_max = max(self.stats.in_flight_max, self.stats.in_flight)

    async def _deliver(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        headers = {"Content-Type": "application/json"}
        if answer.status >= 400 and self.behaviour.echo_key:
            sent = f" (you sent: {request.headers.get('Authorization', '')})"
            answer = replace(answer, body=answer.body.replace(b'",', sent.encode() + b'",', 1))
        if answer.retry_after:
            headers["Retry-After"] = answer.retry_after
        if answer.events:
            return await self._stream(request, answer)
        if answer.ending == "cut":
            response = web.StreamResponse(status=answer.status, headers=headers)
            response.content_length = len(answer.body)
            await response.prepare(request)
            await response.write(answer.body[: len(answer.body) // 2])
            assert request.transport is not None
            request.transport.close()
            return response
        self._pay(answer)
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    async def _stream(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self._pay(answer)
        for event in answer.events:
            await response.write(event)
        if answer.ending == "hang":
            await asyncio.sleep(3600)
        assert request.transport is not None
        if answer.ending == "cut":
            request.transport.close()
        return response

    def _pay(self, answer: Answer) -> None:
        if answer.digest:
            self._answered.add(answer.digest)
            self.stats.prompt_tokens += answer.tokens[0]
            self.stats.completion_tokens += answer.tokens[1]

    def _refusal(self, request: web.BaseRequest) -> Answer | None:
        """The answer to a call that is not let in at all."""
        behaviour = self.behaviour
        if behaviour.refuse:
            return Answer(0, b"", "drop")
        if behaviour.dead:
            return Answer(behaviour.dead, f'<h1 class="a", id="b">{behaviour.dead} upstream unavailable</h1>'.encode())
        if behaviour.status_for_all:
            return error(behaviour.status_for_all, "every call is refused")
        if behaviour.require_key and request.headers.get("Authorization") != f"Bearer {behaviour.require_key}":
            return error(401, "Incorrect API key provided.", "invalid_api_key")
        return None

    def _chat(self, content: bytes) -> Answer:
        behaviour = self.behaviour
        if behaviour.rate_limit:
            sliding = behaviour.rate_sliding
            wait = self._window.wait(time.monotonic(), behaviour.rate_limit, behaviour.rate_window, sliding=sliding)
            if wait > 0:
                delay = behaviour.latency if behaviour.rate_after_latency else 0.0
                again = retry_after(wait, behaviour.retry_after)
                return replace(error(429, "Rate limit reached"), delay=delay, retry_after=again)
        return self._complete(json.loads(content))

    def _think(self, limit: int | None) -> tuple[str, int | None]:
        """What it thinks first, and how many tokens are left for its reply; None for no limit."""
        if not (self.behaviour.thoughts and limit):
            return "Let me think about the request and its parts." if self.behaviour.reasoning else "", limit or None
        thought = fake_model.first_tokens("hm, " * self.behaviour.thoughts, limit)
        return thought, limit - fake_model.count_tokens(thought)

    def _complete(self, body: Json) -> Answer:
        """The answer to a request that passed the key and the rate limit."""
        behaviour, messages = self.behaviour, body["messages"]
        digest = blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).digest()
        self.stats.repeats += digest in self._answered
        read = fake_model.count_prompt(messages)
        kind = fake_replies.kind(body)
        odd = behaviour.odd if behaviour.odd_only in {"", kind} else ""
        if refused := self._refuse(body, read, odd):
            return refused
        if behaviour.ignores_schema:
            body = {name: value for name, value in body.items() if name != "response_format"}
        self._attempts[digest] += 1
        self.stats.distinct = len(self._attempts)
        seed = blake2b(digest + str(self._attempts[digest]).encode(), digest_size=16).digest()
        luck = [int.from_bytes(seed[place : place + 4], "little") / 2**32 for place in (0, 4, 8, 12)]
        delay = behaviour.latency * (1 + behaviour.jitter * (2 * luck[1] - 1))
        if behaviour.sigma:
            delay = behaviour.latency * math.exp(behaviour.sigma * random.Random(digest).gauss())
        fault = self._fault(luck[0])
        if fault in {"error", "hang", "nonsense"}:
            return {
                "error": replace(error(500, "The server had an error while processing your request"), delay=delay),
                "hang": Answer(200, b"", "hang"),
                "nonsense": Answer(200, _NONSENSE[int(luck[3] * len(_NONSENSE))], delay=delay),
            }[fault]
        text, finish = fake_model.dressed(self.brain(messages, body), behaviour.dress), "stop"
        thought, limit = self._think(body.get("max_completion_tokens") or body.get("max_tokens"))
        if luck[2] < behaviour.finish_length_share:
            text, finish = text[: len(text) // 2], "length"
        elif limit is not None and fake_model.count_tokens(text) > limit:
            text, finish = fake_model.first_tokens(text, limit), "length"
        whole, written = fake_replies.completion(body, text, finish, (digest, read, behaviour.reasoning, thought))
        if odd:
            whole, written = fake_replies.changed(odd, kind, whole, self.stats.requests)
        if fault == "cut":
            ending = "cut" if luck[3] < 0.5 else "whole"
            return Answer(200, whole if ending == "cut" else whole[: len(whole) // 2], ending, delay)
        answer = Answer(200, whole, delay=delay, tokens=(read, written), digest=digest)
        if body.get("stream") and odd != "no-stream":
            events, ending, written = fake_replies.streamed(odd, whole, written)
            answer = replace(answer, events=events, ending=ending, tokens=(read, written))
        unfinished = behaviour.reasoning == "unfinished" and not text
        return replace(error(400, fake_replies.UNFINISHED), delay=delay) if unfinished else answer

    def _refuse(self, body: Json, read: int, odd: str) -> Answer | None:
        """The answer to a request for another model, one that is too long, or one that an odd server does not take."""
        behaviour = self.behaviour
        model, most = body.get("model"), behaviour.context_limit
        if behaviour.models and model not in behaviour.models and not behaviour.takes_any_name:
            return error(404, f"The model `{model}` does not exist or you do not have access to it.")
        if most and read > most:
            return error(400, f"This model's maximum context length is {most} tokens, your messages have {read}.")
        if 0 < behaviour.length_limit < read + body.get("max_tokens", 0):
            return error(400, f"The maximum context length is {behaviour.length_limit} tokens, you requested more.")
        if field := next((name for name in behaviour.refused_fields if name in body), ""):
            return error(400, "Unsupported value in the request", param=field if behaviour.names_refused else None)
        if refused := fake_replies.refusal(odd, body, self.stats.requests):
            return replace(error(*refused[:3]), retry_after=refused[3])
        return None

    def _fault(self, luck: float) -> str:
        edge = 0.0
        for kind in ("error", "hang", "cut", "nonsense"):
            edge += getattr(self.behaviour, f"{kind}_share")
            if luck < edge:
                self.stats.faults[kind] += 1
                return kind
        return ""

    def _other(self, request: web.BaseRequest, content: bytes) -> Answer:
        """Models, files and batches."""
        kind, _, name = request.path.removeprefix("/v1/").partition("/")
        if (request.method, kind, name) == ("GET", "models", ""):
            told = {"max_model_len": self.behaviour.length_limit * self.behaviour.tells_limit}
            return ok({"data": [{"id": model} | told for model in self.behaviour.models or ("fake",)]})
        file = name.removesuffix("/content")
        reply = error(404, f"no such thing: {request.method} {request.path}")
        match request.method, kind if self.behaviour.supports_batch else "":
            case "POST", "files":
                self.uploads.append(content)
                reply = ok({"id": self._store(uploaded_file(content))})
            case "POST", "batches":
                reply = self._create_batch(json.loads(content))
            case "GET", "batches" if not name and self.lists_batches:
                reply = self._list_batches(parse_qs(request.query_string).get("after", [""])[0])
            case "GET", "batches" if name in self.batches:
                reply = self._look(self.batches[name])
            case "GET", "files" if file in self.files:
                reply = Answer(200, self.files[file])
        return reply

    def _store(self, content: bytes) -> str:
        name = f"file-{len(self.uploads)}-{len(self.files) + 1}"
        self.files[name] = content
        return name

    def _create_batch(self, wanted: Json) -> Answer:
        lines = [json.loads(line) for line in self.files[wanted["input_file_id"]].decode().splitlines()]
        assert wanted["endpoint"] == CHAT
        assert all((line["method"], line["url"]) == ("POST", CHAT) for line in lines)
        assert len({line["custom_id"] for line in lines}) == len(lines)
        batch = FakeBatch(f"batch_{len(self.batches) + 1}", lines, wanted.get("metadata"))
        self.batches[batch.id] = batch
        if self.lost_answers:
            self.lost_answers -= 1
            return error(502, "bad gateway")
        return ok(batch.as_json())

    def _list_batches(self, after: str) -> Answer:
        newest = list(self.batches.values())[::-1]
        if after:
            newest = newest[[batch.id for batch in newest].index(after) + 1 :]
        page = [batch.as_json() for batch in newest[: self.batches_per_page]]
        return ok({"data": page, "has_more": len(newest) > self.batches_per_page})

    def _look(self, batch: FakeBatch) -> Answer:
        if batch.status == "validating" and time.time() - batch.began >= self.behaviour.batch_seconds:
            self.work(batch, len(batch.lines))
            batch.status = "completed"
        return ok(batch.as_json())

    def work(self, batch: FakeBatch, lines: int) -> None:
        """Answer so many lines; the order of the results is not that of the requests."""
        output: dict[str, list[Json]] = {"output": [], "error": []}
        for line in reversed(batch.lines[:lines]):
            answer = self._complete(line["body"])
            row: Json = {"custom_id": line["custom_id"], "response": None, "error": None}
            if answer.ending == "hang":
                output["error"].append({**row, "error": {"code": "batch_expired", "message": "not executed in time"}})
            elif answer.ending == "whole":
                self._pay(answer)
                if self.echo and answer.status != 200:
                    answer = error(answer.status, f"failed for {self.echo}")
                row["response"] = {"status_code": answer.status, "body": json_or_text(answer.body)}
                output["output" if answer.status == 200 else "error"].append(row)
        for kind, rows in output.items():
            if rows:
                batch.files[kind] = self._store("".join(json.dumps(row) + "\n" for row in rows).encode())
        batch.done = len(output["output"]), lines - len(output["output"])
