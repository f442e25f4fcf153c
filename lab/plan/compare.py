"""How well does `tapir plan` foresee what a run is billed? A run against the fake server, stage by stage.

    python -m lab.plan.compare CORPUS [--limit 2000] [--size 300] [--rounds 2] [--set key=value ...]

CORPUS is a file of instructions such as alpaca_data.json. The student is the built-in one, hardly trained; teacher,
judge and labels come from the fake server of the tests. Prints a table: estimated and billed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from support.server import Behaviour, serving
from tapir.config.recipe import Recipe
from tapir.config.toml import parse
from tapir.data.files import read_json
from tapir.models.api.ledger import Ledger
from tapir.models.api.session import LEDGER
from tapir.runs import session
from tapir.runs.plan import Plan, plan

_FIGURES = ("calls", "in", "out", "money")


def recipe(corpus: Path, url: str, *, limit: int, size: int, rounds: int) -> Recipe:
    """A recipe whose paid roles are the server at `url`; prices as of a small commercial model."""
    endpoint = {"base_url": url, "model": "fake", "price_input": 0.4, "price_output": 1.6, "json_schema": True}
    return parse(
        {
            "name": "compare",
            "corpus": {"kind": "file", "path": str(corpus), "limit": limit},
            "endpoints": {"server": endpoint},
            "teacher": {"kind": "llm", "endpoints": ["server"]},
            "judge": {"kind": "llm", "endpoints": ["server"]},
            "tagger": {"endpoints": ["server"], "labelled": min(800, limit // 2)},
            "student": {"model": "nano", "max_new_tokens": 48},
            "curriculum": {"rounds": rounds, "size": size, "target": {"taxonomy": "paper"}},
            "training": {"epochs": 0.05, "max_length": 4096},
            "evaluation": {"kind": "judged", "held_out": min(200, limit // 10)},
        }
    )


def billed(folder: Path) -> dict[tuple[int, str], Sequence[float]]:
    """Calls, tokens in and out, and money of every stage, as the server counted them."""
    run = str(read_json(folder / "manifest.json", "")["run"])
    found: dict[tuple[int, str], list[float]] = defaultdict(lambda: [0.0] * len(_FIGURES))
    with closing(Ledger(folder / LEDGER)) as ledger:
        spent = ledger.spent(run)
    for one in spent:
        figures = (one.calls, one.usage.prompt_tokens, one.usage.completion_tokens, one.cost)
        total = found[one.purpose.round, one.purpose.stage]
        for place, figure in enumerate(figures):
            total[place] += figure
    return dict(found)


def estimated(found: Plan) -> dict[tuple[int, str], Sequence[float]]:
    """The same, as the plan expects them."""
    return {
        (stage.round, stage.stage): (
            stage.cost.calls.expected,
            stage.cost.read.expected,
            stage.cost.written.expected,
            stage.cost.money.expected,
        )
        for stage in found.stages
        if stage.cost.calls.most
    }


def main() -> None:
    """Plan, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--size", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", action="append", default=[])
    chosen = parser.parse_args()
    with serving(Behaviour(latency=0.0)) as server, tempfile.TemporaryDirectory() as folder:
        wanted = recipe(chosen.corpus, server.url, limit=chosen.limit, size=chosen.size, rounds=chosen.rounds)
        wanted = parse(wanted.resolved(), chosen.set)
        before = estimated(plan(wanted, measure=False))
        session.run(wanted, Path(folder) / "run")
        after, stats = billed(Path(folder) / "run"), server.stats()
    _show(before, after)
    print(
        f"the server counted {stats.requests:,} requests, {stats.prompt_tokens:,} tokens in,"
        f" {stats.completion_tokens:,} out"
    )


def _show(before: dict[tuple[int, str], Sequence[float]], after: dict[tuple[int, str], Sequence[float]]) -> None:
    print(
        f"{'round stage':<16}" + "".join(f"{name + ' ' + what:>16}" for name in _FIGURES for what in ("est.", "billed"))
    )
    nothing = [0.0] * len(_FIGURES)
    for number, stage in sorted({*before, *after}):
        key = (number, stage)
        _line(f"{number:>5} {stage}", before.get(key, nothing), after.get(key, nothing))
    sums = [[sum(column) for column in zip(*table.values(), strict=True)] for table in (before, after)]
    _line("all", *sums)
    off = [f"{name} {100 * (guess / bill - 1):+.1f} %" for name, guess, bill in zip(_FIGURES, *sums, strict=True)]
    print("estimate against bill: " + ", ".join(off))


def _line(name: str, guess: Sequence[float], bill: Sequence[float]) -> None:
    cells = [
        f"{figure:>16,.4f}" if place == len(_FIGURES) - 1 else f"{figure:>16,.0f}"
        for place, pair in enumerate(zip(guess, bill, strict=True))
        for figure in pair
    ]
    print(f"{name:<16}" + "".join(cells))


if __name__ == "__main__":
    main()
