"""A server that fails often against one that never does, in one run: what the faults cost in throughput.

    python benchmarks/faults.py             # 20,000 rows, 256 in flight, twice each: about a minute and a half

Of the calls, 5 % meet a status 500, 2 % are never answered, 2 % are cut off and 1 % bring nonsense.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.server import Behaviour, serving
from tapir.config.endpoints import EndpointConfig
from tapir.domain.completion import Completion
from tapir.models.api.client import ApiClient
from tapir.models.api.protocol import Request, Sampling

FAULTS: dict[str, Any] = {"error_share": 0.05, "hang_share": 0.02, "cut_share": 0.02, "nonsense_share": 0.01}
WORDS = "What follows from the premise that every number in this list is even and larger than the last one? " * 4


def requests(rows: int) -> Iterator[tuple[int, Request]]:
    """Judge-like prompts of about 500 bytes, all different."""
    for row in range(rows):
        yield row, Request([{"role": "user", "content": f"{row}: {WORDS}<score>"}], Sampling(0.0, 256))


def stage(name: str, behaviour: Behaviour, options: argparse.Namespace, ledger: Path) -> float:
    """Seconds of one stage; the seconds after its last answer but one in a hundred are its tail."""
    with serving(behaviour, thread=False) as server:
        endpoint = EndpointConfig(
            base_url=server.url, model="model", concurrency=options.in_flight, timeout=options.timeout
        )
        client = ApiClient({"e": endpoint}, ledger)
        ends: Counter[str] = Counter()
        moments: list[float] = []
        try:
            began = time.perf_counter()
            for _, reply in client.stream(["e"], requests(options.rows)):
                ends["done" if isinstance(reply, Completion) else reply.kind] += 1
                moments.append(time.perf_counter() - began)
        finally:
            client.close()
        stats = server.stats()
    assert ends.total() == options.rows
    took, tail = moments[-1], moments[-1] - moments[-max(1, options.rows // 100)]
    print(
        f"  {name:<7} {took:.2f} s, {options.rows / took:,.0f} rows/s, the last 1 % took {tail:.2f} s,"
        f" {stats.requests:,} requests, {dict(ends)}",
        flush=True,
    )
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--latency", type=float, default=0.1, help="seconds")
    parser.add_argument("--jitter", type=float, default=0.0, help="share of the latency")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds after which a call is given up")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for number in range(options.repeats):
            good = Behaviour(latency=options.latency, jitter=options.jitter)
            bad = replace(good, **FAULTS)
            whole = stage("whole", good, options, Path(name) / f"whole-{number}.sqlite")
            faulty = stage("faulty", bad, options, Path(name) / f"faulty-{number}.sqlite")
            print(f"throughput with faults: {whole / faulty:.3f} of that without", flush=True)


if __name__ == "__main__":
    main()
