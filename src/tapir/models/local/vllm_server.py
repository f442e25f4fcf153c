"""A vLLM server as a child process, from its start until its memory is free, and its watchdog."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from tapir.config.student import VllmStudentConfig
from tapir.domain.errors import Interrupted, RoleError
from tapir.models.local.loading import MODEL_DEFAULTS, ModelSettings, large_on_bfloat16_cpu
from tapir.models.process import ChildProcess, describe_status

NAME = "student"
"""What a server calls its model; adapters have names of their own."""

_HOST = "127.0.0.1"
_POLL = 0.2  # seconds between two checks of a server that starts or stops
_QUICK, _LOADING = 10.0, 600.0  # seconds for an answer about the server itself, and for an adapter
_EXIT_GRACE = 1.0  # seconds in which a server that has just ended is noticed
_STOP_GRACE = 5.0  # seconds for replies on their way when the user stops
_HEALTH_EVERY = 5.0  # seconds between two health checks
_UNHEALTHY = 3  # failed checks in a row; one alone may be a moment without a free connection
_TO_CHECK, _TO_STOP, _TO_FREE = 60.0, 30.0, 60.0  # seconds
_SLACK = 512  # MiB of an accelerator that others may have taken meanwhile
_LINES, _CAUSES, _ALL = 12, 3, 10_000  # of the log: shown from its end, shown of its errors, read
_CAUSE = re.compile(r"[A-Za-z](Error|Exception|Interrupt): \S")
_NOISE = re.compile(r"Route: /|nanobind| - leaked |\.\.\. skipped remainder")  # at the start and end of every server
_RESERVED = ("--model", "--host", "--port", "--served-model-name", "--chat-template", "--api-key")
_CACHE = "VLLM_CPU_KVCACHE_SPACE"
_ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of adapters that vLLM makes room for
_MISSING = "No module named 'vllm"
_INSTALL = (
    "Set student.python to the Python of an environment that has vLLM: `make vllm` makes .venv-vllm/bin/python for"
    " the CPU; for an accelerator, make an environment of its own and `pip install vllm` there."
)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a server serves; without an accelerator dtype "auto" is as for a student in this process."""

    model: str
    settings: ModelSettings = MODEL_DEFAULTS
    rank: int = 0  # the largest of an adapter that can be loaded; 0 where none can
    adapters: tuple[tuple[str, str], ...] = ()  # name and folder of each that is loaded from the start

    def arguments(self, template: Path) -> list[str]:
        """Return the server's arguments; `template` is the file that holds the chat template."""
        arguments = ["--model", self.model, "--served-model-name", NAME]
        for name, value in engine_arguments(self.model, self.settings, self.rank, gpu=_has_accelerator()).items():
            arguments += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        if self.settings.chat_template:
            arguments += ["--chat-template", str(template)]
        if self.adapters:
            arguments += ["--lora-modules", *(f"{name}={folder}" for name, folder in self.adapters)]
        return arguments

    def serves(self, other: ServedModel) -> bool:
        """Return whether a server of this can serve the other too."""
        same_model = (self.model, self.settings) == (other.model, other.settings)
        return same_model and other.rank <= self.rank and set(other.adapters) <= set(self.adapters)


def engine_arguments(model: str, settings: ModelSettings, rank: int, *, gpu: bool) -> dict[str, Any]:
    """Return the arguments by which an engine of vLLM loads a model as every other student does."""
    arguments: dict[str, Any] = {"dtype": settings.dtype}
    if settings.dtype == "auto" and not gpu:
        arguments["dtype"] = "bfloat16" if large_on_bfloat16_cpu(model, settings) else "float32"
    if settings.revision and not Path(model).is_dir():
        arguments |= {"revision": settings.revision, "tokenizer_revision": settings.revision}
    room = next((allowed for allowed in _ADAPTER_RANKS if allowed >= rank), rank)
    return arguments | ({"enable_lora": True, "max_lora_rank": room} if rank else {})


def engine_environment(*, gpu: bool) -> dict[str, str]:
    """Return the variables of an engine: no telemetry, and on a CPU GiB of cache; its own choice is half of all."""
    variables = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return variables if gpu else {**variables, _CACHE: os.environ.get(_CACHE, "1")}


