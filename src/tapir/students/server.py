"""A vLLM server as a process of ours: started, waited for, ended, and its memory given back."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tapir.errors import Interrupted, RoleError
from tapir.store.files import disk_errors
from tapir.students import guard

NAME = "student"
"""What a server calls its model; adapters have names of their own."""

_HOST = "127.0.0.1"
_LOOK = 0.2  # seconds between two looks at a server that starts or stops
_QUICK, _LOADING = 10.0, 600.0  # seconds for an answer about the server itself, and for an adapter
_TO_ASK, _TO_STOP, _TO_FREE = 60.0, 30.0, 60.0  # seconds
_SLACK = 512  # MiB of an accelerator that others may have taken meanwhile
_LINES, _CAUSES, _WIDTH = 12, 3, 300  # of the log, where it is shown
_TAIL = 1 << 18  # bytes
_CAUSE = re.compile(r"[A-Za-z](Error|Exception|Interrupt): \S")
_NOISE = re.compile(r"Route: /|nanobind| - leaked |\.\.\. skipped remainder")  # at the start and end of every server
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_OURS = ("--model", "--host", "--port", "--served-model-name", "--chat-template", "--api-key")
_MISSING = "No module named 'vllm"
_INSTALL = (
    "Set student.python to the Python of an environment that has vLLM: `make vllm` makes .venv-vllm/bin/python for"
    " the CPU; for an accelerator, make an environment of its own and `pip install vllm` there."
)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a server serves.

    Attributes:
        model: a folder, or the id of a model on a hub.
        dtype: "auto" is float32 on a machine without an accelerator, and elsewhere left to the server.
        chat_template: Jinja text; empty leaves it to the server.
        revision: of a model on a hub; empty is the newest.
        rank: the largest rank of an adapter that can be loaded; 0 where none can.
        adapters: name and folder of each that is loaded from the start.
    """

    model: str
    dtype: str = "auto"
    chat_template: str = ""
    revision: str = ""
    rank: int = 0
    adapters: tuple[tuple[str, str], ...] = ()

    def arguments(self, template: Path) -> list[str]:
        """For the server's command line; `template` is the file that holds the chat template."""
        found = ["--model", self.model, "--served-model-name", NAME]
        dtype = "float32" if self.dtype == "auto" and not _accelerated() else self.dtype
        found += ["--dtype", dtype]
        if self.chat_template:
            found += ["--chat-template", str(template)]
        if self.revision and not Path(self.model).is_dir():
            found += ["--revision", self.revision, "--tokenizer-revision", self.revision]
        if self.rank:
            allowed = next((rank for rank in _RANKS if rank >= self.rank), self.rank)
            found += ["--enable-lora", "--max-lora-rank", str(allowed)]
        if self.adapters:
            found += ["--lora-modules", *(f"{name}={folder}" for name, folder in self.adapters)]
        return found

    def serves(self, other: ServedModel) -> bool:
        """Whether a server of this can serve the other too."""
        alike = replace(self, rank=0, adapters=()) == replace(other, rank=0, adapters=())
        return alike and other.rank <= self.rank and set(other.adapters) <= set(self.adapters)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a server is started.

    Attributes:
        python: of the environment that vLLM is installed in.
        options: further arguments of the server; they win over ours.
        start_timeout: seconds until it must be healthy.
        log: file that all it prints is added to.
    """

    python: str
    options: tuple[str, ...]
    start_timeout: float
    log: Path


class Server:
    """One server, from `start` to `stop`; what it prints is in the log."""

    def __init__(self, model: ServedModel, settings: ServerSettings) -> None:
        """Nothing is started yet."""
        self.model = model
        self.port = 0
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._files: tempfile.TemporaryDirectory[str] | None = None
        self._begins = 0
        self._taken: Mapping[str, int] = {}

    @property
    def url(self) -> str:
        """What a client is given as its base address."""
        return f"http://{_HOST}:{self.port}/v1"

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        process = self._process
        return process is not None and process.poll() is None

    def start(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Start it and wait until it is healthy.

        Raises:
            RoleError: it cannot be started, ends while starting, or is not healthy in time; nothing of it is left.
            Interrupted: the user stopped meanwhile.
        """
        check(self._settings.python, self._settings.options)
        self._taken = memory_taken()
        self.port = _free_port()
        self._files = tempfile.TemporaryDirectory(prefix="tapir-student-", ignore_cleanup_errors=True)
        template = Path(self._files.name) / "chat_template.jinja"
        template.write_text(self.model.chat_template, "utf-8")
        # Not the command `vllm serve`: of the build for CPUs it does not find its own version.
        command = [self._settings.python, "-m", "vllm.entrypoints.openai.api_server", *self.model.arguments(template)]
        command += ["--host", _HOST, "--port", str(self.port), "--disable-uvicorn-access-log", *self._settings.options]
        log = self._settings.log
        with disk_errors(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                self._begins = output.tell()
                self._process = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-I", "-S", str(guard.__file__), str(os.getpid()), *command],
                    env=_environment(adapters=self.model.rank > 0),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        try:
            self._wait_until_healthy(stopping)
        except BaseException:
            self.kill()
            self.stop()
            raise

    def healthy(self) -> bool:
        """Whether it takes requests."""
        try:
            return self._ask("GET", "/health", _QUICK)[0] == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def context(self) -> int:
        """Tokens that prompt and answer may have together; 0 where the server does not tell."""
        try:
            _, content = self._ask("GET", "/v1/models", _QUICK)
            return max(int(one.get("max_model_len") or 0) for one in json.loads(content)["data"])
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError):
            return 0

    def load_adapter(self, name: str, folder: str) -> str:
        """Have a server that runs serve an adapter too; why it cannot, or nothing."""
        try:
            status, content = self._ask(
                "POST", "/v1/load_lora_adapter", _LOADING, {"lora_name": name, "lora_path": folder}
            )
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        return "" if status == HTTPStatus.OK else f"HTTP {status}: {content[:_WIDTH].decode(errors='replace')}"

    def last_lines(self) -> str:
        """The end of what it printed since it was started; before that the first errors, which tend to be the cause."""
        try:
            with self._settings.log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._begins, end - _TAIL))
                printed = log.read().decode(errors="replace").splitlines()
        except OSError:
            printed = []
        lines = [line[:_WIDTH] for line in printed if line.strip() and not _NOISE.search(line)]
        causes = [line for line in lines[:-_LINES] if _CAUSE.search(line)][:_CAUSES]
        found = [*causes, *["..."] * bool(causes), *lines[-_LINES:]]
        return "\n".join(f"    {line}" for line in found or ["(it printed nothing)"])

    def kill(self) -> None:
        """End all its processes at once; any thread may do so."""
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def stop(self) -> str:
        """End it, in order if it listens, and wait until its memory is free.

        Returns:
            What is not free after a while; else nothing.
        """
        if self._process is None:
            return ""
        with suppress(ProcessLookupError):
            self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_TO_STOP)
        self.kill()
        self._process.wait()
        group, self._process = self._process.pid, None
        if self._files is not None:
            self._files.cleanup()
        return _until_free(group, self._taken)

    def _wait_until_healthy(self, stopping: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self._settings.start_timeout
        while not self.healthy():
            if stopping():
                raise Interrupted("stopped; everything finished is on disk")
            if not self.alive:
                raise self._not_started("ended while it was starting")
            if time.monotonic() > deadline:
                raise self._not_started(f"was not healthy after {self._settings.start_timeout:g} s")
            time.sleep(_LOOK)
        if not self.alive:
            raise self._not_started("ended while it was starting")  # another program took its port

    def _not_started(self, why: str) -> RoleError:
        lines, python = self.last_lines(), self._settings.python
        if _MISSING in lines:
            return _without_vllm(python)
        return RoleError(
            f"the student's vLLM server {why}; the last lines of {self._settings.log}:\n{lines}",
            remedy="Mend what they say: student.options are arguments of the server, student.python is its"
            " environment; raise student.start_timeout where it was still loading. `tapir resume` then goes on.",
        )

    def _ask(self, method: str, path: str, patience: float, body: Any = None) -> tuple[int, bytes]:
        """Status and content of an answer; never through a proxy."""
        with closing(http.client.HTTPConnection(_HOST, self.port, timeout=patience)) as connection:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json"} if sent else {})
            response = connection.getresponse()
            return response.status, response.read()


def check(python: str, options: Sequence[str]) -> None:
    """See that vLLM is installed beside an interpreter and the options leave us what is ours; nothing is started.

    Raises:
        RoleError: there is no such interpreter, no vLLM beside it, or an option that only we can set.
    """
    for option in options:
        if option.split("=")[0] in _OURS:
            raise RoleError(
                f"student.options may not hold {option!r}: tapir sets that itself",
                remedy="Take it out; model, revision, chat_template and dtype are keys of [student].",
            )
    question = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        found = subprocess.run([python, "-c", question], capture_output=True, check=False, timeout=_TO_ASK)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RoleError(f"student.python = {python!r} cannot be run: {error}", remedy=_INSTALL) from error
    if found.returncode:
        raise _without_vllm(python)


def _without_vllm(python: str) -> RoleError:
    return RoleError(f"student.python = {python!r} is a Python without vLLM", remedy=_INSTALL)


def _environment(*, adapters: bool) -> dict[str, str]:
    """Ours, without telemetry and without a key that our own calls would not bring."""
    found = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    found.pop("VLLM_API_KEY", None)
    if adapters:
        found["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if not _accelerated():
        found.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; its own choice is half of the machine
    return found


def _accelerated() -> bool:
    try:
        import torch
    except ImportError:
        return bool(memory_taken())
    return torch.cuda.is_available()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((_HOST, 0))
        return int(found.getsockname()[1])


def memory_taken() -> dict[str, int]:
    """MiB in use on each NVIDIA card that we may use, by its number; empty where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    command = [program, "--query-gpu=index,memory.used", "--format=csv,noheader,nounits"]
    ours = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    for some in ([f"--id={ours}"] if ours else [], []):
        with suppress(OSError, subprocess.SubprocessError, ValueError):
            said = subprocess.run([*command, *some], capture_output=True, check=True, timeout=_QUICK, text=True)  # noqa: S603
            pairs = [line.split(",") for line in said.stdout.splitlines() if line.strip()]
            return {index.strip(): int(used) for index, used in pairs}
    return {}


def _until_free(group: int, before: Mapping[str, int]) -> str:
    """Wait until a process group is gone and the cards are as they were; what is not so after a while."""
    deadline = time.monotonic() + _TO_FREE
    while _living(group) and time.monotonic() < deadline:
        time.sleep(_LOOK)
    more: dict[str, int] = {}
    while before:
        now = memory_taken()
        more = {card: now[card] - used for card, used in before.items() if now.get(card, 0) > used + _SLACK}
        if not more or time.monotonic() > deadline:
            break
        time.sleep(_LOOK)
    if not more:
        return ""
    cards = ", ".join(f"{count} MiB of card {card}" for card, count in more.items())
    return f"{cards} were not free {_TO_FREE:g} s after the student's server had ended"


def _living(group: int) -> bool:
    """Whether a process group has a member that is not dead already; the dead wait to be counted by their parent."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    states = [_state(folder, group) for folder in Path("/proc").glob("[0-9]*")]
    return any(states) if states else True


def _state(folder: Path, group: int) -> bool:
    """Whether the process of a folder in /proc is a living one of the group."""
    try:
        # After the name, which may hold anything: state, parent, group.
        state, _, its_group = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
    except (OSError, ValueError):
        return False
    return state not in {"Z", "X"} and int(its_group) == group
