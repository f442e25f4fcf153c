"""A study in words, numbers and a picture."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tapir.domain.round import EvalResult
from tapir.evaluation.paired import SeedContrast, SeedResult
from tapir.study import StudyResult, words, write
from tapir.study.efficiency import Efficiency
from tapir.study.effort import Effort
from tapir.study.figure import chart
from tapir.study.grid import UNTUNED
from tapir.study.results import VariantResult
from tests.study import made

NAN = math.nan
NONE = EvalResult(0.5, 1, NAN, NAN)


def contrast(value: float, *, seeds: int = 3) -> SeedContrast:
    bounds = (value - 0.05, value + 0.05) if seeds > 1 else (NAN, NAN)
    p = 0.0004 if seeds > 1 else NAN
    return SeedContrast(0.5 + value, 0.5, EvalResult(value, seeds, *bounds), {1: value}, 0.25, p)


def difference(value: float, *, seeds: int = 3) -> SeedResult:
    one = contrast(value, seeds=seeds)
    return SeedResult("in-distribution", one, one.difference, {"gcd": one, "a | b\nc": one}, (), 0, 0, 0)


def variant(name: str, value: float, needs: Efficiency | None, *, seeds: int = 3) -> VariantResult:
    """A variant that is so much better than the baseline at a half."""
    success = EvalResult(0.5 + value, seeds, *((0.4, 0.8) if seeds > 1 else (NAN, NAN)))
    return VariantResult(
        name,
        f"the variant {name}",
        tuple(range(seeds)),
        {"in-distribution": success, "harder": success},
        [(0.0, NONE), (1000.0, success)],
        Effort(1234, 1000, 7_654_321, 12_345, 999, 5, 60),
        {"in-distribution": difference(value, seeds=seeds)},
        None if seeds == 1 else 0.0123,
        needs,
    )


def result(*variants: VariantResult) -> StudyResult:
    baseline = VariantResult(
        "random", "uniform", (1, 2, 3), {"in-distribution": NONE, "harder": NONE}, [(0.0, NONE)], Effort()
    )
    grid = made.study(["random", *(one.name for one in variants)])
    return StudyResult(grid, [baseline, *variants], [("tapir", 9)], [("tapir", 9, "error: x (exit status 1)")])


REACHED = Efficiency(0.456, 0.3, 0.7, 1.0)
SOMETIMES = Efficiency(0.9, 0.5, math.inf, 0.8)
NEVER = Efficiency(math.inf, math.inf, math.inf, 0.0)
WHOLE = result(
    variant("tapir", 0.1, REACHED),
    variant("sometimes", 0.02, SOMETIMES),
    variant("never", -0.1, NEVER),
    variant("once", 0.03, Efficiency(0.8, NAN, NAN, 1.0), seeds=1),
)


def cells(line: str) -> list[str]:
    return [one.strip() for one in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(text: str) -> Iterator[list[list[str]]]:
    """The tables of a Markdown page, each as its lines' cells."""
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines and all(line.startswith("|") for line in lines):
            yield [cells(line) for line in lines]


def test_every_table_is_well_formed() -> None:
    found = list(tables(words.markdown(WHOLE)))
    assert len(found) == 2
    for table in found:
        assert {len(row) for row in table} == {len(table[0])}
        assert all(set(cell) <= {"-", ":"} for cell in table[1])
        assert all(cell for row in table for cell in row)
    assert [row[0] for row in found[1][2:]] == ["gcd", r"a \| b c"]


def test_the_best_variant_comes_first_and_every_figure_is_said() -> None:
    table = next(tables(words.markdown(WHOLE)))
    rows = {row[0]: dict(zip(table[0], row, strict=True)) for row in table[2:]}
    assert [row[0] for row in table[2:]] == ["tapir", "once", "sometimes", "random", "never"]
    assert rows["tapir"]["in-distribution"] == "60.0 % [40.0, 80.0]"
    assert rows["tapir"]["vs random (points)"] == "+10.0 [+5.0, +15.0]"
    assert (rows["tapir"]["p"], rows["tapir"]["p Holm"]) == ("< 0.001", "0.012")
    assert (rows["tapir"]["examples"], rows["tapir"]["teacher"]) == ("1,234", "12k")
    assert (rows["tapir"]["judge"], rows["tapir"]["tokens"]) == ("999", "7.7M")
    needs = {name: row["examples to reach it"] for name, row in rows.items()}
    assert needs == {
        "tapir": "46 % [30, 70]",
        "sometimes": "90 % [50, not reached]",
        "never": "not reached",
        "once": "80 %",
        "random": "-",
    }


