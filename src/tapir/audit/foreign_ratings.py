"""Files of others in which single answers have scores: MT-Bench grades, Prometheus."""

from __future__ import annotations

from typing import Any

from tapir.audit.gathering import Gathering
from tapir.audit.pairs import Item, Rating, number

Fields = dict[str, Any]

_NOT_FOUND = -1  # FastChat's mark for a judgement without a rating
_TURNS = ("turn1", "turn2")


def mt_bench_grades(row: Fields, into: Gathering) -> None:
    """MT-Bench single grading, one row for each turn (FastChat) or for both; -1 is a judgement without a rating.

    A turn that was not put to the judge (no text of a judgement, as the first turn in reference mode) is not counted.
    """
    question, mode = str(row["question_id"]), str(row.get("mode") or "")
    if "score_turn1" in row:
        model, rater = str(row["model_id"]), str(row.get("judge_id") or "judge")
        for turn in _TURNS:
            said = row.get(f"judgment_{turn}")
            if row.get(f"score_{turn}") == _NOT_FOUND and said is not None and not str(said).strip():
                continue
            _grade(into, (mode, question, turn, model), rater, row.get(f"score_{turn}"))
        return
    judge = row.get("judge") or "judge"
    name = str(judge[0]) if isinstance(judge, list) else str(judge)
    mode = str(judge[1]) if isinstance(judge, list) and len(judge) > 1 else mode
    _grade(into, (mode, question, f"turn{row.get('turn', 1)}", str(row["model"])), name, row.get("score"))


def prometheus(row: Fields, into: Gathering) -> None:
    """Prometheus' evaluation files: several scores of GPT-4 for the same answer."""
    question, model = str(row["idx"]), str(row.get("response_source") or "")
    item = Item(f"{question}/{model}", question, model_a=model)
    scores = row["gpt4_score"]
    for score in scores if isinstance(scores, list) else [scores]:
        into.add(item, _rating(item.id, "gpt4", score))


def _grade(into: Gathering, place: tuple[str, str, str, str], rater: str, score: object) -> None:
    item = Item("/".join(filter(None, place)), place[1], model_a=place[3])
    into.add(item, _rating(item.id, rater, None if score == _NOT_FOUND else score))


def _rating(item: str, rater: str, score: object) -> Rating:
    value = number(score)
    return Rating(
        item, rater, value, "" if value is not None else "no rating found" if score is None else "not a number"
    )
