"""Time and memory of near-duplicate search, and how it compares with looking at every pair.

    python benchmarks/neighbours.py FILE             the instructions of FILE (alpaca_data.json.gz has 52,002)
    python benchmarks/neighbours.py FILE NEW         checks the instructions of NEW against them
    python benchmarks/neighbours.py                  52,002 made-up instructions

Without NEW, what is checked are known texts with one word replaced, every second one with three. Brute force is
rapidfuzz's longest common subsequence on every pair of a part of both; on it the answers must be equal.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rapidfuzz.distance import LCSseq

from tapir.data.duplicates import NearDuplicates, words
from tapir.data.layouts import Row
from tapir.data.readers import read_file

MADE_UP = 52_002
CHECKED = 1_000
SOME_NEW = 100
SOME_KNOWN = 5_200
ROUGE = 0.7
SEED = 7


def peak_mb() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def instructions(file: Path) -> list[str]:
    """Texts of a corpus file."""
    return [row.text for row in read_file(file) if isinstance(row, Row)]


def made_up() -> list[str]:
    """Instructions of 5 to 30 words, whose frequencies fall by a power law."""
    source = random.Random(SEED)
    vocabulary = [f"word{number}" for number in range(20_000)]
    frequency = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    return [" ".join(source.choices(vocabulary, frequency, k=source.randint(5, 30))) for _ in range(MADE_UP)]


def variants(known: Sequence[str]) -> list[str]:
    """Known texts with one or three words replaced."""
    source = random.Random(SEED)
    found = []
    for number, text in enumerate(source.sample(known, min(CHECKED, len(known)))):
        parts = text.split()
        for _ in range(1 if number % 2 else 3):
            parts[source.randrange(len(parts))] = "something"
        found.append(" ".join(parts))
    return found


def collection(known: Sequence[str], *, minhash: float) -> NearDuplicates:
    """All known texts, named by their numbers."""
    neighbours = NearDuplicates(rouge=ROUGE, minhash=minhash)
    for number, text in enumerate(known):
        neighbours.add(str(number), text)
    return neighbours


def highest_of_all_pairs(new: Sequence[str], known: Sequence[str]) -> list[float]:
    """The highest ROUGE-L of each new text above the threshold, or 0, from every pair."""
    every = [words(text) for text in known]
    found = []
    for text in new:
        own = words(text)
        pairs = (2 * LCSseq.similarity(own, other) / max(1, len(own) + len(other)) for other in every)
        found.append(max((alike for alike in pairs if alike > ROUGE), default=0.0))
    return found


def measure(known: Sequence[str], new: Sequence[str]) -> None:
    """Print times and memory with both measures and with ROUGE-L alone."""
    base = peak_mb()
    print(f"{len(known):,} known texts, {len(new):,} new ones\n")
    print(f"{'':<22}{'add s':>9}{'check s':>9}{'ms/check':>10}{'found':>8}{'peak MB over base':>19}")
    for name, minhash in (("ROUGE-L", 1.0), ("ROUGE-L and MinHash", 0.7)):
        start = time.perf_counter()
        neighbours = collection(known, minhash=minhash)
        added = time.perf_counter()
        found = [neighbours.nearest(text) for text in new]
        done = time.perf_counter()
        each = 1e3 * (done - added) / len(new)
        near = sum(one is not None for one in found)
        print(f"{name:<22}{added - start:>9.2f}{done - added:>9.2f}{each:>10.2f}{near:>8,}{peak_mb() - base:>19.0f}")


def compare(known: Sequence[str], new: Sequence[str]) -> None:
    """Print how much faster than all pairs it is; the answers must be the same."""
    neighbours = collection(known, minhash=1.0)
    start = time.perf_counter()
    found = [neighbours.nearest(text) for text in new]
    ours = time.perf_counter() - start
    highest = highest_of_all_pairs(new, known)
    brute = time.perf_counter() - start - ours
    assert [one.similarity if one else 0.0 for one in found] == highest
    print(f"\n{len(new):,} against {len(known):,}: {ours:.3f} s; all pairs {brute:.2f} s, {brute / ours:.0f} times")


def main() -> None:
    """Measure and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("known", nargs="?", type=Path, help="a corpus file")
    parser.add_argument("new", nargs="?", type=Path, help="a corpus file")
    asked = parser.parse_args()
    known = instructions(asked.known) if asked.known else made_up()
    new = instructions(asked.new)[:CHECKED] if asked.new else variants(known)
    measure(known, new)
    compare(known[:SOME_KNOWN], new[:SOME_NEW])


if __name__ == "__main__":
    main()