def test_what_cannot_be_computed_is_a_dash_and_never_nan() -> None:
    text = words.markdown(WHOLE)
    assert "nan" not in text.lower()
    assert "inf" not in text.lower().replace("information", "")
    once = next(row for row in next(tables(text)) if row[0] == "once")
    assert once[4:7] == ["+3.0", "-", "-"]


def test_what_failed_is_named_with_the_variants() -> None:
    text = words.markdown(WHOLE)
    assert "Not finished: tapir seed 9." in text
    assert "- `tapir`: the variant tapir; seeds 0, 1, 2" in text


def test_json_has_null_where_there_is_no_figure() -> None:
    text = json.dumps(words.as_json(WHOLE), allow_nan=False)
    found = json.loads(text)
    once = next(one for one in found["variants"] if one["name"] == "once")
    never = next(one for one in found["variants"] if one["name"] == "never")
    assert once["success"]["in-distribution"] == {"value": 0.53, "n": 1, "low": None, "high": None}
    assert never["efficiency"]["share"] is None
    assert never["efficiency"]["reached"] == 0
    assert found["missing"] == [["tapir", 9]]
    assert found["failed"] == [["tapir", 9, "error: x (exit status 1)"]]


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0"), (999, "999"), (1000, "1.0k"), (12_345, "12k"), (1_500_000, "1.5M")]
)
def test_large_numbers_are_short(number: float, said: str) -> None:
    assert words._count(number) == said


def test_a_study_of_nothing_but_the_baseline_has_one_table() -> None:
    assert len(list(tables(words.markdown(result())))) == 1


def test_all_is_written_beside_each_other(tmp_path: Path) -> None:
    write(WHOLE, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["study"]["name"] == "made"
    assert (tmp_path / "results.md").read_text().startswith("# Study made\n")
    svg = (tmp_path / "figure.svg").read_text()
    assert svg.startswith("<svg")
    assert "nan" not in svg.lower()
    assert all(name in svg for name in ("tapir", "sometimes", "never", "once", "training examples", "points more than"))
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.md", "figure.svg", "figure.png"}


def test_where_nothing_was_compared_the_figure_has_its_curves_alone() -> None:
    alone = replace(variant("tapir", 0.1, None), against={})
    untuned = replace(alone, name=UNTUNED, curve=alone.curve[:1])
    assert len(chart(StudyResult(made.study(), [untuned, alone], []))["vconcat"]) == 1
    assert len(chart(WHOLE)["vconcat"]) == 2


def test_every_line_has_a_colour_of_its_own_or_is_one_of_the_others() -> None:
    few = _lines(WHOLE)
    assert few == {"tapir", "sometimes", "never", "once"}
    many = result(*(variant(f"v{number}", 0.01 * number, REACHED) for number in range(12)))
    assert _lines(many) == {"v0", "the others"}
    assert _lines(replace(many, study=many.study.model_copy(update={"method": "v7"}))) == {"v7", "the others"}
    scale = chart(many)["vconcat"][0]["layer"][0]["encoding"]["color"]["scale"]
    assert scale["domain"] == ["v0", "the others"]
    assert len(set(scale["range"])) == 2


def _lines(found: StudyResult) -> set[object]:
    """What the curves are called; the baseline of these has none."""
    return {row["line"] for data in _values(chart(found)) for row in data if "line" in row}


def test_a_difference_is_marked_as_clear_only_where_its_interval_leaves_out_zero() -> None:
    spec = json.dumps(chart(WHOLE), allow_nan=False)
    rows = [row for data in _values(json.loads(spec)) for row in data if "points" in row]
    assert {row["variant"]: row["clear"] for row in rows} == {
        "tapir": True,
        "once": False,
        "sometimes": False,
        "never": True,
    }


def _values(spec: object) -> Iterator[list[dict[str, object]]]:
    if isinstance(spec, dict):
        if "values" in spec:
            yield spec["values"]
        for one in spec.values():
            yield from _values(one)
    elif isinstance(spec, list):
        for one in spec:
            yield from _values(one)
