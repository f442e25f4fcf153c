"""The change between two rounds: over the prompts graded in both, and no finding where chance explains it."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path

import pytest

from support.pages import Elements, section, words
from support.runs import build_run
from tapir.cli.tables import new_console, print_table, result_lines, result_table
from tapir.data.files import write_json
from tapir.data.run.rows import EvaluationRow
from tapir.data.run.store import RunStore
from tapir.evaluation.gain import Gain, gain
from tapir.evaluation.paired import compare_pairs
from tapir.evaluation.statistics import summarise as rates
from tapir.report.page import render
from tapir.report.summary import Summary, costs, summarise

NAME = "held-out"
GAINS = "Every round gains success (percentage points, 95 % interval)"


def rows(outcomes: dict[str, str]) -> list[EvaluationRow]:
    """Return graded answers by task: + a success, - a failure, ? no grade."""
    return [
        EvaluationRow(
            NAME, f"{task}-{place}", task, f"{task} {place}", "42", "a", None if sign == "?" else 1.0, sign == "+", None
        )
        for task, signs in outcomes.items()
        for place, sign in enumerate(signs)
    ]


def measured(folder: Path, *rounds: dict[str, str]) -> RunStore:
    """Return a run whose rounds had these outcomes."""
    last = len(rounds) - 1
    store = build_run(folder, api=True, rounds=last, done=last)
    for number, outcomes in enumerate(rounds):
        graded = rows(outcomes)
        counted = [(row.task, row.success) for row in graded if row.score is not None]
        store.write(f"round-{number}/evaluation", EvaluationRow, graded)
        write_json(store.round(number) / "metrics.json", [asdict(rates(NAME, number, counted))])
    return store


BEFORE = {"Math": "--+---", "Law": "------", "Art": "??????"}
AFTER = {"Math": "+++--+", "Law": "--+-+-", "Art": "++++++"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return measured(tmp_path_factory.mktemp("gain") / "run", BEFORE, AFTER)


@pytest.fixture(scope="module")
def summary(store: RunStore) -> Summary:
    return summarise(store)


def test_the_change_is_that_of_eval_pair_with_its_interval(summary: Summary) -> None:
    found = summary.gains[NAME]
    assert isinstance(found, Gain)
    pair = compare_pairs(rows(AFTER), rows(BEFORE), NAME).mean_of_tasks.difference
    assert (found.points, found.low, found.high) == pytest.approx(
        [100 * each for each in (pair.value, pair.low, pair.high)]
    )
    assert found.points == pytest.approx(100 * (3 / 6 + 2 / 6) / 2)
    assert {task: n for task, (_, n) in found.tasks.items()} == {"Law": 6, "Math": 6}
    assert (found.n, found.left_out) == (12, 6)
    assert str(found).startswith("+41.7 (+")
    assert str(found).endswith(", n = 12)")


def test_rounds_without_a_common_prompt_have_no_change() -> None:
    assert gain(rows({"Law": "??"}), rows({"Law": "++"}), NAME) is None
    assert gain([], rows({"Law": "++"}), NAME) is None


def test_a_task_that_one_round_lacks_moves_no_figure_of_the_report_or_the_terminal(
    store: RunStore, summary: Summary
) -> None:
    page = render(store, summary)
    hero = page.partition('<p class="change')[2].partition("</p>")[0]
    assert "+41.7" in hero
    assert ", n = 12" in hero
    assert "the change is over the 12 that are graded in both" in page.partition("<dl")[0]
    table = {row[0]: row for row in Elements(section(page, "results")).rows}
    assert table["Mean of the tasks"][3].startswith("+41.7")
    assert table["Art"][3] == "\N{EN DASH}"
    file = io.StringIO()
    print_table(new_console(file), result_table(summary, NAME))
    assert "+41.7" in file.getvalue()
    found = next(check for check in summary.checks if check.claim == GAINS)
    assert (found.holds, found.figures[:5]) == (True, "+41.7")
    paid = costs(summary)
    assert paid is not None
    assert paid.rates[-1].units == pytest.approx(41.667, abs=0.01)


def test_a_change_within_chance_is_said_to_be_and_has_no_price(tmp_path: Path) -> None:
    store = measured(tmp_path / "run", {"Math": "--+-", "Law": "-+--"}, {"Math": "-++-", "Law": "-++-"})
    summary = summarise(store)
    change, found = summary.gains[NAME], next(check for check in summary.checks if check.claim == GAINS)
    assert change is not None
    assert change.points == 25
    assert not change.certain
    assert found.holds is None
    assert next(line for line in result_lines(summary, []) if GAINS in line).startswith("open ")
    page = render(store, summary)
    hero = page.partition('<p class="change')[2].partition("</p>")[0]
    assert hero.startswith(" unsure")
    assert "not told from chance" in hero
    assert "not told from chance" in words(page, "checks")
    paid = costs(summary)
    assert paid is not None
    assert (paid.rates[-1].what, paid.rates[-1].cost, paid.rates[-1].calls) == (f"point gained on {NAME}", None, None)
    price = next(row for row in Elements(section(page, "costs")).rows if row[0] == f"point gained on {NAME}")
    assert price[2:4] == ["\N{EN DASH}"] * 2
    assert price[4].startswith("not told from chance: +25.0 (")


def test_a_fall_beyond_chance_does_not_hold(tmp_path: Path) -> None:
    store = measured(tmp_path / "run", {"Math": "-" * 20}, {"Math": "+" * 16 + "----"}, {"Math": "+" + "-" * 19})
    summary = summarise(store)
    found = next(check for check in summary.checks if check.claim == GAINS)
    assert found.holds is False
    assert found.figures.startswith("+80.0 (")
    assert "does not hold" in words(render(store, summary), "checks")
