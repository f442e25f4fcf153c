"""A fake OpenAI-compatible server: `python -m tests.server --latency 0.1`, or `with serving(Behaviour()) as server`.

As a command it prints one line of JSON, `{"port": 12345}`, once it listens, and nothing else. It stops on SIGTERM or
SIGINT, and with `--until-stdin-closes` when its parent goes away.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fake_openai import brain as default_brain
from tests.fake_openai.behaviour import Behaviour, add_options, as_options, from_options
from tests.fake_openai.completions import Brain
from tests.fake_openai.service import Service
from tests.fake_openai.tally import Stats
from tests.fake_openai.wire import Connection

__all__ = ["Behaviour", "Brain", "Server", "Stats", "serving"]

_ROOT = Path(__file__).resolve().parents[1]
_BACKLOG = 4096
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running fake server; its methods block and may be called from any thread but the server's own."""

    port: int
    pid: int

    @property
    def root(self) -> str:
        """Where `/control` is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """What a client is given as its base address."""
        return f"{self.root}/v1"

    def stats(self) -> Stats:
        """The counts so far."""
        return Stats.of(self._call("GET", "/control"))

    def set(self, **changes: float | str | bool | list[str]) -> None:
        """Changes the behaviour from now on; what is in flight keeps the old one.

        Raises:
            ValueError: the server does not know a name or does not take a value.
        """
        self._call("POST", "/control", changes)

    def reset(self) -> None:
        """Forgets all counts and attempts; the behaviour stays."""
        self._call("POST", "/control/reset")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body), {"Connection": "close"})
            with connection.getresponse() as response:
                found = json.loads(response.read())
        if "error" in found:
            raise ValueError(found["error"]["message"])
        return found


@contextlib.contextmanager
def serving(
    behaviour: Behaviour | None = None, *, thread: bool = False, brain: Brain | None = None, port: int = 0
) -> Iterator[Server]:
    """A server for the time of a `with` block: a process, or a thread of this one, which may have its own brain."""
    behaviour = behaviour or Behaviour()
    if brain is not None and not thread:
        raise ValueError("a brain of your own needs thread=True")
    started = (
        _in_a_thread(Service(behaviour, brain or default_brain.reply), port) if thread else _alone(behaviour, port)
    )
    with started as server:
        yield server


@contextlib.contextmanager
def _alone(behaviour: Behaviour, port: int) -> Iterator[Server]:
    command = [sys.executable, "-m", "tests.server", "--until-stdin-closes", "--port", str(port)]
    with subprocess.Popen(
        [*command, *as_options(behaviour)], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the fake server did not start: exit status {process.wait()}")
        try:
            yield Server(json.loads(line)["port"], process.pid)
        finally:
            process.terminate()


@contextlib.contextmanager
def _in_a_thread(service: Service, port: int) -> Iterator[Server]:
    ready = threading.Event()
    stop: list[Callable[[], None]] = []
    ports: list[int] = []

    def tell(listening: int, stopper: Callable[[], None]) -> None:
        ports.append(listening)
        stop.append(stopper)
        ready.set()

    def work() -> None:
        try:
            asyncio.run(_listen(service, port, tell))
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="fake-openai")
    thread.start()
    ready.wait(_PATIENCE)
    try:
        if not ports:
            raise RuntimeError(f"the fake server did not start on port {port}")
        yield Server(ports[0], os.getpid())
    finally:
        for one in stop:
            one()
        thread.join(_PATIENCE)


async def _listen(service: Service, port: int, tell: Callable[[int, Callable[[], None]], None]) -> None:
    """Serves until the function that `tell` was given is called, from any thread."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    connections: set[Connection] = set()
    server = await loop.create_server(
        lambda: Connection(service, connections), "127.0.0.1", port, backlog=_BACKLOG, reuse_address=True
    )

    def stop() -> None:
        loop.call_soon_threadsafe(stopped.set)

    tell(server.sockets[0].getsockname()[1], stop)
    async with server:
        await stopped.wait()
        server.close()
        for one in list(connections):
            one.abort()
        # One turn of the loop: the aborted connections close their sockets in it.
        await asyncio.sleep(0)
        await server.wait_closed()


def _until(stop: Callable[[], None], *, stdin_closes: bool) -> None:
    """Stops on a signal, and on the end of the standard input if asked to."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if stdin_closes:
        loop.add_reader(sys.stdin.fileno(), lambda: stop() if not os.read(sys.stdin.fileno(), 1024) else None)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--until-stdin-closes", action="store_true")
    add_options(parser)
    options = parser.parse_args()
    service = Service(from_options(options))

    def tell(port: int, stop: Callable[[], None]) -> None:
        _until(stop, stdin_closes=options.until_stdin_closes)
        sys.stdout.write(json.dumps({"port": port}) + "\n")
        sys.stdout.flush()

    # Little of what a request leaves behind is a cycle: the collector would only cost time between answers.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    asyncio.run(_listen(service, options.port, tell))


if __name__ == "__main__":
    main()
