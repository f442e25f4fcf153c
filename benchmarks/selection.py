"""Time and peak memory of the selection: split, pools, resample and mix, without models or files.

    python benchmarks/selection.py                  10,000, 100,000 and 1,000,000 instructions
    python benchmarks/selection.py 50000 200000     sizes of your own

Every size runs in a process of its own, so that its peak resident memory is its own. Tasks and target are
those of the paper (33 labels); the corpus is imbalanced, so some tasks fall short. A mixture takes 10 % of the
corpus with α = 0.5. Times are the best of three, memory is the peak of the whole process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

# The package and numpy are imported in the measured process only: a child's peak counts what its parent held.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tapir.domain.difficulty import Split
    from tapir.domain.mixture import Pool
    from tapir.domain.task import TaskDistribution

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")

SIZES = (10_000, 100_000, 1_000_000)
REPEATS = 3
MIXTURE_SHARE = 0.1
ALPHA = 0.5
UNSCORED_SHARE = 0.02
SEED = 7
STEPS = ("select", "pools", "resample", "mix")


def peak_mb() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def timed(
    seconds: dict[str, float],
    step: str,
    work: Callable[Inputs, Result],
    *inputs: Inputs.args,
    **options: Inputs.kwargs,
) -> Result:
    """The result of a step, whose time is kept if it is the best so far."""
    start = time.perf_counter()
    result = work(*inputs, **options)
    seconds[step] = min(seconds.get(step, float("inf")), time.perf_counter() - start)
    return result


def paper_target() -> TaskDistribution:
    """P(t) of the paper."""
    from importlib import resources

    from tapir.domain.task import Taxonomy

    file = resources.files("tapir.recipes") / "taxonomies" / "paper.toml"
    return Taxonomy.from_toml(file.read_text(encoding="utf-8")).target


def corpus(size: int, labels: tuple[str, ...]) -> tuple[list[str], NDArray[np.float64], dict[str, str]]:
    """Ids, gaps (NaN where unscored) and tasks; task shares fall by a power law, gaps centre on 0.5."""
    import numpy as np

    from tapir.domain.instruction import instruction_id

    random = np.random.default_rng(SEED)
    ids = [instruction_id(str(number)) for number in range(size)]
    gaps = np.clip(np.round(random.normal(0.5, 2.5, size) * 2) / 2, -9, 9)
    gaps[random.random(size) < UNSCORED_SHARE] = np.nan
    popularity = 1 / np.arange(1, len(labels) + 1)
    tasks = random.choice(len(labels), size, p=popularity / popularity.sum())
    return ids, gaps, dict(zip(ids, (labels[task] for task in tasks), strict=True))


def pools(parts: Split, task_of: dict[str, str], labels: tuple[str, ...]) -> tuple[Pool, Pool]:
    """The hard pool, and the easy pool without what is withheld."""
    from tapir.domain.mixture import Pool

    easy = [name for name in parts.easy if name not in parts.withheld]
    return Pool.of(parts.hard, task_of, labels), Pool.of(easy, task_of, labels)


def measure(size: int) -> dict[str, float]:
    """Seconds by step, and memory in MB: after the imports (base), with the inputs, and at its peak."""
    from tapir.domain.difficulty import Threshold, split
    from tapir.domain.mixture import mix, resample

    target = paper_target()
    base = peak_mb()
    ids, gaps, task_of = corpus(size, target.labels)
    inputs = peak_mb()
    seconds: dict[str, float] = {}
    n = round(MIXTURE_SHARE * size)
    for _ in range(REPEATS):
        parts = timed(seconds, "select", split, ids, gaps, Threshold())
        hard, easy = timed(seconds, "pools", pools, parts, task_of, target.labels)
        timed(seconds, "resample", resample, hard, easy, n, ALPHA, target)
        timed(seconds, "mix", mix, hard, easy, n, ALPHA, target, SEED)
    return {**seconds, "base": base, "inputs": inputs, "peak": peak_mb()}


def measured_apart(size: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", str(size)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        sys.exit(f"{size} instructions: {found.stderr}")
    result: dict[str, float] = json.loads(found.stdout)
    return result


def main() -> None:
    """Measure every size and print the table and how it grows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, default=list(SIZES), help="instructions")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.measure)))
        return
    heads = ("n", *(f"{step} s" for step in STEPS), "total s", "base MB", "inputs MB", "peak MB")
    print("".join(f"{head:>12}" for head in heads))
    results = []
    for size in asked.sizes:
        found = measured_apart(size)
        found["total"] = sum(found[step] for step in STEPS)
        results.append(found)
        print(
            f"{size:>12,}"
            + "".join(f"{found[step]:>12.4f}" for step in (*STEPS, "total"))
            + "".join(f"{found[kind]:>12.1f}" for kind in ("base", "inputs", "peak"))
        )
    first, last = results[0], results[-1]
    print(f"\nfrom {asked.sizes[0]:,} to {asked.sizes[-1]:,} instructions ({asked.sizes[-1] / asked.sizes[0]:g} times)")
    print(f"  time    {last['total'] / first['total']:8.1f} times")
    print(f"  memory  {(last['peak'] - last['base']) / (first['peak'] - first['base']):8.1f} times, over the base")


if __name__ == "__main__":
    main()