class Server:
    """One server, until `stop`; what it prints is in the log."""

    def __init__(
        self, model: ServedModel, section: VllmStudentConfig, log: Path, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        """Start it and wait until it is healthy."""
        check(section)
        self.model, self._section, self._log = model, section, log
        self._memory_before = memory_in_use()
        with socket.create_server((_HOST, 0)) as free:
            self.port = int(free.getsockname()[1])
        self._files = tempfile.TemporaryDirectory(prefix="tapir-student-", ignore_cleanup_errors=True)
        template = Path(self._files.name) / "chat_template.jinja"
        template.write_text(model.settings.chat_template, "utf-8")
        # Not the command `vllm serve`: of the build for CPUs it does not find its own version.
        command = [section.interpreter, "-m", "vllm.entrypoints.openai.api_server", *model.arguments(template)]
        command += ["--host", _HOST, "--port", str(self.port), "--disable-uvicorn-access-log", *section.options]
        self._process = ChildProcess(command, log, environment=_environment(adapters=model.rank > 0))
        try:
            self._wait_until_healthy(stopping)
        except BaseException:
            self.kill()
            self.stop()
            raise

    @property
    def url(self) -> str:
        """Base address for a client."""
        return f"http://{_HOST}:{self.port}/v1"

    @property
    def alive(self) -> bool:
        """Whether it runs; what it has left running when it ended does not count."""
        return not self._process.ended

    def healthy(self) -> bool:
        """Return whether it takes requests."""
        try:
            return self._request("GET", "/health", _QUICK)[0] == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def context(self) -> int:
        """Return the tokens that prompt and answer may have together; 0 where the server does not say."""
        try:
            _, content = self._request("GET", "/v1/models", _QUICK)
            return max(int(model.get("max_model_len") or 0) for model in json.loads(content)["data"])
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError):
            return 0

    def load_adapter(self, name: str, folder: str) -> str:
        """Have a server that runs serve an adapter too; return why it cannot, or nothing."""
        body = {"lora_name": name, "lora_path": folder}
        try:
            status, content = self._request("POST", "/v1/load_lora_adapter", _LOADING, body)
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        return "" if status == HTTPStatus.OK else f"HTTP {status}: {content[:300].decode(errors='replace')}"

    def last_lines(self) -> str:
        """Return how it ended and the last lines it printed; before them the first errors, which tend to be causes."""
        lines = [line for line in self._process.last_lines(_ALL) if not _NOISE.search(line)]
        causes = [line for line in lines[:-_LINES] if _CAUSE.search(line)][:_CAUSES]
        shown = [*causes, *["..."] * bool(causes), *lines[-_LINES:]] or ["(it printed nothing)"]
        if (status := self._process.command_status) is not None:
            shown.append(f"the server ended with {describe_status(status)}")
        return "\n".join(f"    {line}" for line in shown)

    def kill(self) -> None:
        """End all its processes at once; any thread may do so."""
        self._process.kill()

    def stop(self) -> str:
        """End it, in order if it listens, and wait for its memory; return what is not free then, if anything."""
        self._process.stop(_TO_STOP)
        self._files.cleanup()
        deadline, before = time.monotonic() + _TO_FREE, self._memory_before
        while before:
            now = memory_in_use()
            more = {card: now[card] - used for card, used in before.items() if now.get(card, 0) > used + _SLACK}
            if not more:
                break
            if time.monotonic() > deadline:
                cards = ", ".join(f"{count} MiB of card {card}" for card, count in more.items())
                return f"{cards} were not free {_TO_FREE:g} s after the student's server had ended"
            time.sleep(_POLL)
        return ""

    def _wait_until_healthy(self, stopping: Callable[[], bool]) -> None:
        timeout = self._section.start_timeout
        deadline = time.monotonic() + timeout
        while not self.healthy() and self.alive:
            if stopping():
                raise Interrupted("stopped; everything finished is on disk")
            if time.monotonic() > deadline:
                raise self._not_started(f"was not healthy after {timeout:g} s")
            time.sleep(_POLL)
        if not self.alive:  # healthy may be another program that took its port
            raise self._not_started("ended while it was starting")

    def _not_started(self, why: str) -> RoleError:
        lines = self.last_lines()
        if _MISSING in lines:
            return _without_vllm(self._section.python)
        return RoleError(
            f"the student's vLLM server {why}; the last lines of {self._log}:\n{lines}",
            remedy="Fix what they say: student.options are arguments of the server, student.python is its"
            " environment; raise student.start_timeout where it was still loading. `tapir resume` then goes on.",
        )

    def _request(self, method: str, path: str, timeout: float, body: Any = None) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection(_HOST, self.port, timeout=timeout)) as connection:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
            response = connection.getresponse()
            return response.status, response.read()


