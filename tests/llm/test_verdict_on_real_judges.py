"""What judges really wrote, and what was recorded of it: counts of agreement, and each disagreement by name."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tapir.domain.judgement import Unscored
from tapir.llm.verdict import ReplyStyle, Scores, read_preference, read_scores

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
NOT_FOUND = -1


def unpacked(name: str) -> str:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"shared/data/{name} is absent")
    return gzip.decompress(path.read_bytes()).decode()


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in unpacked(name).split("\n") if line]


def outcome(text: str, recorded: float, style: ReplyStyle = "mt-bench", *, high: float = 10.0) -> str:
    """How a text was read against what was recorded; the span is checked on the way."""
    found = read_scores(text, ("score",), style, high=high)
    if isinstance(found, Unscored):
        return found.reason
    (value,), ((start, end),) = found.values, found.spans
    assert float(text[start:end]) == value
    return "agrees" if value == recorded else f"{value} for {recorded}"


def test_grades_of_four_judges_are_read_as_recorded() -> None:
    graded, ungraded, unscored = Counter[str](), Counter[str](), []
    for row in rows("mt_bench/single_grades_qwen_and_gpt4omini.jsonl.gz"):
        for turn in (1, 2):
            text, recorded = row[f"judgment_turn{turn}"], row[f"score_turn{turn}"]
            result = outcome(text, recorded)
            (ungraded if recorded == NOT_FOUND else graded)[result] += 1
            if recorded != NOT_FOUND and result != "agrees":
                unscored.append((row["judge_id"], row["question_id"], row["model_id"], turn))
    assert graded == {"agrees": 4528, "two different scores": 1}
    # It gives [[8]] and [[6]] for two answers and then [[7]] for both; the last was recorded.
    assert unscored == [("Qwen2.5-32B-Instruct", 81, "Mistral-7B-Instruct-v0.3", 2)]
    # Reference mode grades no first turn (696); in 7 texts the judge went on with the task instead of grading it.
    assert ungraded == {"reply is empty": 696, "no score found": 7}


def test_grades_of_gpt_4_are_read_as_recorded() -> None:
    found = Counter(outcome(row["judgment"], row["score"]) for row in rows("mt_bench/gpt-4_single_phi-3-dpo.jsonl.gz"))
    assert found == {"agrees": 160}


def test_comparisons_are_read_as_recorded() -> None:
    found: Counter[str] = Counter()
    for row in rows("mt_bench/pairwise_qwen2.5-7b.jsonl.gz"):
        for order in ("ab", "ba"):
            preference = read_preference(row[f"judgment_{order}"])
            if isinstance(preference, Unscored):
                found[preference.reason] += 1
            else:
                found["agrees" if preference == row[f"winner_{order}"] else "differs"] += 1
    # One begins with [[A]], argues, and ends with [[B]]; the last was recorded.
    assert found == {"agrees": 2399, "two different preferences": 1}


def feedback() -> list[tuple[str, int]]:
    rows = json.loads(unpacked("judge/prometheus_vicuna_eval.json.gz"))
    return [pair for row in rows for pair in zip(row["gpt4_feedback"], row["gpt4_score"], strict=True)]


@pytest.mark.parametrize("style", ["tagged", "json", "mt-bench", "prometheus"])
def test_no_score_is_invented_from_960_feedbacks_without_a_verdict(style: ReplyStyle) -> None:
    found = Counter(outcome(text, score, style, high=5.0) for text, score in feedback())
    assert found == {"reply is not one flat JSON object" if style == "json" else "no score found": 960}


def test_real_feedback_with_its_score_in_our_formats_is_read_back() -> None:
    for text, score in feedback():
        replies: tuple[tuple[str, ReplyStyle], ...] = (
            (f"Feedback: {text} [RESULT] {score}", "prometheus"),
            (f"{text}\n\nRating: [[{score}]]", "mt-bench"),
            (f"{text}\n\n<score>{score}</score>", "tagged"),
            (json.dumps({"rationale": text, "score": score}), "json"),
        )
        for reply, style in replies:
            found = read_scores(reply, ("score",), style, high=5.0)
            assert isinstance(found, Scores)
            assert found.values == (score,)
            assert found.rationale == text.strip()
