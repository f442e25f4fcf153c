"""A real vLLM server, on the CPU, for the time of a `with` block; `make vllm` installs what it needs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import small_model

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".venv-vllm"
MODEL = "nonsense"

_TO_START, _TO_STOP, _BETWEEN = 300.0, 30.0, 0.2  # seconds
_SHOWN = 30  # lines of the log
_OPTIONS = {
    "--served-model-name": MODEL,
    "--dtype": "float32",
    "--max-model-len": str(small_model.CONTEXT),
    "--max-num-seqs": "32",
    "--host": "127.0.0.1",
}
_VARIABLES = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CACHE_ROOT": str(ENVIRONMENT / "cache"),
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    port: int

    @property
    def url(self) -> str:
        """What a client is given as its base address."""
        return f"http://127.0.0.1:{self.port}/v1"

    def count(self, metric: str) -> int:
        """A counter of the server's own (`vllm:METRIC_total`), over all its labels."""
        found = re.findall(rf"^vllm:{metric}_total\{{[^}}]*\}} (\S+)$", self._get("metrics"), re.MULTILINE)
        assert found, f"the server has no counter {metric}"
        return int(sum(map(float, found)))

    def healthy(self) -> bool:
        """Whether it takes requests."""
        try:
            self._get("health")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=10) as response:
            return str(response.read().decode())


def installed() -> bool:
    """Whether `make vllm` has run to its end."""
    return any(ENVIRONMENT.glob(".ready-*"))


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server of the small model; all it writes is gone afterwards, and so are its processes."""
    # A short path: it opens sockets there, whose names may have about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="vllm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        model = small_model.make(folder / "model")
        server = Server(_free_port())
        options = [part for option in _OPTIONS.items() for part in option]
        # Not the command `vllm serve`: of the build for CPUs it does not find its own version.
        command = [str(ENVIRONMENT / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
        command += ["--model", str(model), "--port", str(server.port), *options]
        log = folder / "server.log"
        with (
            log.open("wb") as output,
            subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **_VARIABLES, "TMPDIR": name},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            try:
                _wait_until_healthy(server, process, log)
                yield server
            finally:
                _stop(process)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_until_healthy(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _TO_START
    while not server.healthy():
        if process.poll() is not None or time.monotonic() > deadline:
            why = f"not healthy after {_TO_START:.0f} s" if process.returncode is None else "ended while starting"
            last = "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-_SHOWN:])
            raise RuntimeError(f"the vLLM server {why}; its last lines:\n{last}")
        time.sleep(_BETWEEN)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """In order if it listens, and then whatever is left of its session."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_TO_STOP)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