class Watchdog:
    """A thread that watches a server while replies are pending. A lost server is gone, unhealthy, or silent.

    A lost server is killed, so that nobody waits for it any longer; so is one whose replies the user does not want
    any more, after a while in which those on their way may come.
    """

    def __init__(self, server: Server, patience: float, stopping: Callable[[], bool] = lambda: False) -> None:
        self.lost = ""  # what is wrong, as the end of a sentence
        self._stopping = stopping
        self._server = server
        self._patience = patience
        self._waiting_since: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tapir-watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark that a reply is waited for; only then can the server be silent."""
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since = None

    def verdict(self) -> str:
        """Return what is wrong, after a moment in which the end of a server is noticed."""
        self._thread.join(_EXIT_GRACE)
        return self.lost

    def _watch(self) -> None:
        checked, unhealthy, stopped = time.monotonic(), 0, float("inf")
        while not self._done.wait(_POLL):
            since, now = self._waiting_since, time.monotonic()
            if self._stopping():
                stopped = min(stopped, now)
            if not self._server.alive:
                self.lost = "ended"
            elif since is not None and now - since > self._patience:
                self.lost = f"gave no reply for {self._patience:g} s (student.reply_timeout)"
            elif now - stopped > _STOP_GRACE:
                self.lost = "was ended because the user stopped"
            elif now - checked > _HEALTH_EVERY:
                replied = since is not None and since > checked
                unhealthy = 0 if replied or self._server.healthy() else unhealthy + 1
                checked = time.monotonic()
                self.lost = "was not healthy any more" if unhealthy >= _UNHEALTHY else ""
            if self.lost:
                self._server.kill()
                return


def check(section: VllmStudentConfig) -> None:
    """Raise `RoleError` unless vLLM is installed in its environment and no option is one of ours."""
    check_options(section.options)
    python = section.python
    program = "from importlib.util import find_spec; raise SystemExit(not getattr(find_spec('vllm'), 'origin', None))"
    command = [section.interpreter, "-c", program]
    try:
        result = subprocess.run(command, capture_output=True, check=False, timeout=_TO_CHECK)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RoleError(f"student.python = {python!r} cannot be run: {error}", remedy=_INSTALL) from error
    if result.returncode:
        raise _without_vllm(python)


def check_options(options: Sequence[str]) -> None:
    """Raise `RoleError` where an option is one of ours."""
    for option in options:
        if option.split("=")[0] in _RESERVED:
            raise RoleError(
                f"student.options may not hold {option!r}: tapir sets that itself",
                remedy="Take it out; model, revision, chat_template and dtype are keys of [student].",
            )


def _without_vllm(python: str) -> RoleError:
    return RoleError(f"student.python = {python!r} is a Python without vLLM", remedy=_INSTALL)


def _environment(*, adapters: bool) -> dict[str, str]:
    """Return our environment without telemetry, and without a key that our own calls would not bring."""
    environment = {**os.environ, **engine_environment(gpu=_has_accelerator())}
    environment.pop("VLLM_API_KEY", None)
    if adapters:
        environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    return environment


def _has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available()


def memory_in_use() -> dict[str, int]:
    """Return the MiB in use on each NVIDIA card that we may use, by its number; empty where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    command = [program, "--query-gpu=index,memory.used", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    for selection in ([f"--id={visible}"] if visible else [], []):
        with suppress(OSError, subprocess.SubprocessError, ValueError):
            output = subprocess.check_output(  # noqa: S603
                [*command, *selection], stderr=subprocess.DEVNULL, timeout=_QUICK, text=True
            )
            pairs = [line.split(",") for line in output.splitlines() if line.strip()]
            return {index.strip(): int(used) for index, used in pairs}
    return {}
