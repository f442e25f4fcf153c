"""How the corpus of a built run was scored: by student and judge, or by an estimator in their place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tapir.domain.difficulty import Split
from tapir.store.rows import AnswerRow, DifficultyRow, EstimateRow, JudgementRow
from tapir.store.run import RunStore

SAMPLES = 4
MARK = "<script>alert(1)</script>"


def measured(kind: str, gap: float) -> float:
    """What an estimator makes of an instruction whose MFD is `gap`; NaN stays unscored."""
    match kind:
        case "ifd":
            return round(0.55 + gap / 20, 4)
        case "pass-rate":
            return gap if math.isnan(gap) else round(SAMPLES * min(9.0, max(0.0, gap)) / 9) / SAMPLES
        case "length":
            return gap if math.isnan(gap) else float(round(40 + 30 * max(0.0, gap)))
        case _:
            return gap


def leave_judgements(store: RunStore, gaps: Mapping[str, float], why: Mapping[str, str]) -> None:
    """answers.parquet and judgements.parquet.

    Args:
        store: the run.
        gaps: MFD by id, in order.
        why: for ids without a score, the reason; "no student answer" where there was none.
    """
    answers = [
        AnswerRow(name, None, None, 0, "length: no end after 112 tokens")
        if why.get(name) == "no student answer"
        else AnswerRow(name, f"the student's answer {place} {MARK if place == 0 else ''}", "stop", 5, None)
        for place, name in enumerate(gaps)
    ]
    store.once("round-0/answers", AnswerRow, lambda: answers)
    judged = [row for name, gap in gaps.items() for row in _judged(name, gap, why.get(name, ""))]
    store.once("round-0/judgements", JudgementRow, lambda: judged)


def _judged(name: str, gap: float, unscored: str) -> list[JudgementRow]:
    if unscored:
        return [JudgementRow(name, "alone", None, None, "", "the-judge", unscored, "I like </script>")]
    student = max(1.0, 8.0 - gap)
    return [
        JudgementRow(name, order, student, min(10.0, student + gap), f"because {MARK}", "the-judge", None, None)
        for order in ("student-first", "reference-first")
    ]


def leave_estimates(store: RunStore, table: str, kind: str, values: Mapping[str, float]) -> None:
    """estimates.parquet or compared-NAME.parquet; NaN is what could not be measured."""
    rows = [
        EstimateRow(name, kind, None, "1 tokens", "the answer is too short")
        if math.isnan(value)
        else EstimateRow(name, kind, value, "as it was found", None)
        for name, value in values.items()
    ]
    store.once(f"round-0/{table}", EstimateRow, lambda: rows)


def difficulties(ids: Sequence[str], gaps: Mapping[str, float], parts: Split) -> list[DifficultyRow]:
    """difficulty.parquet."""
    part = dict.fromkeys(parts.hard, "hard") | dict.fromkeys(parts.easy, "easy")
    part |= dict.fromkeys(parts.hopeless, "hopeless") | dict.fromkeys(parts.unscored, "unscored")
    part |= dict.fromkeys(parts.withheld, "withheld")
    return [
        DifficultyRow(name, None, None, part[name])
        if math.isnan(gaps[name])
        else DifficultyRow(name, gaps[name], 0.0, part[name])
        for name in ids
    ]
