"""MT-Bench (Zheng et al. 2023, arXiv 2306.05685): questions in two turns, grades from 1 to 10, and pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tapir.domain.round import EvalResult
from tapir.errors import DataError
from tapir.evaluation.resampling import bootstrap

CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
WITH_REFERENCE = frozenset({"reasoning", "math", "coding"})
TURNS = (1, 2)
LOWEST = 1.0

_EVEN = 0.5
_NAMED = 5


@dataclass(frozen=True, slots=True)
class TwoTurns:
    """A question of MT-Bench.

    Attributes:
        turns: what is asked, first and second.
        references: reference answers to both; empty where there is none.
    """

    id: int
    category: str
    turns: tuple[str, str]
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnGrade:
    """The grade of one answer.

    Attributes:
        score: 1 to 10; None where the judge could not be read.
        failure: why the student gave no answer (it has the lowest grade then), or why there is no grade.
    """

    model: str
    question: int
    category: str
    turn: int
    score: float | None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class TurnPair:
    """One answer against another's.

    Attributes:
        outcome: 1 where both orders name the model, 0 where both name the other, else 0.5; None without verdicts.
        flipped: whether the two orders name different sides; None where only one is known.
    """

    model: str
    other: str
    question: int
    category: str
    turn: int
    outcome: float | None
    flipped: bool | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean with its interval (bootstrap by question), and what it does not contain.

    Attributes:
        result: over what was graded, its n the number of grades; None where nothing was.
        unscored: reason and number of the answers without a grade; they count for nothing.
    """

    result: EvalResult | None
    unscored: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class MtBench:
    """The result of one model.

    Attributes:
        other: whom it is compared with; empty for grades from 1 to 10.
        by: figures by category and turn; (category, 0) is both turns, ("", turn) all categories, ("", 0) everything.
        failures: kind and number of the answers the student did not give; each has the lowest grade, or lost.
        flips: pairs where the order changed the verdict, and pairs seen in both orders.
    """

    model: str
    other: str
    by: Mapping[tuple[str, int], Figure]
    failures: Mapping[str, int]
    flips: tuple[int, int] = (0, 0)

    @property
    def overall(self) -> Figure:
        """Both turns, all categories."""
        return self.by["", 0]


def graded(rows: Sequence[TurnGrade], *, seed: int) -> MtBench:
    """Mean grades of one model by category and turn.

    The overall figure is the mean over all grades, as FastChat computes it.

    Raises:
        DataError: there is no row, or no grade at all.
    """
    cells = [_Cell(one.question, one.category, one.turn, one.score, one.failure) for one in rows]
    return MtBench(rows[0].model if rows else "", "", _figures(cells, seed, "grade"), _failures(cells))


def compared(rows: Sequence[TurnPair], *, seed: int) -> MtBench:
    """Share of pairs that one model wins against another, a tie or a contradiction counted half.

    Raises:
        DataError: there is no row, or no verdict at all.
    """
    cells = [_Cell(one.question, one.category, one.turn, one.outcome, one.failure) for one in rows]
    seen = [one.flipped for one in rows if one.flipped is not None]
    figures = _figures(cells, seed, "verdict")
    return MtBench(rows[0].model, rows[0].other, figures, _failures(cells), (sum(seen), len(seen)))


@dataclass(frozen=True, slots=True)
class _Cell:
    question: int
    category: str
    turn: int
    value: float | None
    failure: str


def _failures(cells: Sequence[_Cell]) -> dict[str, int]:
    return dict(Counter(one.failure for one in cells if one.failure and one.value is not None))


def _figures(cells: Sequence[_Cell], seed: int, what: str) -> dict[tuple[str, int], Figure]:
    values = [one.value for one in cells if one.value is not None]
    if not values:
        why = Counter(one.failure for one in cells).most_common(3)
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in why) or "there is no row"
        raise DataError(f"none of {len(cells):,} answers has a {what}: {reasons}", remedy="Mend the judge or the file.")
    seen = {one.category for one in cells if one.category}
    names = [name for name in CATEGORIES if name in seen] + sorted(seen - set(CATEGORIES))
    turns = sorted({one.turn for one in cells})
    places = [(name, turn) for name in ("", *names) for turn in (0, *turns)]
    return {place: _figure(cells, place, seed) for place in places}


