"""MT-Bench scores recomputed by hand from recorded judgments."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tapir.errors import DataError
from tapir.evaluation.mtbench import compared, graded
from tapir.evaluation.mtbench_recorded import Judgments, parsed_judgments
from tapir.two_turns_ready import recorded_judgments
from tests.evaluation.pairs import SHARED

DATA = SHARED / "mt_bench"
shared = pytest.mark.skipif(not DATA.exists(), reason="the shared data are not beside the repository")


def by_hand(name: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def parse(*rows: dict[str, Any]) -> Judgments:
    return parsed_judgments([(f"j:{number}", one) for number, one in enumerate(rows, 1)], "j", {})


@shared
def test_the_grades_of_gpt_4_come_to_the_means_by_turn_and_category_computed_by_hand() -> None:
    name = "gpt-4_single_phi-3-dpo.jsonl.gz"
    rows = by_hand(name)
    found = graded(recorded_judgments((DATA / name,), DATA / "question.jsonl").grades["gpt-4"], seed=0)
    for turn in (1, 2):
        scores = [one["score"] for one in rows if one["turn"] == turn]
        figure = found.by["", turn].result
        assert figure is not None
        assert figure.n == 80
        assert figure.value == pytest.approx(sum(scores) / len(scores))
        assert figure.low < figure.value < figure.high
    mathematics = [one["score"] for one in rows if 111 <= one["question_id"] <= 120]
    figure = found.by["math", 0].result
    assert figure is not None
    assert figure.value == pytest.approx(sum(mathematics) / 20) == pytest.approx(6.15)
    assert found.overall.result is not None
    assert found.overall.result.value == pytest.approx(8.2)


@shared
@pytest.mark.parametrize(
    ("judge", "model", "missing"),
    [
        ("Qwen2.5-7B-Instruct", "gemma-2-9b-it", None),
        ("gpt-4o-mini, single_grade_ref", "gemma-2-9b-it", 29),
        ("Qwen2.5-32B-Instruct, single_grade_ref", "Llama-3.1-8B-Instruct", 29),
    ],
)
def test_a_score_of_minus_one_is_missing_and_never_a_number(judge: str, model: str, missing: int | None) -> None:
    name = "single_grades_qwen_and_gpt4omini.jsonl.gz"
    who, _, mode = judge.partition(", ")
    rows = [
        one
        for one in by_hand(name)
        if (one["judge_id"], one["model_id"], one["mode"]) == (who, model, mode or "single_grade")
    ]
    grades = recorded_judgments((DATA / name,), None).grades[judge]
    result = graded([one for one in grades if one.model == model], seed=0)
    for turn in (1, 2):
        scores = [one[f"score_turn{turn}"] for one in rows]
        kept = [score for score in scores if score != -1]
        figure = result.by["", turn]
        assert figure.unscored.get("no rating", 0) == len(scores) - len(kept)
        if kept:
            assert figure.result is not None
            assert figure.result.n == len(kept)
            assert figure.result.value == pytest.approx(sum(kept) / len(kept))
        else:
            assert figure.result is None
    if missing is not None:  # this mode grades the second turn only
        assert result.by["", 1].unscored == {"no rating": missing}


@shared
def test_recorded_pairs_count_a_win_only_where_both_orders_agree() -> None:
    name = "pairwise_qwen2.5-7b.jsonl.gz"
    rows = by_hand(name)
    (pairs,) = recorded_judgments((DATA / name,), None).pairs.values()
    assert len(pairs) == len(rows) == 1200
    by_key = {(one.model, one.other, one.question): one.outcome for one in pairs}
    for row in rows:
        wanted = {row["model_a"]: 1.0, row["model_b"]: 0.0}.get(row["winner"], 0.5)
        assert by_key[row["model_a"], row["model_b"], row["question_id"]] == wanted
    agreed = sum(row["winner"] != "inconsistent" for row in rows)
    assert sum(one.flipped is True for one in pairs) == len(rows) - agreed


def test_a_pair_of_fastchat_is_read_by_its_two_games() -> None:
    base = {"question_id": 81, "model_1": "a", "model_2": "b", "judge": ["gpt-4", "pair-v2"], "turn": 1}
    (pairs,) = parse(
        base | {"g1_winner": "model_1", "g2_winner": "model_1"},
        base | {"question_id": 82, "g1_winner": "model_2", "g2_winner": "tie"},
        base | {"question_id": 83, "g1_winner": "error", "g2_winner": "model_1"},
    ).pairs.values()
    assert [one.outcome for one in pairs] == [1.0, 0.5, None]
    result = compared(pairs, seed=0)
    assert result.flips == (1, 2)
    assert result.overall.unscored == {"no verdict in one of the orders": 1}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question_id": 81, "model": "m", "judge": "j", "turn": 1, "score": 11}, "score 11 is not between 1 and 10"),
        ({"question_id": 81, "model": "m", "judge": "j", "turn": 1, "score": float("nan")}, "score nan is not"),
        ({"question_id": 81, "model": "m", "judge": "j", "turn": 1, "score": "8"}, "score '8' is no number"),
        ({"model": "m", "judge": "j", "turn": 1, "score": 8}, "no 'question_id'"),
    ],
)
def test_a_row_that_is_no_judgment_is_named(row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=f"j:1: {said}"):
        parse(row)


def test_an_empty_file_and_a_file_without_any_rating_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no judgments"):
        parse()
    row = {"question_id": 81, "model": "m", "judge": "j", "turn": 1, "score": -1}
    (grades,) = parse(row).grades.values()
    with pytest.raises(DataError, match=r"none of 1 answers has a grade: no rating \(1\)"):
        graded(grades, seed=0)
    path = tmp_path / "j.jsonl"
    path.write_text("not json\n", encoding="utf-8")
    with pytest.raises(DataError, match="not JSON"):
        recorded_judgments((path,), None)
