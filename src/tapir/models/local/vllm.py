"""A student behind a vLLM server: the calls to it, and recovery from a crash."""

from __future__ import annotations

import os
import tempfile
import urllib.request
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from tapir.config.endpoints import EndpointConfig
from tapir.config.student import VllmStudentConfig
from tapir.config.training import SftConfig
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.errors import Interrupted, RoleError
from tapir.domain.instruction import Instruction
from tapir.domain.progress import Progress, SilentProgress
from tapir.domain.randomness import seed_for
from tapir.domain.roles import Reply
from tapir.domain.round import Checkpoint
from tapir.models.api.client import ApiClient
from tapir.models.api.connection import OUTAGES
from tapir.models.api.protocol import Request, Sampling
from tapir.models.api.retry import RetryPolicy
from tapir.models.context import BuildContext
from tapir.models.local.loading import MODEL_DEFAULTS, ModelSettings, adapter_rank, base_of, load_tokenizer
from tapir.models.local.template import TEMPLATE, ReplyReader, dated, prompt_tokens, too_long
from tapir.models.local.vllm_server import NAME, ServedModel, Server, Watchdog, check
from tapir.models.memory import free_memory

LOG = "student-server.log"
"""What the servers of a run print, in its folder."""

KeyT = TypeVar("KeyT")

_MAX_CRASHES = 1  # that a session recovers from
_CONCURRENCY = 512  # calls; more than a server works on at once, so that it never waits for us
_PAUSES = 0.02  # times the usual ones between attempts: the server is near, and ours
_LONGEST = 4  # times the patience for any reply is the patience for one
_RESUME = "everything finished is on disk, `tapir resume` goes on"


@dataclass(slots=True)
class Pending(Generic[KeyT]):
    """Instructions that are not answered yet; they survive the crash of a server."""

    source: Iterator[tuple[KeyT, Instruction]]
    sent: dict[int, tuple[KeyT, Instruction]] = field(default_factory=dict)  # by the number of the request
    refused: list[tuple[KeyT, Failure]] = field(default_factory=list)  # what could not be sent at all
    _numbers: Iterator[int] = field(default_factory=count)

    def requests(self, make: Callable[[Instruction], Request | Failure]) -> Iterator[tuple[int, Request]]:
        """Yield first what was sent before and has no reply, then the rest."""
        before = list(self.sent.items())
        for number, (key, instruction) in chain(before, ((next(self._numbers), item) for item in self.source)):
            request = make(instruction)
            if isinstance(request, Failure):
                self.sent.pop(number, None)
                self.refused.append((key, request))
            else:
                self.sent[number] = key, instruction
                yield number, request


class VllmClient:
    """Calls to one checkpoint behind a server.

    The client's ledger is a file that is gone with it: these replies cost nothing, and the run keeps them.
    """

    def __init__(
        self,
        server: Server,
        name: str,
        tokenizer: Any,
        section: VllmStudentConfig,
        seed: int,
        stopping: Callable[[], bool],
    ) -> None:
        self.server, self._tokenizer, self._section, self._seed = server, tokenizer, section, seed
        self._context = server.context()
        empty = [{"role": "user", "content": ""}]
        self._template_tokens = len(tokenizer.apply_chat_template(empty, add_generation_prompt=True, return_dict=False))
        self._files = tempfile.TemporaryDirectory(prefix="tapir-replies-", ignore_cleanup_errors=True)
        if (proxies := urllib.request.getproxies()) and not urllib.request.proxy_bypass("127.0.0.1"):
            os.environ["no_proxy"] = ",".join(filter(None, (proxies.get("no"), "127.0.0.1")))
        timeout = _LONGEST * section.reply_timeout
        bound = tokenizer.apply_chat_template.keywords
        variables = {name: value for name, value in bound.items() if name != TEMPLATE}  # that one the server was given
        extra: dict[str, Any] = {"chat_template_kwargs": variables} if variables else {}
        self._reader = ReplyReader(tokenizer)
        extra |= {"skip_special_tokens": False} if self._reader.marked else {}
        endpoint = EndpointConfig(
            base_url=server.url, model=name, concurrency=_CONCURRENCY, timeout=timeout, extra=extra
        )
        ledger, retry = Path(self._files.name) / "replies.sqlite", RetryPolicy(pause_factor=_PAUSES)
        self._client = ApiClient({NAME: endpoint}, ledger, stopping, retry=retry)

    def close(self) -> None:
        """End the calls; the server goes on."""
        self._client.close()
        self._files.cleanup()

    def replies(self, pending: Pending[KeyT]) -> Generator[tuple[int, Completion | Failure], None, None]:
        """Yield number and reply of each pending request; the token that ends a reply is not counted."""
        for number, reply in self._client.stream((NAME,), pending.requests(self._request)):
            if isinstance(reply, Completion):
                tokens = max(0, reply.usage.completion_tokens - (reply.finish_reason == "stop"))
                usage = Usage(reply.usage.prompt_tokens, tokens)
                reply = replace(reply, model=NAME, usage=usage).parted(self._reader.begun)  # noqa: PLW2901
                reply = self._reader.within(reply, self._section)  # noqa: PLW2901
            yield number, reply

    def _request(self, instruction: Instruction) -> Request | Failure:
        """Return the request for an instruction, or a failure where the template refuses it or it is too long.

        Templates refuse turns before the question, and hardly any text has more tokens than bytes: few are tried here.
        """
        section, sampled = self._section, self._section.temperature > 0
        left = self._context - section.longest
        size = sum(self._template_tokens + len(message["content"].encode()) for message in instruction.messages)
        if instruction.context or (self._context and size > left):
            (tokens,) = prompt_tokens(self._tokenizer, [instruction.messages])
            if isinstance(tokens, Failure):
                return tokens
            if self._context and len(tokens) > left:
                return too_long(len(tokens), section.longest, self._context)
        seed = seed_for(self._seed, instruction.id) if sampled else None
        sampling = Sampling(section.temperature, section.longest, seed=seed)
        return Request(instruction.messages, sampling, sample=seed or 0)


