"""Fake OpenAI-compatible server: `with serving(Behaviour(latency=0.1)) as server`, or `python -m support.server JSON`.

The command takes a behaviour as JSON, prints its port once it listens, and ends when its standard input closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from aiohttp import web

from support import fake_model
from support.fake_openai import Behaviour, Brain, FakeOpenAi, Json, Stats
from support.paths import ROOT

__all__ = ["Behaviour", "Brain", "FakeOpenAi", "Server", "Stats", "serving"]


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `fake` is None where it runs in a process of its own."""

    port: int
    fake: FakeOpenAi | None = None

    @property
    def url(self) -> str:
        """What a client is given as its base address."""
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> Stats:
        """The counts so far."""
        stats = Stats(**self._control())
        stats.by_status, stats.faults = Counter(stats.by_status), Counter(stats.faults)
        return stats

    def set(self, **changes: object) -> None:
        """Change the behaviour from now on; what is in flight keeps the old one."""
        self._control(json.dumps(changes))

    def reset(self) -> None:
        """Forget all counts; the behaviour stays."""
        self._control(path="/control/reset")

    def _control(self, body: str = "", path: str = "/control") -> Json:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", path, body, {"Connection": "close"})
            with connection.getresponse() as response:
                content: Json = json.loads(response.read())
                return content


@contextlib.contextmanager
def serving(
    behaviour: Behaviour | None = None, *, brain: Brain = fake_model.reply, port: int = 0, thread: bool = True
) -> Iterator[Server]:
    """A server for the time of a `with` block, in a thread, or in a process of its own where speed matters."""
    if not thread:
        command = [sys.executable, "-m", "support.server", json.dumps(asdict(behaviour or Behaviour()))]
        with subprocess.Popen(command, cwd=ROOT / "tests", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                yield Server(int(child.stdout.readline()))
            finally:
                child.stdin.close()
        return
    fake = FakeOpenAi(behaviour or Behaviour(), brain)
    loop = asyncio.new_event_loop()
    worker = threading.Thread(target=loop.run_forever, name="fake-openai")
    worker.start()
    runner = asyncio.run_coroutine_threadsafe(_listen(fake, port), loop).result()
    try:
        yield Server(runner.addresses[0][1], fake)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        worker.join()
        loop.close()


async def _listen(fake: FakeOpenAi, port: int) -> web.ServerRunner:
    loop = asyncio.get_running_loop()

    server = web.Server(
        fake.handle,
        request_factory=lambda *parts: web.BaseRequest(*parts, loop, client_max_size=1 << 30),  # type: ignore[misc, arg-type]
        handler_cancellation=True,
        access_log=None,
    )
    runner = web.ServerRunner(server, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096, reuse_address=True).start()
    return runner


async def _main(behaviour: Json) -> None:
    fake = FakeOpenAi(replace(Behaviour(), **behaviour), fake_model.reply)
    runner = await _listen(fake, 0)
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)  # little of what a request leaves behind is a cycle
    asyncio.run(_main(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}))
