"""Whole HTTP replies of any kind against the client: no error but ours, no invented text, no token uncounted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.calling import answering, asking, client, endpoint
from tapir.domain.completion import THOUGHTS, Completion, Failure
from tapir.models.api.client import ApiClient
from tapir.models.api.connection import CallError
from tapir.models.api.protocol import body, pack, unpack

SENT = body(endpoint(), asking("What is it?"))
MALICE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
UNMARKED = TEXT.filter(lambda text: not {*text} & {mark[0] for mark in THOUGHTS})  # texts may be drawn from the source
FINISH = st.sampled_from(["stop", "length", "content_filter", "error", "eos_token", "Odd", None]) | JSON
COUNTS = st.tuples(st.integers(1, 10**6), st.integers(1, 10**6))
LINES = (
    *(
        "Retry-After: 1e999",
        "Retry-After: 1e300",
        "Retry-After: -5",
        "Retry-After: Mon, 99",
        "Retry-After-Ms: nan",
        "Date: then",
    ),
    *("Content-Type: text/html; charset=nonsense", "Set-Cookie: a=b", "X-Odd: \x80", "Content-Encoding: br"),
)


@dataclass
class Talk:
    """Two clients of a server that says what it is told to; one of them asks for streams."""

    said: bytes = b""
    clients: dict[bool, ApiClient] = field(default_factory=dict)

    def ask(self, said: bytes, *, stream: bool) -> Completion | CallError:
        self.said = said
        connection = self.clients[stream].endpoints["e"]
        call = connection.acquire(time.monotonic(), len(SENT))
        found = self.clients[stream].wait_for(connection.call(call, SENT))
        assert all(isinstance(line, str) for line in connection.news(time.monotonic()))
        return found


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    talk = Talk()
    with ExitStack() as opened:
        url = opened.enter_context(answering(lambda: talk.said))
        for stream in (False, True):
            folder = tmp_path_factory.mktemp("ledger")
            talk.clients[stream] = opened.enter_context(client(endpoint(url, stream=stream), folder))
        yield talk


@st.composite
def http(draw: st.DrawFn, content: bytes, *, whole: bool = False) -> bytes:
    """A reply with this content as some server might send it; with `whole` as one that means well."""
    status = 200 if whole else draw(st.sampled_from([200, 200, 200, 204, 301, 400, 401, 404, 429, 500, 529]))
    headers = [] if whole else draw(st.lists(st.sampled_from(LINES), max_size=2, unique=True))
    how = draw(st.sampled_from(["length", "chunks", "close"]))
    if how == "chunks":
        size = draw(st.integers(1, 200))
        headers.append("Transfer-Encoding: chunked")
        pieces = [content[at : at + size] for at in range(0, len(content), size)]
        content = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        content += b"0\r\n\r\n" if whole or draw(st.booleans()) else b"zz"
    elif how == "length":
        off = 0 if whole else draw(st.sampled_from([0, 0, -3, 5]))
        headers.append(f"Content-Length: {max(0, len(content) + off)}")
    head = "".join(f"{line}\r\n" for line in [f"HTTP/1.1 {status} Odd", *headers, "Connection: close", ""])
    return head.encode("latin-1") + content


def reply(content: Any, finish: Any, usage: Any, more: Any = None) -> dict[str, Any]:
    return {
        "choices": [{"message": {"content": content, "reasoning": more}, "finish_reason": finish, "logprobs": more}],
        "usage": usage,
    }


def stream(deltas: list[Any], finish: Any, usage: Any) -> bytes:
    events = [{"choices": [{"delta": delta}]} for delta in deltas]
    events += [{"choices": [{"delta": {}, "finish_reason": finish}]}, {"choices": [], "usage": usage}]
    return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"


REPLIES = st.builds(reply, TEXT | JSON, FINISH, JSON, JSON).map(json.dumps).map(str.encode)
STREAMS = st.builds(stream, st.lists(JSON | TEXT.map(lambda text: {"content": text}), max_size=4), FINISH, JSON)
CONTENTS = REPLIES | STREAMS | JSON.map(json.dumps).map(str.encode) | st.binary(max_size=100)


@MALICE
@given(data=st.data(), streaming=st.booleans())
def test_no_http_reply_is_an_error_of_ours(talk: Talk, data: st.DataObject, streaming: bool) -> None:  # noqa: FBT001
    content = data.draw(CONTENTS | st.integers().map(lambda days: b"again in %d days" % days))
    said = data.draw(http(content) | st.binary(max_size=60))
    found = talk.ask(said, stream=streaming)
    if isinstance(found, CallError):
        assert isinstance(found.failure, Failure)
        assert found.failure.message
        assert found.retry_after is None or 0 <= found.retry_after < float("inf")
    else:
        assert replace(unpack(pack(found)), unknown_finish=found.unknown_finish) == found


@pytest.mark.parametrize(
    ("header", "content"), [("Retry-After: 1e300", b""), ("X-Y: z", b"try again in 9%d days" % 10**400)]
)
def test_a_pause_of_more_than_years_is_said_as_one_of_years(talk: Talk, header: str, content: bytes) -> None:
    head = f"HTTP/1.1 429 Slowly\r\n{header}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    found = talk.ask(head.encode() + content, stream=False)
    assert isinstance(found, CallError)
    assert found.retry_after == 1e8


@MALICE
@given(data=st.data(), text=UNMARKED | st.none(), finish=FINISH, counts=COUNTS, thought=st.integers(0, 10**6))
def test_no_token_in_the_body_is_uncounted_and_no_text_is_invented(
    talk: Talk, data: st.DataObject, text: str | None, finish: Any, counts: tuple[int, int], thought: int
) -> None:
    read, wrote = counts
    usage = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote + thought}
    streaming = data.draw(st.booleans())
    pieces = [{"content": piece} for piece in (text or "")]
    content = stream(pieces, finish, usage) if streaming else json.dumps(reply(text, finish, usage)).encode()
    found = talk.ask(data.draw(http(content, whole=True)), stream=streaming)
    counted = found.usage if isinstance(found, Completion) else found.failure.usage
    assert counted is not None
    assert (counted.prompt_tokens, counted.completion_tokens) == (read, wrote + thought)
    if isinstance(found, Completion):
        assert found.text == (text or "")
