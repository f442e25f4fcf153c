"""What runs of one seed have in common before their first round, worked out once.

Variants of a study mostly differ in what they do from round 1 on. Corpus, tags, the untuned student's answers with
their scores, and its evaluation are then the same bytes in each of them, so a run may begin with the tables of
another that has them already.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tapir.recipe import Recipe
from tapir.store.files import read_json, write_text
from tapir.store.run import CHECKSUMS, RunStore

_SECTIONS = ("seed", "chunk", "corpus", "teacher", "judge", "tagger", "student", "evaluation", "endpoints", "engine")
_ALWAYS = (
    "corpus",
    "drops",
    "neighbours",
    *(f"round-0/{name}" for name in ("responses", "labels", "tags", "evaluation")),
)
_JUDGED = ("round-0/answers", "round-0/judgements", "round-0/canary")
_FILES = ("round-0/tagger.json", "round-0/metrics.json")


def beginning(recipe: Recipe) -> str:
    """A text that is equal for recipes whose runs begin with the same tables."""
    resolved, plan = recipe.resolved(), recipe.resolved()["curriculum"]
    facts = {name: resolved.get(name) for name in _SECTIONS}
    facts |= {name: plan.get(name) for name in ("warmup_epochs", "novelty")}
    facts["taxonomy"] = plan["target"]["taxonomy"]
    if recipe.curriculum.warmup_epochs:
        facts["training"] = resolved["training"]
    return json.dumps(facts, sort_keys=True)


def take_over(recipe: Recipe, folder: Path, others: Sequence[Path]) -> Path | None:
    """Copy the beginning of another run into a claimed folder that has none yet; returns the run it came from.

    Args:
        recipe: of the run in `folder`.
        folder: a run directory in which no work was done.
        others: run directories of recipes with the same `beginning`.
    """
    if recipe.curriculum.warmup_epochs or (folder / CHECKSUMS).exists():
        return None  # a warm-up leaves a checkpoint too, which is not worth copying
    tables = [*_ALWAYS, *_wanted(recipe)]
    for other in others:
        source = RunStore(other)
        if not (other / "round-0/metrics.json").exists() or not _same_difficulty(recipe, other):
            continue
        there = [name for name in tables if source.has(name)]
        (folder / "round-0").mkdir(parents=True, exist_ok=True)
        for name in (*(f"{table}.parquet" for table in there), *_FILES):
            if (other / name).exists():
                shutil.copyfile(other / name, folder / name)
        write_text(folder / CHECKSUMS, "".join(_lines(other, [f"{table}.parquet" for table in there])))
        return other
    return None


def _wanted(recipe: Recipe) -> Sequence[str]:
    """Tables of the first scoring, by how difficulty is measured."""
    match recipe.curriculum.difficulty.kind:
        case "mfd":
            return _JUDGED
        case "none":
            return ()
        case _:
            return ("round-0/estimates", "round-0/canary")


def _same_difficulty(recipe: Recipe, other: Path) -> bool:
    """Whether the tables of the other run's first scoring, where it has any that are wanted, mean the same."""
    theirs = read_json(other / "recipe.json")["curriculum"]["difficulty"]
    ours = recipe.resolved()["curriculum"]["difficulty"]
    return ours["kind"] in {"mfd", "none"} or bool(theirs == ours) or theirs["kind"] in {"mfd", "none"}


def _lines(folder: Path, names: Sequence[str]) -> Iterator[str]:
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines(keepends=True):
        if line.rstrip("\n").split("  ", 1)[-1] in names:
            yield line
