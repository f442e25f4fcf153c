"""How often 95 % intervals of length-controlled rates from several models hold the truth, and how far off rates are.

    python lab/length_control/coverage.py OUT.jsonl [--data DIR]

Simulated sets have a known truth, the rate over all prompts there could be. With --data, every set of the shared models
(annotations_compact_shared.jsonl.gz, leaderboard_shared_models.csv) is compared with the published rates. One line for
each set goes to OUT; the same command goes on where it was and prints the tables. One thread, minutes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from tapir.evaluation.annotations import Annotation
from tapir.evaluation.length_control import LengthControlFiles, LengthControlled, length_controlled_together

PROMPTS = 805
SETS = {5: 40, 7: 30, 12: 12, 25: 4}  # simulated sets by number of models
EFFECTS = {"0": (0.0, 0.0), "0.5 to 2, models differ": (1.2, 0.4), "2.5": (2.5, 0.0)}
_LARGE = np.random.default_rng(0).normal(size=20_000)

Models = dict[str, list[Annotation]]


def simulate(count: int, effect: tuple[float, float], seed: int, *, skewed: bool) -> tuple[Models, dict[str, float]]:
    """Draw `count` models of 1 to 70 %, most with shorter answers; return their annotations and true rates."""
    rng = np.random.default_rng([seed, count, int(10 * effect[0])])
    difficulty = rng.exponential(size=PROMPTS) - 1 if skewed else rng.normal(size=PROMPTS)
    everywhere = rng.exponential(size=len(_LARGE)) - 1 if skewed else _LARGE
    models: Models = {}
    truth: dict[str, float] = {}
    while len(models) < count:
        name, ability, slope = f"m{len(models)}", rng.normal(-2.5, 1.5), abs(rng.normal(1.6, 0.5))
        more = np.round(rng.normal(rng.uniform(-1_800, 400), 700, PROMPTS))
        length = np.tanh(more / more.std(ddof=1))
        chance = expit(ability + rng.normal(*effect) * length + slope * difficulty)
        won = rng.beta(0.3 * chance, 0.3 * (1 - chance))  # nearly yes or no, as preferences weighted by probability are
        if 2 < won.sum() < PROMPTS - 2:
            models[name] = [
                Annotation(name, "b", "", place, "", float(won[place]), int(3_000 + more[place]), 3_000)
                for place in range(PROMPTS)
            ]
            truth[name] = float(expit(ability + slope * everywhere).mean())
    return models, truth


def shared(folder: Path) -> tuple[Models, dict[str, float]]:
    """Return the shared annotations but the baseline's own, and the published rates of those that have one."""
    models: Models = defaultdict(list)
    with gzip.open(folder / "annotations_compact_shared.jsonl.gz", "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            if row["model"] != row["baseline"]:
                lengths = row["len_output_2"], row["len_output_1"]
                place = row["index"]
                each = Annotation(row["model"], "b", "", place, "", row["preference"] - 1, *lengths)
                models[row["model"]].append(each)
    with (folder / "leaderboard_shared_models.csv").open(encoding="utf-8") as file:
        published = {row[""]: float(row["length_controlled_winrate"]) / 100 for row in csv.DictReader(file)}
    return dict(models), published


def sets(data: Path | None) -> Iterator[tuple[str, str, int, Any]]:
    """Yield name, group, number of models and what makes a set."""
    for count, number in SETS.items():
        for label, effect in EFFECTS.items():
            for seed in range(number):
                skewed = seed % 2 == 1
                group = f"simulated, length effect {label}"
                yield f"{group} {count} {seed}", group, count, (count, effect, seed, skewed)
    if data:
        models, published = shared(data)
        for count in range(5, len(models) + 1):
            for names in combinations(models, count):
                yield (
                    f"shared {' '.join(names)}",
                    "shared models, published",
                    count,
                    ({n: models[n] for n in names}, published),
                )


def main() -> None:
    """Measure what is not in the file yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    lines = options.out.read_text("utf-8").splitlines() if options.out.exists() else []
    done = {line["set"]: line for line in map(json.loads, lines)}
    with options.out.open("a", encoding="utf-8") as file:
        for name, group, count, content in sets(options.data):
            if name not in done:
                models, truth = content if isinstance(content[0], dict) else simulate(*content[:3], skewed=content[3])
                rates = length_controlled_together(models, LengthControlFiles())
                found = [
                    (one.rate.value, one.rate.low, one.rate.high, truth[model])
                    for model, one in rates.items()
                    if model in truth and isinstance(one, LengthControlled)
                ]
                done[name] = {"set": name, "group": group, "models": count, "rates": found}
                file.write(json.dumps(done[name]) + "\n")
                file.flush()
    groups: dict[tuple[str, int], list[list[float]]] = defaultdict(list)
    for line in done.values():
        groups[line["group"], line["models"]] += line["rates"]
    print("| sets | models | rates | in the interval | mean error | median width | largest error |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (group, count), rows in sorted(groups.items()):
        value, low, high, truth = 100 * np.array(rows).T
        error, held = np.abs(value - truth), np.mean((low <= truth) & (truth <= high))
        cells = f"{100 * held:.0f} % | {error.mean():.1f} | {np.median(high - low):.1f} | {error.max():.1f}"
        print(f"| {group} | {count} | {len(rows)} | {cells} |")


if __name__ == "__main__":
    main()
