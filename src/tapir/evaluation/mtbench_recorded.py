"""Recorded judgments of MT-Bench: FastChat's files, and files with both turns or both orders in a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tapir.errors import DataError
from tapir.evaluation.mtbench import TurnGrade, TurnPair, settled

_LOWEST, _HIGHEST = 1.0, 10.0
_NONE = -1  # how FastChat writes that no rating was found
_NAMED = 5
_SIDES = {"A": ("model", "other"), "B": ("other", "model"), "tie": ("tie", "tie"), "C": ("tie", "tie")}


@dataclass(frozen=True, slots=True)
class Judgments:
    """What a file says, by what was asked of which judge ("gpt-4", "Qwen2.5-7B-Instruct, single_grade_ref")."""

    grades: Mapping[str, list[TurnGrade]] = field(default_factory=dict)
    pairs: Mapping[str, list[TurnPair]] = field(default_factory=dict)


def parsed_judgments(
    rows: Iterable[tuple[str, Mapping[str, Any]]], source: str, categories: Mapping[int, str]
) -> Judgments:
    """Read recorded judgments; every row of one form or another counts, a score of -1 is a grade that is missing.

    Args:
        rows: place and fields.
        source: what the file is called in an error.
        categories: of the questions, where the file does not say.

    Raises:
        DataError: a row is no judgment, one answer has two different grades, or there is no row.
    """
    grades: dict[str, dict[tuple[str, int, int], TurnGrade]] = {}
    pairs: dict[str, dict[tuple[str, str, int, int], TurnPair]] = {}
    bad: list[str] = []
    for place, fields in rows:
        try:
            for judge, one in _read(fields, categories):
                if isinstance(one, TurnGrade):
                    before = grades.setdefault(judge, {}).setdefault((one.model, one.question, one.turn), one)
                    twice = before != one
                else:
                    key = (one.model, one.other, one.question, one.turn)
                    twice = pairs.setdefault(judge, {}).setdefault(key, one) != one
                if twice:
                    bad.append(f"{place}: {one.model} has a second judgment of question {one.question}")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            bad.append(f"{place}: {f'no {error}' if isinstance(error, KeyError) else error}")
    if bad:
        raise DataError(
            f"{source}: {len(bad):,} rows cannot be used; the first: {'; '.join(bad[:_NAMED])}",
            remedy="Give a file as FastChat's model_judgment/gpt-4_single.jsonl or gpt-4_pair.jsonl.",
        )
    if not grades and not pairs:
        raise DataError(f"{source} holds no judgments", remedy="Name a file with at least one.")
    return Judgments(
        {judge: list(found.values()) for judge, found in grades.items()},
        {judge: list(found.values()) for judge, found in pairs.items()},
    )


def _read(fields: Mapping[str, Any], categories: Mapping[int, str]) -> list[tuple[str, TurnGrade | TurnPair]]:
    question = int(fields["question_id"])
    category = str(fields.get("category") or categories.get(question, ""))
    judge = fields["judge"] if "judge" in fields else fields["judge_id"]
    named = str(judge[0] if isinstance(judge, list) else judge)
    if "score" in fields:
        turn, model = int(fields["turn"]), str(fields["model"])
        return [(named, _grade(model, question, category, turn, fields["score"]))]
    if "score_turn1" in fields:
        model, mode = str(fields["model_id"]), str(fields.get("mode", ""))
        name = named if mode in {"", "single_grade"} else f"{named}, {mode}"
        both = [_grade(model, question, category, turn, fields[f"score_turn{turn}"]) for turn in (1, 2)]
        return [(name, one) for one in both]
    if "winner_ab" in fields:
        sides, orders = (str(fields["model_a"]), str(fields["model_b"])), (fields["winner_ab"], fields["winner_ba"])
        return [(named, _pair(sides, question, category, int(fields["turn"]), _as_sides(*orders)))]
    sides = str(fields["model_1"]), str(fields["model_2"])
    verdicts = [
        {"model_1": "model", "model_2": "other", "tie": "tie"}.get(fields[f"g{turn}_winner"]) for turn in (1, 2)
    ]
    return [(named, _pair(sides, question, category, int(fields["turn"]), (verdicts[0], verdicts[1])))]


def _grade(model: str, question: int, category: str, turn: int, score: Any) -> TurnGrade:
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise TypeError(f"score {score!r} is no number")
    if score == _NONE:
        return TurnGrade(model, question, category, turn, None, "no rating")
    if not _LOWEST <= score <= _HIGHEST:
        raise ValueError(f"score {score} is not between 1 and 10")
    return TurnGrade(model, question, category, turn, float(score))


def _as_sides(first: str, second: str) -> tuple[str | None, str | None]:
    """Verdicts by position as verdicts by side: in the second order A is the other model."""
    return _SIDES.get(first, (None, None))[0], _SIDES.get(second, (None, None))[1]


def _pair(
    sides: tuple[str, str], question: int, category: str, turn: int, verdicts: tuple[str | None, str | None]
) -> TurnPair:
    first, second = verdicts
    if first is None or second is None:
        return TurnPair(*sides, question, category, turn, None, None, "no verdict in one of the orders")
    return TurnPair(*sides, question, category, turn, settled(first, second), first != second)
