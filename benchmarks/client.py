"""The API client against bare aiohttp, in one run: throughput, CPU time a call, memory over many rows.

    python benchmarks/client.py             # what a person waits for: about two minutes
    python benchmarks/client.py --rows 50000 --only memory

Both sides send the same requests to the same fake server, which answers after 100 ms from a process of its
own. The client looks every request up in its ledger, parses every reply, and has it on disk before it counts.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.server import Behaviour, serving
from tapir.config.endpoints import EndpointConfig
from tapir.data.run.rows import AnswerRow
from tapir.data.run.store import RunStore
from tapir.domain.completion import Completion
from tapir.domain.progress import SilentProgress
from tapir.models.api.client import ApiClient
from tapir.models.api.protocol import Request, Sampling, body
from tapir.models.api.session import ApiSession
from tapir.stages.base import StageContext, Work, run_items

ROWS = 2_000  # for memory, beside many
CALLS = 8_000  # for throughput; the first eight show that an endpoint works, before the others are sent
IN_FLIGHT = 256
LATENCY = 0.1
WORDS = "What follows from the premise that every number in this list is even and larger than the last one? " * 4


@dataclass(frozen=True, slots=True)
class Measured:
    """Wall seconds and CPU seconds of this process for so many calls."""

    calls: int
    wall: float
    cpu: float

    def __str__(self) -> str:
        rate, each = self.calls / self.wall, 1000 * self.cpu / self.calls
        return f"{self.calls:,} calls: {rate:,.0f} requests/s, {each:.2f} ms CPU a call, {self.wall:.2f} s"


def requests(rows: int, first: int = 0) -> Iterator[tuple[int, Request]]:
    """Judge-like prompts of about 500 bytes, all different."""
    for row in range(first, rows):
        yield row, Request([{"role": "user", "content": f"{row}: {WORDS}<score>"}], Sampling(0.0, 256))


def timed(calls: int, work: Callable[[], None]) -> Measured:
    """Time some calls."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Measured(calls, time.perf_counter() - wall, time.process_time() - cpu)


async def bare(url: str, rows: int, in_flight: int) -> None:
    """The least that can be done: a session, a semaphore, the body read."""
    limit = asyncio.Semaphore(in_flight)
    endpoint = EndpointConfig(base_url=url, model="model")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call(request: Request) -> None:
            async with (
                limit,
                session.post(
                    url + "/chat/completions",
                    data=body(endpoint, request),
                    headers={"Content-Type": "application/json"},
                ) as response,
            ):
                assert response.status == 200
                await response.json()

        await asyncio.gather(*(call(request) for _, request in requests(rows)))


def through_client(url: str, rows: int, in_flight: int, folder: Path, *, stream: bool = False) -> Measured:
    """The same calls through the client."""
    endpoint = EndpointConfig(base_url=url, model="model", concurrency=in_flight, stream=stream)
    made = ApiClient({"e": endpoint}, folder / f"ledger-{time.monotonic_ns()}.sqlite", run="bench")

    def work() -> None:
        done = sum(1 for _ in made.stream(["e"], requests(rows)))
        assert done == rows

    try:
        return timed(rows, work)
    finally:
        made.close()


def throughput(rows: int, repeats: int, folder: Path) -> None:
    """Both sides in turn, so that a slow moment of the machine meets both."""
    with serving(Behaviour(latency=LATENCY), thread=False) as server:
        best: dict[str, Measured] = {}
        for _ in range(repeats):
            base = timed(rows, lambda: asyncio.run(bare(server.url, rows, IN_FLIGHT)))
            ours = through_client(server.url, rows, IN_FLIGHT, folder)
            streamed = through_client(server.url, rows, IN_FLIGHT, folder, stream=True)
            for name, one in (("bare aiohttp", base), ("API client", ours), ("streamed", streamed)):
                print(f"  {name:<13} {one}")
                if name not in best or one.wall < best[name].wall:
                    best[name] = one
    base = best.pop("bare aiohttp")
    for name, ours in best.items():
        print(
            f"throughput, {IN_FLIGHT} in flight, best of {repeats}: {name} / bare ="
            f" {base.wall / ours.wall:.2f} of its requests/s, {ours.cpu / base.cpu:.2f} of its CPU time"
        )


def many(folder: Path) -> None:
    """1,024 in flight to a server that takes 3 s."""
    rows, in_flight, latency = 16_384, 1_024, 3.0
    with serving(Behaviour(latency=latency), thread=False) as server:
        found = through_client(server.url, rows, in_flight, folder)
    ideal = rows / in_flight * latency
    ratio = found.wall / ideal
    print(f"1,024 in flight at 3 s: {found.wall:.1f} s for {rows:,} calls, {ratio:.2f} of the ideal {ideal:.0f} s")


def stage(url: str, rows: int, folder: Path) -> None:
    """A whole stage: requests made one by one, called, kept in the ledger, saved in parts, put into a table."""
    board = ApiSession({"e": EndpointConfig(base_url=url, model="model", concurrency=IN_FLIGHT)})
    progress = SilentProgress()
    store = RunStore(folder / f"run-{rows}")
    store.folder.mkdir()
    board.open(store.folder, "bench", progress)
    items = [(f"{row:016x}", row) for row in range(rows)]

    def do(pending: Iterator[tuple[str, int]]) -> Iterator[tuple[str, list[AnswerRow]]]:
        asked = ((name, request) for name, row in pending for _, request in requests(row + 1, row))
        for name, reply in board.stream(("e",), asked):
            assert isinstance(reply, Completion)
            yield name, [AnswerRow(name, reply.text, reply.finish_reason, 0, None)]

    run_items(StageContext(store, progress, 0, 1), Work("answer", "answers", 256), AnswerRow, items, do)
    board.close()


def memory(rows: int) -> None:
    """The most memory of a process after 2,000 rows and after many, each in a process of its own."""
    peaks = []
    for count in (ROWS, rows):
        command = [sys.executable, __file__, "--stage", str(count)]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        peaks.append(float(found.stdout))
        print(f"memory: at most {peaks[-1]:.0f} MB for a stage of {count:,} rows")
    print(f"memory: {peaks[1] / peaks[0]:.2f} x for {rows / ROWS:.0f} x the rows")


def measure_stage(rows: int) -> None:
    """Print the most memory that a stage of so many rows took, in MB."""
    with (
        serving(Behaviour(latency=0.02, models=("model",)), thread=False) as server,
        tempfile.TemporaryDirectory() as name,
    ):
        stage(server.url, rows, Path(name))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=20_000, help="rows for the memory figure")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--only", choices=("throughput", "many", "memory"))
    options.add_argument("--stage", type=int, help="only print the most memory, in MB, of a stage of so many rows")
    chosen = options.parse_args()
    if chosen.stage:
        measure_stage(chosen.stage)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.only in {None, "throughput"}:
            throughput(CALLS, chosen.repeats, folder)
        if chosen.only in {None, "many"}:
            many(folder)
        if chosen.only in {None, "memory"}:
            memory(chosen.rows)


if __name__ == "__main__":
    main()
