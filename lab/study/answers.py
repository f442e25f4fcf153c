"""Answers of one task that end in a number, round by round: what is right, what is said, and what was trained on.

python lab/study/answers.py STUDY letter_counting [--variant tapir] [--number 1]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tapir.data.run.rows import EvaluationRow, MixtureRow
from tapir.data.run.store import RunStore


def main() -> None:
    """Print one row for every run and round, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("task")
    parser.add_argument("--variant", default="tapir")
    parser.add_argument("--number", default="1", help="the answer whose share is shown")
    options = parser.parse_args()
    print(f"| seed | round | trained on {options.number}: easy | hard or any | answers {options.number} | right | of |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for run in sorted((options.study / options.variant).glob("seed-*")):
        store = RunStore(run)
        number = 0
        while store.has(f"round-{number}/evaluation"):
            rows = [row for row in store.read(f"round-{number}/evaluation", EvaluationRow) if row.task == options.task]
            rows = [row for row in rows if row.benchmark == "in-distribution"]
            said = sum(last(row.answer or "") == options.number for row in rows)
            cells = [run.name.removeprefix("seed-"), str(number), *trained(store, number, options.task, options.number)]
            print(f"| {' | '.join(cells)} | {said} | {sum(row.success for row in rows)} | {len(rows)} |")
            number += 1


def trained(store: RunStore, number: int, task: str, answer: str) -> tuple[str, str]:
    """Return how many of a round's examples of the task end in the answer, "a of b", easy ones and the others."""
    rows = store.read(f"round-{number}/mixture", MixtureRow) if number else []
    cells = []
    for easy in (True, False):
        ends = [last(row.response) for row in rows if row.task == task and (row.pool == "easy") == easy]
        cells.append(f"{ends.count(answer)} of {len(ends)}" if ends else "")
    return cells[0], cells[1]


def last(text: str) -> str:
    """Return what stands after the last marker of an answer."""
    return text.rpartition("####")[2].strip()


if __name__ == "__main__":
    main()
