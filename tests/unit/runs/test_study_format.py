"""Formatting of a study: tables, Markdown, JSON, figure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support import studies as made
from tapir.domain.evaluation import EvalResult
from tapir.evaluation.paired import SeedContrast, over_seeds
from tapir.runs.study import format as formatting
from tapir.runs.study import write
from tapir.runs.study.figure import chart
from tapir.runs.study.results import Efficiency, Effort, StudyResult, VariantResult

NAN = math.nan
NONE = EvalResult(0.5, 1, NAN, NAN)


def variant(name: str, value: float, share: Efficiency | None, *, seeds: int = 3) -> VariantResult:
    """A variant that is so much better than the baseline at a half."""
    several = seeds > 1
    success = EvalResult(0.5 + value, seeds, *((0.4, 0.8) if several else (NAN, NAN)))
    difference = EvalResult(value, seeds, *((value - 0.05, value + 0.05) if several else (NAN, NAN)))
    contrast = SeedContrast(0.5 + value, 0.5, difference, {1: value}, 0.25, 0.0004 if several else NAN)
    rows = {1: made.outcomes({"gcd": 0.5, "chain_sum": 0.5})}
    result = over_seeds(rows, rows, "in-distribution")
    return VariantResult(
        name,
        f"the variant {name}",
        tuple(range(seeds)),
        {"in-distribution": success, "harder": success},
        [(0.0, NONE), (1000.0, success)],
        Effort(1234, 1000, 7_654_321, 12_345, 999, 5, 60),
        {"in-distribution": replace(result, mean_of_tasks=contrast, tasks={"gcd": contrast, "a | b\nc": contrast})},
        0.0123 if several else None,
        share,
    )


def result(*variants: VariantResult) -> StudyResult:
    rates = {"in-distribution": NONE, "harder": NONE}
    baseline = VariantResult("random", "uniform", (1, 2, 3), rates, [(0.0, NONE)], Effort())
    grid = made.study(["random", *(variant.name for variant in variants)])
    return StudyResult(grid, [baseline, *variants], [("tapir", 9)], [("tapir", 9, "error: x (exit status 1)")])


REACHED = Efficiency(0.456, 0.3, 0.7, 1.0)
WHOLE = result(
    variant("tapir", 0.1, REACHED),
    variant("sometimes", 0.02, Efficiency(0.9, 0.5, math.inf, 0.8)),
    variant("never", -0.1, Efficiency(math.inf, math.inf, math.inf, 0.0)),
    variant("once", 0.03, Efficiency(0.8, NAN, NAN, 1.0), seeds=1),
)


def tables(text: str) -> Iterator[list[list[str]]]:
    """Yield the tables of a Markdown page, each as its rows' cells."""
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines and all(line.startswith("|") for line in lines):
            yield [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_page_has_well_formed_tables_and_no_nan() -> None:
    text = formatting.markdown(WHOLE)
    first, second = tables(text)
    for table in (first, second):
        assert {len(row) for row in table} == {len(table[0])}
        assert all(cell for row in table for cell in row)
    assert [row[0] for row in second[2:]] == ["gcd", r"a \| b c"]
    assert not {"nan", "inf"} & set(re.findall(r"[a-z]+", text.lower()))
    assert "Not finished: tapir seed 9." in text
    assert "- `tapir`: the variant tapir; seeds 0, 1, 2" in text


def test_the_best_variant_comes_first_and_every_number_is_there() -> None:
    table = next(tables(formatting.markdown(WHOLE)))
    rows = {row[0]: dict(zip(table[0], row, strict=True)) for row in table[2:]}
    assert list(rows) == ["tapir", "once", "sometimes", "random", "never"]
    assert rows["tapir"]["in-distribution"] == "60.0 % [40.0, 80.0]"
    assert [rows["tapir"][key] for key in ("vs random (points)", "p", "p Holm")] == [
        "+10.0 [+5.0, +15.0]",
        "< 0.001",
        "0.012",
    ]
    assert [rows["once"][key] for key in ("vs random (points)", "p", "p Holm")] == ["+3.0", "-", "-"]
    assert [rows["tapir"][key] for key in ("examples", "teacher", "judge", "tokens")] == ["1,234", "12k", "999", "7.7M"]
    shares = ["46 % [30, 70]", "80 %", "90 % [50, not reached]", "-", "not reached"]
    assert [row["examples to reach it"] for row in rows.values()] == shares


def test_json_has_null_where_there_is_no_number() -> None:
    content = json.loads(json.dumps(formatting.to_json(WHOLE), allow_nan=False))
    variants = {variant["name"]: variant for variant in content["variants"]}
    assert variants["once"]["success"]["in-distribution"] == {"value": 0.53, "n": 1, "low": None, "high": None}
    assert variants["never"]["efficiency"] == {"share": None, "low": None, "high": None, "reached": 0}
    assert (content["missing"], content["failed"]) == ([["tapir", 9]], [["tapir", 9, "error: x (exit status 1)"]])


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (9_999, "10k"), (12_345, "12k"), (999_999, "1.0M"), (1_500_000, "1.5M")],
)
def test_large_numbers_are_short(number: float, text: str) -> None:
    assert formatting._count(number) == text


def test_results_are_written_as_json_markdown_and_figure(tmp_path: Path) -> None:
    write(WHOLE, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["study"]["name"] == "made"
    assert (tmp_path / "results.md").read_text().startswith("# Study made\n")
    svg = (tmp_path / "figure.svg").read_text()
    assert svg.startswith("<svg")
    assert "nan" not in svg.lower()
    assert all(name in svg for name in ("tapir", "sometimes", "never", "once", "training examples", "points more than"))
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_every_line_of_the_figure_has_a_colour_of_its_own_or_is_one_of_the_others() -> None:
    assert lines_of(WHOLE) == {"tapir", "sometimes", "never", "once"}
    many = result(*(variant(f"v{number}", 0.01 * number, REACHED) for number in range(12)))
    assert lines_of(many) == {"v0", "the others"}
    assert lines_of(replace(many, study=many.study.model_copy(update={"method": "v7"}))) == {"v7", "the others"}


def test_a_difference_is_marked_as_clear_only_where_its_interval_excludes_zero() -> None:
    clear = {row["variant"]: row["clear"] for row in data_of(chart(WHOLE)) if "points" in row}
    assert clear == {"tapir": True, "once": False, "sometimes": False, "never": True}


def lines_of(result: StudyResult) -> set[object]:
    return {row["line"] for row in data_of(chart(result)) if "line" in row}


def data_of(spec: object) -> Iterator[dict[str, object]]:
    """Yield the rows of all data in a chart."""
    if isinstance(spec, dict):
        yield from spec.get("values", [])
    for part in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ():
        yield from data_of(part)