class VllmStudent:
    """Asks a server like any other endpoint. One that crashes or hangs is started once more in a session."""

    def __init__(
        self, section: VllmStudentConfig, seed: int, model: ModelSettings = MODEL_DEFAULTS, *, training_rank: int = 0
    ) -> None:
        # The base is served with room for adapters of `training_rank`, which training will make.
        self._section, self._seed, self._model, self._training_rank = section, seed, model, training_rank
        self._folder: Path | None = None
        self._progress: Progress = SilentProgress()
        self._server: Server | None = None
        self._client: VllmClient | None = None
        self._path = ""  # of the checkpoint that the client calls
        self._watchdog: Watchdog | None = None
        self._adapters = count(1)
        self._loads_adapters = True
        self._crashes = 0

    @classmethod
    def build(cls, section: VllmStudentConfig, context: BuildContext) -> Self:
        """Return the student of a run."""
        check(section)
        training = context.recipe.training
        rank = training.lora.rank if isinstance(training, SftConfig) and training.method != "full" else 0
        return cls(section, context.recipe.seed, ModelSettings.of(section), training_rank=rank)

    def open(self, folder: Path, progress: Progress) -> None:
        """Begin a session in the run's folder, where the server's log will be."""
        self._folder, self._progress, self._crashes = folder, progress, 0

    def rest(self) -> None:
        """Stop the server, unless it is to be kept while training; returns when its memory is free."""
        if self._section.while_training == "stop":
            self._stop()

    def close(self) -> None:
        """Stop the server; returns when its memory is free."""
        try:
            self._stop()
        finally:
            self._folder, self._progress = None, SilentProgress()

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        """Answer each instruction; replies come in any order."""
        return self._answer(checkpoint, ((instruction.id, instruction) for instruction in instructions))

    def answer_all(
        self, checkpoint: Checkpoint, chunks: Iterable[Sequence[Instruction]]
    ) -> Iterator[tuple[int, list[Reply]]]:
        """Yield place and replies of each chunk; chunks are taken as there is room, and requested together."""
        sizes: dict[int, int] = {}
        replies: dict[int, dict[int, Reply]] = {}

        def items() -> Iterator[tuple[tuple[int, int, str], Instruction]]:
            for place, chunk in enumerate(chunks):
                sizes[place], replies[place] = len(chunk), {}
                yield from (((place, turn, instruction.id), instruction) for turn, instruction in enumerate(chunk))

        for (place, turn, name), reply in self._answer(checkpoint, items()):
            replies[place][turn] = name, reply
            if len(replies[place]) == sizes[place]:
                chunk_replies = replies.pop(place)
                yield place, [chunk_replies[turn] for turn in range(sizes[place])]
        yield from ((place, []) for place in replies)  # empty chunks

    def _answer(
        self, checkpoint: Checkpoint, items: Iterator[tuple[KeyT, Instruction]]
    ) -> Iterator[tuple[KeyT, Completion | Failure]]:
        first = next(items, None)
        if first is None:
            return
        pending = Pending(chain([first], items))
        while lost := (yield from self._attempt(self._connect(checkpoint), pending)):
            self._recover(lost)

    def _attempt(
        self, client: VllmClient, pending: Pending[KeyT]
    ) -> Generator[tuple[KeyT, Completion | Failure], None, str]:
        """Request all that is pending, until it is there or the server is lost; returns how it was lost, or nothing.

        A failure that a crash may explain counts only where the server lived through it.
        """
        doubtful: dict[int, Failure] = {}
        ended = False
        with (
            Watchdog(client.server, self._section.reply_timeout, self._stopping) as watchdog,
            closing(client.replies(pending)) as replies,
        ):
            self._watchdog = watchdog
            try:
                while not ended:
                    with watchdog.waiting():
                        item = next(replies, None)
                    while pending.refused:
                        yield pending.refused.pop(0)
                    if item is None:
                        ended = True
                    elif isinstance(item[1], Failure) and item[1].kind in OUTAGES:
                        doubtful[item[0]] = item[1]
                    else:
                        yield pending.sent.pop(item[0])[0], item[1]
            except Interrupted:
                if not watchdog.lost or self._stopping():
                    raise
            except RoleError as error:
                if not watchdog.verdict() and client.server.healthy():
                    raise RoleError(
                        f"the student's vLLM server works, but not for these requests: {error}",
                        remedy=f"See {LOG} in the run's folder, and student.options; {_RESUME}.",
                    ) from error
            if ended and (not doubtful or (not watchdog.verdict() and client.server.healthy())):
                yield from ((pending.sent.pop(number)[0], failure) for number, failure in doubtful.items())
                return ""
        return watchdog.lost or "did not answer any more"

    def _recover(self, lost: str) -> None:
        lines = self._server.last_lines() if self._server else ""
        self._stop()
        self._progress.check()
        self._crashes += 1
        if self._crashes > _MAX_CRASHES:
            raise RoleError(
                f"the student's vLLM server {lost}, for the second time; the last lines of {self._log()}:\n{lines}",
                remedy=f"Fix what they say, by student.options for example; {_RESUME}.",
            )
        self._progress.note(f"the student's vLLM server {lost}; it is started once more. Its last lines:\n{lines}")

    def _connect(self, checkpoint: Checkpoint) -> VllmClient:
        if self._server and not self._server.alive:
            self._recover("ended while no reply was pending")
        if self._client and self._path == checkpoint.path:
            return self._client
        self._disconnect()
        tokenizer = load_tokenizer(checkpoint, self._model)
        server, name = self._serve(checkpoint, tokenizer)

        def stopping() -> bool:
            return self._stopping() or bool(self._watchdog and self._watchdog.lost)

        self._client = VllmClient(server, name, tokenizer, self._section, self._seed, stopping)
        self._path = checkpoint.path
        return self._client

    def _serve(self, checkpoint: Checkpoint, tokenizer: Any) -> tuple[Server, str]:
        """Return a server of a checkpoint, and the checkpoint's name in it."""
        template = dated(tokenizer.get_chat_template(), self._model.date)
        base = base_of(checkpoint.path)
        model = ServedModel(base or checkpoint.path, replace(self._model, chat_template=template))
        if base is None:
            return self._start(replace(model, rank=self._training_rank)), NAME
        name, folder = f"{NAME}-{next(self._adapters)}", str(Path(checkpoint.path).absolute())
        model = replace(model, rank=adapter_rank(checkpoint.path))
        if self._loads_adapters:
            server = self._start(model)
            refusal = server.load_adapter(name, folder)
            if not refusal:
                return server, name
            self._loads_adapters = not server.alive
            self._progress.note(
                f"the student's server does not load an adapter while it runs ({refusal}); it is started with it"
            )
        return self._start(replace(model, adapters=((name, folder),))), name

    def _start(self, model: ServedModel) -> Server:
        """Return a server of this model, which may be the one that runs."""
        if self._server and self._server.alive and self._server.model.serves(model):
            return self._server
        self._stop()
        free_memory()  # what training has freed in this process, torch would keep for later
        self._server = Server(model, self._section, self._log(), self._stopping)
        return self._server

    def _stop(self) -> None:
        self._disconnect()
        server, self._server = self._server, None
        if server and (taken := server.stop()):
            self._progress.note(taken)

    def _disconnect(self) -> None:
        if self._client:
            self._client.close()
        self._client = None

    def _log(self) -> Path:
        if self._folder is None:
            raise RoleError("the student was used outside of a run", remedy="Call open() first.")
        return self._folder / LOG

    def _stopping(self) -> bool:
        return self._progress.stopping
