"""`tapir audit` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from support.audits import convert, recorded, write_lines
from tapir.cli.main import app
from tapir.domain.errors import DataError


def tapir(*words: object) -> str:
    result = CliRunner().invoke(app, ["audit", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def flat(text: str) -> str:
    """Without the line breaks that the width of the terminal makes."""
    return " ".join(text.split())


def test_flips_are_in_a_table_and_in_a_sentence(tmp_path: Path) -> None:
    path = recorded("mt_bench/pairwise_qwen2.5-7b.jsonl.gz")
    output = tapir(write_lines(tmp_path, convert("mt-bench", path)))
    assert "changes its verdict with the order on 79 % of the pairs, and prefers the first answer in 97 %" in flat(
        output
    )
    assert "Qwen2.5-7B-Instruct" in output
    assert all(len(line) <= 120 for line in output.split("\n"))


def test_every_metric_is_in_the_json_and_none_is_nan(tmp_path: Path) -> None:
    path = recorded("agreement/pandalm_a.jsonl.gz")
    output = tapir(write_lines(tmp_path, convert("pandalm", path)), "--json")
    content = json.loads(output, parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))
    columns = {column["name"]: column for column in content["sections"][0]["columns"]}
    assert list(columns) == ["gpt", "pandalm", "3 people"]
    assert columns["gpt"]["figures"]["agreement"]["n"] == 533
    missing = {"value": None, "n": 0, "low": None, "high": None, "why": "no pair was judged in both orders"}
    assert columns["gpt"]["figures"]["flips"] == missing
    assert columns["gpt"]["unreadable"] == {"'garbage' is no verdict": 9}
    assert content["findings"]


@pytest.mark.parametrize(
    ("lines", "sentences"),
    [
        (
            [{"id": place, "verdict": "tie", "label": "ab"[place % 2]} for place in range(10)],
            [
                "judge says tie on every pair: it tells no answers apart.",
                "agreement with a reference where both decide (no pair on which both decide)",
            ],
        ),
        (
            [{"id": 1, "score_a": 3, "score_b": 1, "label": "a"}],
            ["κ (a single pair has no κ)", "rank correlation (a single pair has no order to compare)"],
        ),
        (
            [{"id": place, "score_a": float("nan"), "score_b": 1.0, "label": "a"} for place in range(3)],
            ["judge has no verdict on 100 % of what it judged: a score is not a finite number (3)."],
        ),
    ],
)
def test_what_cannot_be_computed_is_said(tmp_path: Path, lines: list[dict[str, Any]], sentences: list[str]) -> None:
    output = flat(tapir(write_lines(tmp_path, lines)))
    assert all(sentence in output for sentence in sentences)
    assert "nan" not in output.casefold()


def test_recordings_of_constant_answers_alone_have_nothing_to_match(tmp_path: Path) -> None:
    rows = [{"id": f"q{number}", "score_a": 1, "score_b": 5, "label": "b"} for number in range(3)]
    constant = write_lines(tmp_path, [row | {"constant": "a"} for row in rows], "constant.jsonl")
    other = write_lines(tmp_path, rows, "other.jsonl")
    for names in ((constant, other), (other, constant)):
        with pytest.raises(DataError, match=r"nothing in constant.jsonl can be matched") as error:
            tapir(names[0], "--labels", names[1])
        assert error.value.remedy


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none.jsonl", "is not there"),
        ("empty.jsonl", "is empty"),
        (".", "is not the folder of a run"),
        ("/dev/null", "is neither a file"),
    ],
)
def test_what_cannot_be_audited_is_one_error(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match=why) as error:
        tapir(tmp_path / name)
    assert error.value.remedy
