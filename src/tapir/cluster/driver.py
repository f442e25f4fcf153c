"""The Ray driver, a process of its own: `python -m tapir.cluster.driver DESCRIPTOR`.

Ray prints where it likes, sets handlers of signals and ends a process that loses its cluster. So the run speaks to
this process through the descriptor of a socket, and all that Ray prints goes to a log. Standard input is a pipe that
nobody writes to: when the run goes away, it is at its end, and so is this process and its work in the cluster.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from tapir import __version__
from tapir.cluster.wire import Broken, Done, Failed, Flow, Order, Room
from tapir.errors import RoleError, TapirError

_LOOK = 5.0  # seconds between two looks at the cluster's machines
_FREE = 0.2  # seconds between two looks at its GPUs
_TO_FREE = 30.0
_JOIN = "Run tapir on a machine of the cluster (`ray start --address=HOST:PORT` makes this one join it)"


def connect(order: Order) -> None:
    """Connect this process to a running cluster.

    Raises:
        RoleError: there is none, or it is of another version.
    """
    import ray

    try:
        ray.init(address=order.address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError, ImportError, AssertionError) as error:
        raise RoleError(
            f"engine.address = {order.address!r}: no Ray cluster can be used there: {error}",
            remedy=f"{_JOIN}, with the same versions of Python and Ray, then set engine.address to auto;"
            " leave it empty to work on this machine alone.",
        ) from error


def room_for(order: Order) -> Room:
    """What the machines that are alive have for an order, whether it is in use or not."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Room(order, sum(_fitting(node, order) for node in nodes), len(nodes))


def _fitting(node: dict[str, float], order: Order) -> int:
    """Workers that fit on a machine."""
    wanted = {"CPU": order.cpus, "GPU": order.gpus}
    return min(int(node.get(name, 0.0) / each + 1e-6) for name, each in wanted.items() if each)


def checked(order: Order, *, light: bool) -> Room:
    """See that at least one worker fits, gets its place in time, and finds this package.

    Raises:
        RoleError: it does not.
    """
    found = room_for(order)
    if light:
        found = Room(order, order.workers, found.nodes)
    if not found.workers:
        raise _no_place(order)
    _probe(order, {"num_cpus": 0} if light else {"num_cpus": order.cpus, "num_gpus": order.gpus})
    return found


def _no_place(order: Order) -> RoleError:
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    have = ", ".join(f"{node.get('CPU', 0):g} cores and {node.get('GPU', 0):g} GPUs" for node in nodes[:4])
    have += ", ..." if len(nodes) > 4 else ""  # noqa: PLR2004
    return RoleError(
        f"the Ray cluster has no place for a worker of {order.cpus:g} cores and {order.gpus:g} GPUs:"
        f" its {len(nodes)} machines have {have}",
        remedy="Lower engine.cpus or engine.gpus, or add machines with `ray start --address=...`.",
    )


def _probe(order: Order, place: dict[str, float]) -> None:
    import ray

    def version() -> str:
        try:
            import tapir
        except ImportError as error:
            return f"none ({error})"
        return tapir.__version__

    asked = ray.remote(version).options(max_retries=0, **place).remote()
    try:
        found = ray.get(asked, timeout=order.patience)
    except ray.exceptions.GetTimeoutError as error:
        ray.cancel(asked, force=True)
        raise RoleError(
            f"the Ray cluster had no free place for a worker of {order.cpus:g} cores and {order.gpus:g} GPUs for"
            f" {order.patience:g} s",
            remedy="Wait until its other work is done (`ray status` tells), or lower engine.cpus or engine.gpus;"
            " then run `tapir resume`.",
        ) from error
    if found != __version__:
        raise RoleError(
            f"the Ray cluster's workers have tapir {found}, here it is {__version__}",
            remedy="Install the same tapir-distill[ray] on all its machines, in the Python that Ray is started with.",
        )


class Parent:
    """The way to the run; two threads may send."""

    def __init__(self, connection: Connection) -> None:
        """Take the socket."""
        self._connection = connection
        self._lock = threading.Lock()
        self.receive: Callable[[], Any] = connection.recv

    def send(self, message: object) -> None:
        """Send one message."""
        with self._lock:
            self._connection.send(message)

    def blocks(self) -> Iterator[bytes]:
        """The blocks of work, until an empty one."""
        while block := self._connection.recv_bytes():
            yield block


def _carry_out(parent: Parent) -> None:
    order: Order = parent.receive()
    flow: Flow = parent.receive()
    connect(order)
    room = checked(order, light=flow.light)
    parent.send(room)
    free = _free_gpus()
    threading.Thread(target=_look_after, args=(parent, order), daemon=True).start()
    for result in flow.results(parent.blocks(), room):
        parent.send(result)
    _until_free(free if order.gpus else 0.0)


def _free_gpus() -> float:
    import ray

    return float(ray.available_resources().get("GPU", 0.0))


def _until_free(gpus: float) -> None:
    """Wait until the workers' GPUs are given back, as far as others do not take them."""
    deadline = time.monotonic() + _TO_FREE
    while _free_gpus() < gpus and time.monotonic() < deadline:
        time.sleep(_FREE)


def _look_after(parent: Parent, order: Order) -> None:
    """End the work where no worker fits any more: it would wait for ever."""
    since = time.monotonic()
    while True:
        time.sleep(_LOOK)
        if room_for(order).workers:
            since = time.monotonic()
        elif time.monotonic() - since > order.patience:
            parent.send(Failed(_no_place(order)))
            os._exit(1)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    """Carry out one order."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with Connection(int(sys.argv[1])) as connection:
        parent = Parent(connection)
        try:
            _quieten()
            _carry_out(parent)
            parent.send(Done())
        except TapirError as error:
            parent.send(Failed(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the run has to hear of it
            traceback.print_exc()
            lines = str(error).strip().splitlines() or ["(no message)"]
            parent.send(Broken(f"{type(error).__name__}: {lines[-1]}"))


def _quieten() -> None:
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False


if __name__ == "__main__":
    main()
