"""Rank correlation of the judge's gap with IFD and with length, of one run whose recipe compares them.

python lab/real/r2/rank.py RUN
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy.stats import spearmanr

from tapir.data.run.rows import EstimateRow, JudgementRow
from tapir.data.run.store import RunStore

DRAWS = 2000


def main() -> None:
    """Print how the judge's scores look, and Spearman's rho with 95 % bootstrap intervals over the instructions."""
    store = RunStore(Path(sys.argv[1]))
    gaps, orders = defaultdict(list), 0
    for row in store.read("round-0/judgements", JudgementRow):
        if row.reference is not None and row.student is not None:
            gaps[row.id].append(row.reference - row.student)
    for values in gaps.values():
        orders += len(values) > 1 and min(values) < 0 < max(values)
    gap = {name: fmean(values) for name, values in gaps.items()}
    spread, worse = np.std([*gap.values()]), sum(value < 0 for value in gap.values())
    print(f"{len(gap)} instructions, mean gap {fmean(gap.values()):+.2f}, standard deviation {spread:.2f};")
    print(f"the corpus's answer is the worse one in {worse}; {orders} change sides with the order")
    for name in ("ifd", "length"):
        other = {
            row.id: row.value for row in store.read(f"round-0/compared-{name}", EstimateRow) if row.value is not None
        }
        ids = sorted(gap.keys() & other.keys())
        a, b = np.array([gap[each] for each in ids]), np.array([other[each] for each in ids])
        rng = np.random.default_rng(0)
        drawn = [spearmanr(a[rows], b[rows])[0] for rows in (rng.integers(0, len(ids), len(ids)) for _ in range(DRAWS))]
        low, high = np.quantile(drawn, [0.025, 0.975])
        print(f"gap and {name}: rho {spearmanr(a, b)[0]:.2f} ({low:.2f} to {high:.2f}), n = {len(ids)}")


if __name__ == "__main__":
    main()
