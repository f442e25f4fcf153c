"""A checkpoint answering behind a vLLM server of its own, started when it is asked and stopped for training."""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal, TypeVar

from tapir.domain.completion import Completion, Failure
from tapir.domain.instruction import Instruction
from tapir.domain.round import Checkpoint
from tapir.errors import Interrupted, RoleError
from tapir.roles import Reply, Watch
from tapir.students.checkpoint import ADAPTER, base_of
from tapir.students.line import Asking, Line, Owed
from tapir.students.load import AS_IT_IS, ModelSettings, load_tokenizer
from tapir.students.server import NAME, ServedModel, Server, ServerSettings
from tapir.students.watchdog import Watchdog

KeyT = TypeVar("KeyT")

LOG = "student-server.log"
"""What the servers of a run print, in its folder."""

_LONGEST = 4  # times the patience for any reply is the patience for one
_CRASHES = 1  # that a session recovers from
_DOUBTFUL = frozenset({"connection", "cut", "timeout", "server", "malformed"})  # failures that a crash may explain
_RESUMED = "everything finished is on disk"


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """How the student answers behind its server.

    Attributes:
        python: of the environment that vLLM is installed in.
        options: further arguments of the server.
        start_timeout: seconds until a server that was started must be healthy.
        reply_timeout: seconds without any reply after which a server that owes some counts as hung.
        while_training: whether the server is stopped when training needs the memory, or kept.
        temperature: 0 is greedy.
        seed: of the run; with the instruction's id it seeds each reply that is sampled.
        adapter_rank: of the adapters that training will make: their base is served with room for them; 0 for none.
    """

    python: str
    options: tuple[str, ...]
    start_timeout: float
    reply_timeout: float
    while_training: Literal["stop", "keep"]
    max_new_tokens: int
    temperature: float
    seed: int
    adapter_rank: int = 0


