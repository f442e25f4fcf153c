"""Slow and hung calls: what is sent twice, what is thrown away, and how long it takes.

    python benchmarks/slow_calls.py         # about three minutes

Lognormal latencies (median 0.5 s, the same for the same request), 1,500 calls, 64 at once; first to an endpoint with a
price, then to one without, where 2 % of the calls are never answered.
"""

from __future__ import annotations

import heapq
import json
import math
import random
import sys
import tempfile
import time
from hashlib import blake2b
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.server import Behaviour, serving
from tapir.config.endpoints import EndpointConfig
from tapir.models.api.client import ApiClient
from tapir.models.api.protocol import Request, Sampling, body

CALLS, AT_ONCE, MEDIAN = 1_500, 64, 0.5


def requests() -> list[tuple[int, Request]]:
    """Return the calls, all different."""
    return [(row, Request([{"role": "user", "content": f"{row}: <score>"}], Sampling(0.0, 64))) for row in range(CALLS)]


def measure(behaviour: Behaviour, price: float) -> tuple[float, int, int]:
    """Return seconds, requests that the server saw beyond one for each call, and requests it saw cut off."""
    with serving(behaviour, thread=False) as server, tempfile.TemporaryDirectory() as folder:
        endpoint = EndpointConfig(base_url=server.url, model="model", concurrency=AT_ONCE, price_output=price)
        client = ApiClient({"e": endpoint}, Path(folder) / "ledger.sqlite", run="bench")
        began = time.perf_counter()
        assert sum(1 for _ in client.stream(["e"], requests())) == CALLS
        seconds = time.perf_counter() - began
        client.close()
        stats = server.stats()
        return seconds, stats.requests - CALLS, stats.by_status["left"]


def ideal(sigma: float) -> float:
    """Return the seconds that 64 at once take at best, each call begun when another ends, in their order."""
    ends = [0.0] * AT_ONCE
    for _, request in requests():
        content = json.loads(body(EndpointConfig(base_url="http://fake", model="model"), request))
        digest = blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).digest()
        heapq.heapreplace(ends, ends[0] + MEDIAN * math.exp(sigma * random.Random(digest).gauss()))
    return max(ends)


def main() -> None:
    """Measure and print."""
    for sigma in (0.5, 1.0, 1.3):
        whole = CALLS * MEDIAN * math.exp(sigma**2 / 2)
        free = 0.0
        for hung in (0.0, 0.02):
            behaviour = Behaviour(latency=MEDIAN, sigma=sigma, hang_share=hung)
            seconds, twice, left = measure(behaviour, price=0.0 if hung else 1.0)
            free = free or seconds
            what = "2 % hung, no price" if hung else "with a price"
            print(
                f"sigma {sigma}, {what}: {seconds:.1f} s = {seconds * AT_ONCE / whole:.2f} of the sum over {AT_ONCE}"
                f" (at best {ideal(sigma) * AT_ONCE / whole:.2f}),"
                f" {free / seconds:.2f} of the throughput without faults; sent twice {twice} ({twice / CALLS:.1%}),"
                f" cut off by us {left}",
                flush=True,
            )


if __name__ == "__main__":
    main()
