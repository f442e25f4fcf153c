"""A server with a rate limit and a client that does not know it: time and refused calls, in one run.

    python benchmarks/limits.py                      # 200 requests per 10 s, 2,000 rows: about 100 s for each kind
    python benchmarks/limits.py --only "fixed float"

The ideal is rows / limit x window. Windows are fixed (their first begins with the first request) or sliding; the
server says when to come again in seconds with a fraction, in whole seconds, as a date, or not at all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.server import Behaviour, serving
from tapir.config.endpoints import EndpointConfig
from tapir.domain.completion import Completion
from tapir.models.api.client import ApiClient
from tapir.models.api.protocol import Request, Sampling

KINDS = tuple(f"{window} {said}" for said in ("float", "integer", "date", "none") for window in ("fixed", "sliding"))


def requests(rows: int) -> Iterator[tuple[int, Request]]:
    """Short prompts, all different."""
    for row in range(rows):
        yield row, Request([{"role": "user", "content": f"Row {row}: <score>"}], Sampling(0.0, 256))


def limited(kind: str, options: argparse.Namespace, folder: Path) -> str:
    """One stage against one kind of limit."""
    window, said = kind.split()
    behaviour = Behaviour(
        latency=options.latency,
        rate_limit=options.limit,
        rate_window=options.window,
        rate_sliding=window == "sliding",
        rate_after_latency=options.after_latency,
        retry_after=said,
    )
    ideal = options.rows / options.limit * options.window
    with serving(behaviour, thread=False) as server:
        endpoint = EndpointConfig(base_url=server.url, model="model")
        client = ApiClient({"e": endpoint}, folder / f"{kind}.sqlite")
        try:
            began = time.perf_counter()
            done = sum(isinstance(reply, Completion) for _, reply in client.stream(["e"], requests(options.rows)))
            took = time.perf_counter() - began
        finally:
            client.close()
        stats = server.stats()
    refused = stats.by_status.get("429", 0)
    return (
        f"{kind:<16} {done:,} of {options.rows:,} rows, {stats.requests:,} requests, {refused} of them 429,"
        f" {took:.1f} s, {took / ideal:.3f} x ideal"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--limit", type=int, default=200, help="requests per window")
    parser.add_argument("--window", type=float, default=10.0, help="seconds")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds")
    parser.add_argument("--after-latency", action="store_true", help="a 429 takes as long as an answer")
    parser.add_argument("--only", choices=KINDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for kind in [options.only] if options.only else KINDS:
            print(limited(kind, options, Path(name)), flush=True)


if __name__ == "__main__":
    main()
