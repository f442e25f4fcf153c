"""The process that uses Ray: `python -m tapir.models.local.ray_driver DESCRIPTOR (work | cluster FOLDER)`.

Ray prints where it likes, sets handlers of signals and ends a process that loses its cluster. So the run speaks to
this process through the descriptor of a socket, and all that Ray prints goes to a log. "work" carries out one piece of
work; "cluster" starts a cluster on this machine and keeps it until SIGTERM, its files in FOLDER.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection

from tapir.config.student import RayEngineConfig
from tapir.domain.errors import RoleError, TapirError
from tapir.models.local.ray_cluster import Room
from tapir.version import __version__

_CHECK_EVERY = 5.0  # seconds between two looks at the cluster's machines
_POLL = 0.2  # seconds between two looks at its GPUs, and whether to stop
_TO_FREE = 30.0


class Parent(Connection):
    """The way to the run; two threads may send."""

    _lock = threading.Lock()

    def send(self, message: object) -> None:
        """Send one message."""
        with self._lock:
            super().send(message)


def _fitting(node: dict[str, float], engine: RayEngineConfig) -> int:
    """Return how many workers fit on a machine, whether it is in use or not."""
    wanted = {"CPU": engine.cpus, "GPU": engine.gpus}
    return min(int(node.get(name, 0.0) / each + 1e-6) for name, each in wanted.items() if each)


def _find_room(engine: RayEngineConfig) -> Room:
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    workers = sum(_fitting(node, engine) for node in nodes)
    if workers:
        return Room(engine, workers, len(nodes))
    have = ", ".join(f"{node.get('CPU', 0):g} cores and {node.get('GPU', 0):g} GPUs" for node in nodes[:4])
    have += ", ..." if len(nodes) > 4 else ""  # noqa: PLR2004
    raise RoleError(
        f"the Ray cluster has no place for a worker of {engine.cpus:g} cores and {engine.gpus:g} GPUs:"
        f" its {len(nodes)} machines have {have}",
        remedy="Lower engine.cpus or engine.gpus, or add machines with `ray start --address=...`.",
    )


def _probe(engine: RayEngineConfig, patience: float) -> None:
    """Raise `RoleError` unless a worker gets its place in time, and finds this package there."""
    import ray

    def version() -> str:
        try:
            from tapir.version import __version__ as theirs
        except ImportError as error:
            return f"none ({error})"
        return theirs

    task = ray.remote(version).options(max_retries=0, num_cpus=engine.cpus, num_gpus=engine.gpus).remote()
    try:
        theirs = ray.get(task, timeout=patience)
    except ray.exceptions.GetTimeoutError as error:
        ray.cancel(task, force=True)
        raise RoleError(
            f"the Ray cluster had no free place for a worker of {engine.cpus:g} cores and {engine.gpus:g} GPUs for"
            f" {patience:g} s",
            remedy="Wait until its other work is done (`ray status` shows it), or lower engine.cpus or engine.gpus;"
            " then run `tapir resume`.",
        ) from error
    if theirs != __version__:
        raise RoleError(
            f"the Ray cluster's workers have tapir {theirs}, here it is {__version__}",
            remedy="Install the same tapir-distill[ray] on all its machines, in the Python that Ray is started with.",
        )


def _work(parent: Parent) -> None:
    engine, patience, flow = parent.recv()
    from ray.data import DataContext

    import ray

    DataContext.get_current().enable_progress_bars = False
    try:
        ray.init(address=engine.address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError, ImportError, AssertionError) as error:
        raise RoleError(
            f"engine.address = {engine.address!r}: no Ray cluster can be used there: {error}",
            remedy="Run tapir on a machine of the cluster (`ray start --address=HOST:PORT` makes this one join it),"
            " with the same versions of Python and Ray, then set engine.address to auto;"
            " leave it empty to work on this machine alone.",
        ) from error
    room = _find_room(engine)
    _probe(engine, patience)
    parent.send(room)
    free = ray.available_resources().get("GPU", 0.0)
    threading.Thread(target=_watch_cluster, args=(parent, engine, patience), daemon=True).start()
    for result in flow(iter(parent.recv, b""), room):
        parent.send(result)
    deadline = time.monotonic() + _TO_FREE  # for the workers' GPUs to be given back, as far as others leave them free
    while engine.gpus and ray.available_resources().get("GPU", 0.0) < free and time.monotonic() < deadline:
        time.sleep(_POLL)


def _watch_cluster(parent: Parent, engine: RayEngineConfig, patience: float) -> None:
    """End the work where no worker fits any more: it would wait for ever."""
    since = time.monotonic()
    while True:
        time.sleep(_CHECK_EVERY)
        try:
            _find_room(engine)
        except RoleError as error:
            if time.monotonic() - since > patience:
                parent.send(error)
                os._exit(1)
        else:
            since = time.monotonic()


def _keep_cluster(parent: Parent, folder: str) -> None:
    """Start a cluster, send its address, and keep it until SIGTERM."""
    import ray

    context = ray.init(
        address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING, _temp_dir=folder
    )
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    parent.send(context.address_info["gcs_address"])
    stop.wait()
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Carry out one piece of work, or keep a cluster."""
    with Parent(int(sys.argv[1])) as parent:
        try:
            if sys.argv[2] == "cluster":
                _keep_cluster(parent, sys.argv[3])
            else:
                _work(parent)
                parent.send(None)
        except TapirError as error:
            parent.send(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run has to report it
            traceback.print_exc()
            lines = str(error).strip().splitlines() or ["(no message)"]
            parent.send(
                RoleError(
                    f"the Ray cluster failed: {type(error).__name__}: {lines[-1]}",
                    remedy="The run's ray.log has the whole message; fix what it says, `tapir resume` then goes on.",
                )
            )


if __name__ == "__main__":
    main()
