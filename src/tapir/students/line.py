"""The calls to one checkpoint behind a server: what is asked for an instruction, what is owed, how a reply is read."""

from __future__ import annotations

import json
import os
import tempfile
import urllib.request
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Generic, TypeVar

from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.instruction import Instruction
from tapir.domain.randomness import seed_for
from tapir.llm.endpoint import Endpoint
from tapir.llm.engine import Engine, Settings
from tapir.llm.flow import Job
from tapir.llm.lane import Lane
from tapir.llm.wire import Message, Request, Sampling
from tapir.students.server import NAME, Server

KeyT = TypeVar("KeyT")

_AT_ONCE = 512  # calls; more than a server works on at once, so that it never waits for us
_ATTEMPTS = 12  # a call that takes long among short ones is given up and sent again, with ever more patience
_PAUSES = 0.02  # times the usual ones between attempts: the server is near, and ours


@dataclass(frozen=True, slots=True)
class Asking:
    """How a student is asked.

    Attributes:
        temperature: 0 is greedy.
        seed: of the run; with the instruction's id it seeds each reply that is sampled.
        timeout: seconds for one reply, at most.
    """

    max_new_tokens: int
    temperature: float
    seed: int
    timeout: float


class _SeedingEngine(Engine):
    """Sends the number of a request's sample as the seed to draw the reply with."""

    def _prepared(
        self, lanes: Sequence[Lane], fresh: Sequence[tuple[KeyT, Request]], first: int
    ) -> Iterator[tuple[KeyT, Job | Completion]]:
        prepared = super()._prepared(lanes, fresh, first)
        for (key, job), (_, request) in zip(prepared, fresh, strict=True):
            if isinstance(job, Job):
                job.sent = [json.dumps({**json.loads(one), "seed": request.sample}).encode() for one in job.sent]
            yield key, job


class Line:
    """The way to one checkpoint, through an engine as to any other endpoint.

    The engine's ledger is a file that is gone with it: these replies cost nothing, and whoever asks keeps them.
    """

    def __init__(
        self, server: Server, model: str, tokenizer: Any, asking: Asking, stopping: Callable[[], bool]
    ) -> None:
        """Be ready to call.

        Args:
            server: runs.
            model: what it calls the checkpoint.
            tokenizer: of the checkpoint, to count long prompts.
            asking: how.
            stopping: asked before every call.
        """
        self.server = server
        self._tokenizer = tokenizer
        self._asking = asking
        self._context = server.context()
        self._frame = self._tokens("")
        self._files = tempfile.TemporaryDirectory(prefix="tapir-replies-", ignore_cleanup_errors=True)
        _reach_directly()
        endpoint = Endpoint(NAME, server.url, model, concurrency=_AT_ONCE, timeout=asking.timeout)
        settings = Settings(Path(self._files.name) / "replies.sqlite", attempts=_ATTEMPTS, patience=_PAUSES)
        self._engine = (_SeedingEngine if asking.temperature else Engine)([endpoint], settings, stopping)

    def close(self) -> None:
        """End the calls; the server goes on."""
        self._engine.close()
        self._files.cleanup()

    def replies(self, owed: Owed[KeyT]) -> Generator[tuple[int, Completion | Failure], None, None]:
        """Number and reply of each request that is owed, as they come; raises what `Engine.stream` raises."""
        for number, reply in self._engine.stream((NAME,), owed.requests(self._request)):
            yield number, reply if isinstance(reply, Failure) else _as_ours(reply)

    def _request(self, one: Instruction) -> Request | Failure:
        """What the server is asked for an instruction, or that it is too long to be asked, as for any student.

        Hardly any text has more tokens than bytes, so that few have to be counted.
        """
        asking = self._asking
        left = self._context - asking.max_new_tokens
        if self._context and self._frame + len(one.text.encode()) > left and (prompt := self._tokens(one.text)) > left:
            return Failure(
                "too long",
                f"the prompt has {prompt} tokens; with student.max_new_tokens = {asking.max_new_tokens} that is more"
                f" than the {self._context} that the student's server takes",
            )
        seed = seed_for(asking.seed, one.id) if asking.temperature else 0
        sampling = Sampling(asking.temperature, asking.max_new_tokens)
        return Request([Message(role="user", content=one.text)], sampling, sample=seed)

    def _tokens(self, text: str) -> int:
        """How many a prompt has, the chat template's included."""
        chat = [{"role": "user", "content": text}]
        ids = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
        return len(ids)


@dataclass(slots=True)
class Owed(Generic[KeyT]):
    """What is to be answered: taken one by one, and kept until it is.

    Attributes:
        taken: key and instruction by the number of the request.
        refused: what could not be asked at all.
    """

    source: Iterator[tuple[KeyT, Instruction]]
    taken: dict[int, tuple[KeyT, Instruction]] = field(default_factory=dict)
    refused: list[tuple[KeyT, Failure]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def requests(self, asked: Callable[[Instruction], Request | Failure]) -> Iterator[tuple[int, Request]]:
        """First what was taken before and is owed still, then the rest."""
        before = list(self.taken.items())
        for number, (key, one) in chain(before, ((next(self._numbers), item) for item in self.source)):
            request = asked(one)
            if isinstance(request, Failure):
                self.taken.pop(number, None)
                self.refused.append((key, request))
            else:
                self.taken[number] = key, one
                yield number, request

    def settled(self, number: int) -> KeyT:
        """The key of a request that has its reply."""
        return self.taken.pop(number)[0]

    def drain(self) -> list[tuple[KeyT, Failure]]:
        """What was refused since the last time."""
        found, self.refused = self.refused, []
        return found


def _as_ours(reply: Completion) -> Completion:
    """A reply as every student gives it: the token that ends it is no part of it."""
    written = reply.usage.completion_tokens - (reply.finish_reason == "stop")
    return replace(reply, model=NAME, usage=Usage(reply.usage.prompt_tokens, max(0, written)))


def _reach_directly() -> None:
    """Where calls go through a proxy, those to this machine do not."""
    proxies = urllib.request.getproxies()
    passed_by = proxies.get("no", "")
    if proxies and "127.0.0.1" not in passed_by.split(","):
        os.environ["no_proxy"] = ",".join(filter(None, (passed_by, "127.0.0.1")))