class VllmStudent:
    """Asks a server like any other endpoint. One that crashes or hangs is started once more in a session."""

    def __init__(self, settings: VllmSettings, model: ModelSettings = AS_IT_IS) -> None:
        """Take the settings; a server is started when a checkpoint is first asked."""
        self._settings = settings
        self._model = model
        self._folder: Path | None = None
        self._watch: Watch | None = None
        self._server: Server | None = None
        self._line: Line | None = None
        self._path = ""  # of the checkpoint that the line leads to
        self._watchdog: Watchdog | None = None
        self._files: tempfile.TemporaryDirectory[str] | None = None
        self._adapters = count(1)
        self._loads_adapters = True
        self._crashes = 0

    def open(self, folder: Path, watch: Watch) -> None:
        """A session begins in the run's folder, where the server's log will be."""
        self._folder, self._watch, self._crashes = folder, watch, 0

    def rest(self) -> None:
        """Stop the server, unless it is to be kept while training; returns when its memory is free."""
        if self._settings.while_training == "stop":
            self._stop()

    def close(self) -> None:
        """Stop the server; returns when its memory is free."""
        try:
            self._stop()
        finally:
            self._folder = self._watch = None
            if self._files is not None:
                self._files.cleanup()
                self._files = None

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        """One reply for each instruction, as they come.

        Raises:
            RoleError: the checkpoint has no chat template; its server does not start; it crashed twice.
            Interrupted: the user stopped.
        """
        return self._answers(checkpoint, ((one.id, one) for one in instructions))

    def answer_all(
        self, checkpoint: Checkpoint, chunks: Iterable[Sequence[Instruction]]
    ) -> Iterator[tuple[int, list[Reply]]]:
        """Place of a chunk and its replies, in the order of its instructions, once all of them are there.

        Chunks are taken as there is room, and asked together. Raises what `answer` raises.
        """
        replies: dict[int, dict[int, Reply]] = {}
        sizes: dict[int, int] = {}

        def items() -> Iterator[tuple[tuple[int, int, str], Instruction]]:
            for place, chunk in enumerate(chunks):
                replies[place], sizes[place] = {}, len(chunk)
                yield from (((place, turn, one.id), one) for turn, one in enumerate(chunk))

        for (place, turn, name), reply in self._answers(checkpoint, items()):
            replies[place][turn] = name, reply
            if len(replies[place]) == sizes[place]:
                whole = replies.pop(place)
                yield place, [whole[turn] for turn in range(sizes[place])]
        yield from ((place, []) for place in replies)  # chunks of nothing

    def _answers(
        self, checkpoint: Checkpoint, asked: Iterator[tuple[KeyT, Instruction]]
    ) -> Iterator[tuple[KeyT, Completion | Failure]]:
        """Replies as they come, over the crash of a server."""
        first = next(asked, None)
        if first is None:
            return
        owed = Owed(chain([first], asked))
        lost = yield from self._turn(self._connected(checkpoint), owed)
        while lost:
            self._recover(lost)
            lost = yield from self._turn(self._connected(checkpoint), owed)

    def _turn(self, line: Line, owed: Owed[KeyT]) -> Generator[tuple[KeyT, Completion | Failure], None, str]:
        """Ask for all that is owed, until it is there or the server is lost; returns how it was lost, or nothing.

        A failure that a crash may explain counts only where the server is seen to have lived through it.
        """
        doubtful: dict[int, Failure] = {}
        ended = False
        with (
            Watchdog(line.server, self._settings.reply_timeout, self._stopping) as dog,
            closing(line.replies(owed)) as replies,
        ):
            self._watchdog = dog
            try:
                while not ended:
                    with dog.waiting():
                        found = next(replies, None)
                    yield from owed.drain()
                    if found is None:
                        ended = True
                    elif isinstance(found[1], Failure) and found[1].kind in _DOUBTFUL:
                        doubtful[found[0]] = found[1]
                    else:
                        yield owed.settled(found[0]), found[1]
            except Interrupted:
                if not dog.lost or self._stopping():
                    raise
            except RoleError as error:
                if not dog.verdict() and line.server.healthy():
                    raise _refusing(error) from error
            if ended and (not doubtful or (not dog.verdict() and line.server.healthy())):
                yield from ((owed.settled(number), failure) for number, failure in doubtful.items())
                return ""
        return dog.lost or "did not answer any more"

    def _recover(self, lost: str) -> None:
        """Clear away a server that is lost.

        Raises:
            RoleError: it is not the first.
            Interrupted: the user stopped meanwhile.
        """
        lines = self._server.last_lines() if self._server else ""
        self._stop()
        if self._stopping():
            raise Interrupted(f"stopped; {_RESUMED}")
        self._crashes += 1
        if self._crashes > _CRASHES:
            raise RoleError(
                f"the student's vLLM server {lost}, for the second time; the last lines of {self._log()}:\n{lines}",
                remedy=f"Mend what they say, by student.options for example; {_RESUMED}, `tapir resume` goes on.",
            )
        self._note(f"the student's vLLM server {lost}; it is started once more. Its last lines:\n{lines}")

    def _connected(self, checkpoint: Checkpoint) -> Line:
        """The way to a checkpoint, whose server is started if need be."""
        if self._server and not self._server.alive:
            self._recover("ended while nothing was asked of it")
        if self._line and self._path == checkpoint.path:
            return self._line
        self._disconnect()
        tokenizer = load_tokenizer(checkpoint, self._model)
        server, name = self._serving(checkpoint, tokenizer)
        settings = self._settings
        asking = Asking(settings.max_new_tokens, settings.temperature, settings.seed, _LONGEST * settings.reply_timeout)
        self._line, self._path = Line(server, name, tokenizer, asking, self._lost_or_stopping), checkpoint.path
        return self._line

    def _serving(self, checkpoint: Checkpoint, tokenizer: Any) -> tuple[Server, str]:
        """A server for a checkpoint, and what it calls it."""
        template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
        base = base_of(checkpoint.path)
        model = ServedModel(base or checkpoint.path, self._model.dtype, template, self._model.revision)
        if base is None:
            return self._running(replace(model, rank=self._settings.adapter_rank)), NAME
        adapter = f"{NAME}-{next(self._adapters)}", str(Path(checkpoint.path).absolute())
        model = replace(model, rank=_rank(checkpoint.path))
        if self._loads_adapters:
            server = self._running(model)
            refused = server.load_adapter(*adapter)
            if not refused:
                return server, adapter[0]
            self._loads_adapters = not server.alive
            self._note(
                f"the student's server does not load an adapter while it runs ({refused}); it is started with it"
            )
        return self._running(replace(model, adapters=(adapter,))), adapter[0]

    def _running(self, model: ServedModel) -> Server:
        """A server of this, which may be the one that runs."""
        if self._server and self._server.alive and self._server.model.serves(model):
            return self._server
        self._stop()
        _give_back_cache()
        settings = self._settings
        server = Server(model, ServerSettings(settings.python, settings.options, settings.start_timeout, self._log()))
        server.start(self._stopping)
        self._server = server
        return server

    def _stop(self) -> None:
        self._disconnect()
        server, self._server = self._server, None
        if server and (taken := server.stop()):
            self._note(taken)

    def _disconnect(self) -> None:
        line, self._line = self._line, None
        if line:
            line.close()

    def _log(self) -> Path:
        if self._folder is not None:
            return self._folder / LOG
        if self._files is None:
            self._files = tempfile.TemporaryDirectory(prefix="tapir-student-", ignore_cleanup_errors=True)
        return Path(self._files.name) / LOG

    def _stopping(self) -> bool:
        return self._watch is not None and self._watch.stopping

    def _lost_or_stopping(self) -> bool:
        return self._stopping() or bool(self._watchdog and self._watchdog.lost)

    def _note(self, text: str) -> None:
        if self._watch is not None:
            self._watch.note(text)


def _refusing(error: RoleError) -> RoleError:
    return RoleError(
        f"the student's vLLM server works, but not for these requests: {error}",
        remedy=f"See {LOG} in the run's folder, and student.options; {_RESUMED}, `tapir resume` goes on.",
    )


def _rank(path: str) -> int:
    """The largest rank of an adapter's matrices."""
    try:
        described = json.loads((Path(path) / ADAPTER).read_text("utf-8"))
        return max(int(described["r"]), *map(int, (described.get("rank_pattern") or {}).values()), 1)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RoleError(
            f"{path} is an adapter that no server can load: {error!r}",
            remedy='Use LoRA (training.method = "lora" or "qlora"), or student.kind = "transformers".',
        ) from error


def _give_back_cache() -> None:
    """Hand the driver what training has freed in this process and torch would keep for later."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
