"""`tapir audit` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.audit.recorded import recorded, written


def tapir(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tapir.cli", "audit", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def tied(count: int) -> list[dict[str, Any]]:
    return [{"id": place, "verdict": "tie", "label": "ab"[place % 2]} for place in range(count)]


def flat(text: str) -> str:
    """Without the line breaks that the width of the terminal makes."""
    return " ".join(text.split())


def test_flips_are_told_in_a_table_and_in_a_sentence() -> None:
    found = tapir(recorded("mt_bench/pairwise_qwen2.5-7b.jsonl.gz"))
    assert found.returncode == 0, found.stderr
    assert "changes its verdict with the order on 79 % of the pairs, and prefers the first answer in 97 %" in flat(
        found.stdout
    )
    assert "Qwen2.5-7B-Instruct" in found.stdout
    assert all(len(line) <= 120 for line in found.stdout.split("\n"))


def test_every_figure_is_in_the_json_and_none_is_nan(tmp_path: Path) -> None:
    out = tmp_path / "audit.json"
    found = tapir(recorded("agreement/pandalm_a.jsonl.gz"), "--out", out)
    assert found.returncode == 0, found.stderr
    whole = json.loads(out.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(f"{name} in the JSON"))
    columns = {one["name"]: one for one in whole["sections"][0]["columns"]}
    assert list(columns) == ["gpt", "pandalm", "3 people"]
    assert columns["gpt"]["figures"]["agreement"]["n"] == 533
    assert columns["gpt"]["figures"]["flips"] == {
        "value": None,
        "n": 0,
        "low": None,
        "high": None,
        "why": "no pair was judged in both orders",
    }
    assert columns["gpt"]["unreadable"] == {"'garbage' is no verdict": 9}
    assert whole["findings"]


def test_a_judge_that_ties_everything_is_named_and_nothing_breaks(tmp_path: Path) -> None:
    found = tapir(written(tmp_path, tied(10)))
    assert found.returncode == 0, found.stderr
    assert "judge says tie on every pair: it tells no answers apart." in found.stdout
    assert "agreement with a reference where both decide (no pair on which both decide)" in flat(found.stdout)
    assert "nan" not in found.stdout.casefold()


def test_a_single_pair_has_values_and_no_pretence(tmp_path: Path) -> None:
    found = tapir(written(tmp_path, [{"id": 1, "score_a": 3, "score_b": 1, "label": "a"}]))
    assert found.returncode == 0, found.stderr
    assert "κ (a single pair has no κ)" in flat(found.stdout)
    assert "rank correlation (a single pair has no order to compare)" in flat(found.stdout)
    assert "nan" not in found.stdout.casefold()


def test_scores_that_are_all_nan_are_unreadable(tmp_path: Path) -> None:
    lines = [{"id": place, "score_a": float("nan"), "score_b": 1.0, "label": "a"} for place in range(3)]
    found = tapir(written(tmp_path, lines))
    assert found.returncode == 0, found.stderr
    assert "100 % of what judge said cannot be read: a score is not a finite number (3)." in flat(found.stdout)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["none.jsonl"], "is not there"),
        (["empty.jsonl"], "is empty"),
        (["."], "is not the folder of a run"),
        (["/dev/null"], "is neither a file"),
    ],
)
def test_what_cannot_be_audited_is_one_error_and_no_traceback(tmp_path: Path, words: list[str], why: str) -> None:
    (tmp_path / "empty.jsonl").touch()
    found = tapir(*(tmp_path / word for word in words))
    assert found.returncode == 1
    assert found.stderr.startswith("error: ")
    assert why in found.stderr
    assert "Traceback" not in found.stderr
