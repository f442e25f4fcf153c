"""Ray nodes on this machine, each a raylet of its own, started as anybody would start them: with `ray start`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.paths import ROOT

_PATIENCE = 120.0


@dataclass
class Nodes:
    """A head and those that joined it, of one core each; `folder` has a short path, as sockets are in it."""

    folder: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return (self.folder / "ray_current_cluster").read_text().strip()

    def add(self) -> subprocess.Popen[bytes]:
        """Start the head, or one more that joins it; returns when it works."""
        place = [f"--address={self.address}"] if self.running else ["--head", "--port=0", "--include-dashboard=false"]
        log = self.folder / f"node-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *place, "--num-cpus=1"]
        command += ["--num-gpus=0", "--object-store-memory=200000000", f"--temp-dir={self.folder}"]
        with log.open("wb") as output:
            node = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
            )
        self.running.append(node)
        deadline = time.monotonic() + _PATIENCE
        while b"Ray runtime started" not in log.read_bytes():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return node

    def lose(self, node: subprocess.Popen[bytes]) -> None:
        """SIGKILL all of a node at once, as where a machine loses its power."""
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()
        self.running.remove(node)

    def close(self) -> None:
        for node in reversed(list(self.running)):
            self.lose(node)

    def _environment(self) -> dict[str, str]:
        """Workers import `support`; of the folder it is in, `vllm` would be taken for a package."""
        support = self.folder / "path" / "support"
        support.parent.mkdir(exist_ok=True)
        if not support.exists():
            support.symlink_to(ROOT / "tests" / "support")
        ours = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        return {**os.environ, **ours, "PYTHONPATH": os.pathsep.join([str(support.parent), str(ROOT / "src")])}
