"""Success by level: does a variant win on what is easy or on what is hard?

    python lab/study/levels.py studies/gym > lab/study/gym/levels.md

Reads the finished runs of a study of the gym. The in-distribution prompts come in equal parts from levels 1 to 3.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from tapir.evaluation.resampling import mean_over_seeds
from tapir.gym.benchmarks import benchmarks
from tapir.recipe import Recipe
from tapir.recipe_file import parse
from tapir.sections import GymCorpus, GymEvaluation
from tapir.store.files import read_json
from tapir.store.rows import EvaluationRow
from tapir.store.run import RunStore


def main() -> None:
    """Print a table: a variant a line, a level a column, the mean over its seeds with a 95 % interval."""
    study = Path(sys.argv[1])
    found = {folder.name: by_seed for folder in sorted(study.iterdir()) if (by_seed := dict(_seeds(folder)))}
    levels = sorted({level for by_seed in found.values() for scores in by_seed.values() for level in scores})
    print("| variant | seeds |", " | ".join(f"level {level}" for level in levels), "|")
    print("| --- | --- |", " | ".join("---" for _ in levels), "|")
    rows = {name: [_cell(by_seed, level) for level in levels] for name, by_seed in found.items()}
    for name, cells in sorted(rows.items(), key=lambda row: row[1][-1], reverse=True):
        print(f"| `{name}` | {len(found[name])} |", " | ".join(cells), "|")


def _seeds(folder: Path) -> Iterator[tuple[int, Mapping[int, float]]]:
    for run in sorted(folder.glob("seed-*")):
        store, recipe = RunStore(run), parse(read_json(run / "recipe.json"))
        last = f"round-{recipe.curriculum.alpha().rounds}/evaluation"
        if store.has(last):
            yield recipe.seed, _by_level(store.read(last, EvaluationRow), _level_of(recipe))


def _level_of(recipe: Recipe) -> Mapping[str, int]:
    """The level of each in-distribution prompt, which is part of its address gym:SKILL:LEVEL:INDEX."""
    corpus, wanted = recipe.corpus, recipe.evaluation
    if not isinstance(corpus, GymCorpus) or not isinstance(wanted, GymEvaluation):
        sys.exit(f"{recipe.name} is no study of the gym: only there do instructions have levels")
    (held_out,) = benchmarks(corpus.skills, per_task=wanted.per_task, harder=0, unseen=0, sample=wanted.sample)
    return {one.instruction.id: int(one.instruction.origin.source.split(":")[2]) for one in held_out.prompts()}


def _by_level(rows: list[EvaluationRow], level_of: Mapping[str, int]) -> Mapping[int, float]:
    successes: dict[int, list[bool]] = defaultdict(list)
    for row in rows:
        if row.benchmark == "in-distribution":
            successes[level_of[row.id]].append(row.success)
    return {level: sum(found) / len(found) for level, found in successes.items()}


def _cell(by_seed: Mapping[int, Mapping[int, float]], level: int) -> str:
    found = mean_over_seeds([scores[level] for scores in by_seed.values()])
    interval = f" [{100 * found.low:.1f}, {100 * found.high:.1f}]" if found.n > 1 else ""
    return f"{100 * found.value:.1f} %{interval}"


if __name__ == "__main__":
    main()
