"""Runs of the loop with people who need no model, for what goes beyond the paper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from support import fakes
from tapir.config.recipe import Recipe
from tapir.data.run.rows import MixtureRow
from tapir.data.run.store import RunStore
from tapir.domain.instruction import Pair, Response
from tapir.domain.judgement import Verdict
from tapir.domain.roles import Comparison, Roles
from tapir.runs import session


def carried_out(folder: Path, recipe: Recipe, roles: Roles | None = None) -> RunStore:
    session.run(recipe, folder / "run", roles=roles or fakes.roles(folder / "people", size=40))
    return RunStore(folder / "run")


def mixture(store: RunStore, number: int) -> list[MixtureRow]:
    return store.read(f"round-{number}/mixture", MixtureRow)


def pairs_of(**counts: int) -> list[Pair]:
    return [
        Pair(fakes.instruction(task, number), Response("right", "corpus"))
        for task, count in counts.items()
        for number in range(count)
    ]


class NoJudge(fakes.Judge):
    """Nobody is to be judged."""

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        raise AssertionError(f"asked to judge {list(comparisons)}")


def number_of(pair: Pair) -> int:
    return int(pair.instruction.text.split()[-1])
