"""Do estimators of difficulty rank the corpus alike, and do they tell hard from easy within a task?

    python lab/study/ranks.py studies/gym > lab/study/gym/ranks.md

Reads what the study's variants tapir (MFD), ifd, pass-rate and longest (length) measured of one corpus and one student,
seed by seed.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

from scipy import stats

from tapir.data.run.rows import DifficultyRow, TagRow
from tapir.data.run.store import RunStore
from tapir.evaluation.statistics import mean_over_seeds

ESTIMATORS = {"MFD": "tapir", "IFD": "ifd", "pass rate": "pass-rate", "length": "longest"}


def main() -> None:
    """Print a line for each pair of estimators: over the whole corpus, and the mean within tasks."""
    study = Path(sys.argv[1])
    seeds = [folder.name for folder in sorted((study / "tapir").glob("seed-*"))]
    whole: dict[tuple[str, str], list[float]] = defaultdict(list)
    within: dict[tuple[str, str], list[float]] = defaultdict(list)
    for seed in seeds:
        measured = {
            name: {row.id: row.gap for row in store.read("round-1/difficulty", DifficultyRow) if row.gap is not None}
            for name, variant in ESTIMATORS.items()
            if (store := RunStore(study / variant / seed)).has("round-1/difficulty")
        }
        tags = RunStore(study / "tapir" / seed).read("round-0/tags", TagRow)
        groups = _grouped({row.id: row.task for row in tags if row.task})
        for pair in combinations(measured, 2):
            one, other = (measured[name] for name in pair)
            whole[pair].append(_rho(one, other, [*one]))
            within[pair].append(fmean(_rho(one, other, ids) for ids in groups.values()))
    print("# Rank correlations of the estimators\n")
    print("Spearman's rho of the gaps before the first round, means over the seeds with 95 % t intervals.\n")
    print("| | | seeds | whole corpus | within a task |\n| --- | --- | ---: | ---: | ---: |")
    for pair, values in whole.items():
        print(f"| {pair[0]} | {pair[1]} | {len(values)} | {_cell(values)} | {_cell(within[pair])} |")


def _grouped(task_of: Mapping[str, str]) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, task in task_of.items():
        found[task].append(name)
    return found


def _rho(one: Mapping[str, float], other: Mapping[str, float], ids: Sequence[str]) -> float:
    shared = [name for name in ids if name in one and name in other]
    return float(stats.spearmanr([one[name] for name in shared], [other[name] for name in shared]).statistic)


def _cell(values: Sequence[float]) -> str:
    found = mean_over_seeds(values)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]" if found.n > 1 else f"{found.value:.2f}"


if __name__ == "__main__":
    main()