def _figure(cells: Sequence[_Cell], place: tuple[str, int], seed: int) -> Figure:
    category, turn = place
    chosen = [one for one in cells if category in {"", one.category} and turn in {0, one.turn}]
    unscored = dict(Counter(one.failure or "no grade" for one in chosen if one.value is None))
    kept = [(one.value, one.question) for one in chosen if one.value is not None]
    if not kept:
        return Figure(None, unscored)
    values = [value for value, _ in kept]
    totals: dict[int, list[float]] = {}
    for value, question in kept:
        total = totals.setdefault(question, [0.0, 0.0])
        total[0] += value
        total[1] += 1
    sums, counts = np.array(list(totals.values())).T
    if len(set(sums / counts)) == 1:  # resampling equal questions would feign certainty
        return Figure(EvalResult(float(np.mean(values)), len(values), math.nan, math.nan), unscored)
    found = bootstrap(_ratio, sums, counts, seed=seed)  # a question is drawn with all its grades
    return Figure(replace(found, n=len(values)), unscored)


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """The mean grade of questions from the sum and the number of the grades of each."""
    return float(sums.sum() / counts.sum())


def settled(first: str, second: str) -> float:
    """What two verdicts in both orders come to ("model", "other" or "tie"): a win only where both agree."""
    if first == second and first != "tie":
        return 1.0 if first == "model" else 0.0
    return _EVEN


def with_references(questions: Sequence[TwoTurns], found: Mapping[int, Sequence[str]]) -> list[TwoTurns]:
    """The questions with their reference answers.

    Raises:
        DataError: a question about mathematics, reasoning or coding has none, or not one for each turn.
    """
    lacking = [one.id for one in questions if one.category in WITH_REFERENCE and not _complete(found.get(one.id, ()))]
    if lacking:
        raise DataError(
            f"{len(lacking):,} questions about mathematics, reasoning or coding have no reference answer to both "
            f"turns: {', '.join(map(str, lacking[:_NAMED]))}{', ...' if len(lacking) > _NAMED else ''}",
            remedy="Give a reference file that has them (--references), as FastChat's reference_answer/gpt-4.jsonl;"
            " --without-references grades without any.",
        )
    return [
        TwoTurns(one.id, one.category, one.turns, tuple(found[one.id]) if _complete(found.get(one.id, ())) else ())
        for one in questions
    ]


def _complete(turns: Sequence[str]) -> bool:
    return len(turns) == len(TURNS) and all(one.strip() for one in turns)


def parsed_questions(rows: Iterable[tuple[str, Mapping[str, Any]]], source: str) -> list[TwoTurns]:
    """The rows of a question.jsonl.

    Raises:
        DataError: a row is no question of two turns, an id comes twice, or there is no row.
    """
    found: dict[int, TwoTurns] = {}
    bad: list[str] = []
    for place, fields in rows:
        try:
            one = TwoTurns(int(fields["question_id"]), str(fields["category"]), _two(fields["turns"]))
        except (KeyError, TypeError, ValueError) as error:
            bad.append(f"{place}: {f'no {error}' if isinstance(error, KeyError) else error}")
            continue
        if one.id in found:
            bad.append(f"{place}: question {one.id} comes twice")
        found[one.id] = one
    _no_bad(bad, source, "question_id, category and two turns")
    if not found:
        raise DataError(f"{source} holds no questions", remedy="Give FastChat's question.jsonl or a file like it.")
    return list(found.values())


def _two(turns: Any) -> tuple[str, str]:
    if not isinstance(turns, list) or len(turns) != len(TURNS) or not all(isinstance(one, str) for one in turns):
        raise ValueError("turns are not two texts")
    return turns[0], turns[1]


def parsed_answers(rows: Iterable[tuple[str, Mapping[str, Any]]], source: str) -> dict[str, dict[int, list[str]]]:
    """Answers by model and question from files as FastChat's model_answer and reference_answer.

    Raises:
        DataError: a row holds no answers, two rows answer one question differently, or there is no row.
    """
    found: dict[str, dict[int, list[str]]] = {}
    bad: list[str] = []
    for place, fields in rows:
        try:
            turns = [str(one) for one in fields["choices"][0]["turns"]]
            model, question = str(fields["model_id"]), int(fields["question_id"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            bad.append(f"{place}: {f'no {error}' if isinstance(error, KeyError) else error}")
            continue
        if found.setdefault(model, {}).setdefault(question, turns) != turns:
            bad.append(f"{place}: a second answer of {model} to question {question}")
    _no_bad(bad, source, "question_id, model_id and choices with turns")
    if not found:
        raise DataError(f"{source} holds no answers", remedy="Give a file as FastChat's model_answer/NAME.jsonl.")
    return found


def _no_bad(bad: Sequence[str], source: str, wanted: str) -> None:
    if bad:
        raise DataError(
            f"{source}: {len(bad):,} rows cannot be used; the first: {'; '.join(bad[:_NAMED])}",
            remedy=f"Every row needs {wanted}.",
        )
