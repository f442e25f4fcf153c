"""A real vLLM server, on the CPU, for the time of a `with` block; `make vllm` installs what it needs."""

from __future__ import annotations

import contextlib
import re
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import small_model
from support.paths import ROOT
from tapir.config.student import VllmStudentConfig
from tapir.models.local import vllm_server
from tapir.models.local.loading import ModelSettings

ENVIRONMENT = ROOT / ".venv-vllm"
MODEL = vllm_server.NAME

_SECTION = VllmStudentConfig(
    python=str(ENVIRONMENT / "bin" / "python"),
    options=("--enforce-eager", "--max-model-len", str(small_model.CONTEXT), "--max-num-seqs", "32"),
    start_timeout=300.0,
)


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
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as response:
            metrics = response.read().decode()
        values = re.findall(rf"^vllm:{metric}_total\{{[^}}]*\}} (\S+)$", metrics, re.MULTILINE)
        assert values, f"the server has no counter {metric}"
        return int(sum(map(float, values)))


def installed() -> bool:
    """Whether `make vllm` has run to its end."""
    return any(ENVIRONMENT.glob(".ready-*"))


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server of the small model; all it writes is gone afterwards, and so are its processes."""
    # A short path: it opens sockets there, whose names may have about a hundred characters.
    with (
        tempfile.TemporaryDirectory(prefix="vllm-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VLLM_CACHE_ROOT", str(ENVIRONMENT / "cache"))
        patch.setenv("TMPDIR", folder)
        model = small_model.make(Path(folder) / "model")
        served = vllm_server.ServedModel(str(model), ModelSettings(dtype="float32"))
        server = vllm_server.Server(served, _SECTION, Path(folder) / "server.log")
        try:
            yield Server(server.port)
        finally:
            server.stop()
