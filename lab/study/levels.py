"""Success by level: does a variant win on what is easy or on what is hard?

    python lab/study/levels.py studies/gym tapir > lab/study/gym/levels.md

Reads the finished runs of a study of the gym, of which one variant is compared with all others on the seeds that both
have. The in-distribution prompts come in equal parts from levels 1 to 3.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from tapir.config.corpus import GymCorpusConfig
from tapir.config.evaluation import GymEvaluationConfig
from tapir.config.recipe import Recipe
from tapir.data.run.rows import EvaluationRow
from tapir.data.run.store import RunStore
from tapir.domain.evaluation import EvalResult
from tapir.evaluation.statistics import mean_over_seeds
from tapir.gym.roles import benchmarks
from tapir.runs.session import stored_recipe


def main() -> None:
    """Print two tables, a variant a line, a level a column: success, and the difference to one variant."""
    study, method = Path(sys.argv[1]), sys.argv[2]
    found = {folder.name: by_seed for folder in sorted(study.iterdir()) if (by_seed := dict(_seeds(folder)))}
    levels = sorted({level for by_seed in found.values() for scores in by_seed.values() for level in scores})
    success = {name: {level: [one[level] for one in by.values()] for level in levels} for name, by in found.items()}
    print("# Success by level\n\nMeans over the seeds with 95 % t intervals, in percent.\n")
    _table(success, levels, "{:.1f}")
    theirs = found.pop(method)
    differences = {
        name: {level: [by[seed][level] - theirs[seed][level] for seed in by.keys() & theirs.keys()] for level in levels}
        for name, by in found.items()
    }
    print(f"\n# Difference to {method}\n\nIn points, paired by seed, with 95 % t intervals.\n")
    _table(differences, levels, "{:+.1f}")


def _table(rows: Mapping[str, Mapping[int, Sequence[float]]], levels: Sequence[int], style: str) -> None:
    print("| variant | seeds |", " | ".join(f"level {level}" for level in levels), "|")
    print("| --- | ---: |", " | ".join("---:" for _ in levels), "|")
    for name, row in sorted(rows.items(), key=lambda one: -fmean(one[1][levels[-1]])):
        cells = [_cell(mean_over_seeds(row[level]), style) for level in levels]
        print(f"| {name} | {len(row[levels[0]])} |", " | ".join(cells), "|")


def _seeds(folder: Path) -> Iterator[tuple[int, Mapping[int, float]]]:
    for run in sorted(folder.glob("seed-*")):
        store, recipe = RunStore(run), stored_recipe(run)
        last = f"round-{recipe.curriculum.alpha().rounds}/evaluation"
        if store.has(last):
            yield recipe.seed, _by_level(store.read(last, EvaluationRow), _level_of(recipe))


def _level_of(recipe: Recipe) -> Mapping[str, int]:
    """The level of each in-distribution prompt, which is part of its address gym:SKILL:LEVEL:INDEX."""
    corpus, wanted = recipe.corpus, recipe.evaluation
    if not isinstance(corpus, GymCorpusConfig) or not isinstance(wanted, GymEvaluationConfig):
        sys.exit(f"{recipe.name} is no study of the gym: only there do instructions have levels")
    (held_out,) = benchmarks(corpus.skills, per_task=wanted.per_task, harder=0, unseen=0, sample=wanted.sample)
    return {one.instruction.id: int(one.instruction.origin.source.split(":")[2]) for one in held_out.prompts()}


def _by_level(rows: list[EvaluationRow], level_of: Mapping[str, int]) -> Mapping[int, float]:
    successes: dict[int, list[bool]] = defaultdict(list)
    for row in rows:
        if row.benchmark == "in-distribution":
            successes[level_of[row.id]].append(row.success)
    return {level: sum(found) / len(found) for level, found in successes.items()}


def _cell(found: EvalResult, style: str) -> str:
    values = [style.format(100 * one) for one in (found.value, found.low, found.high)]
    return f"{values[0]} [{values[1]}, {values[2]}]" if found.n > 1 else values[0]


if __name__ == "__main__":
    main()
