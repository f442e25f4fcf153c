"""A run as a source: its judge's verdicts on student and teacher, the canary, what it cost, and people's reviews.

Answer `a` is the student's, `b` the teacher's: a lead above 0 means that the student is better, so a gap (METHOD
section 4.1) is the lead with its sign turned.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from tapir.audit.gathering import Gathering
from tapir.audit.pairs import Choice, Cost, Item, Oracle, Order, Person, Source, Vote, by_scores
from tapir.data.formats import records
from tapir.data.lines import CUT
from tapir.data.row import BadRow
from tapir.domain.difficulty import difficulty
from tapir.domain.judgement import Judgement
from tapir.domain.judgement import Order as Shown
from tapir.errors import DataError
from tapir.store.files import read_json
from tapir.store.rows import AnswerRow, CorpusRow, ExpansionRow, JudgementRow, ResponseRow, TagRow
from tapir.store.run import RunStore

REVIEWS = "reviews.jsonl"
_OF_ROUND = re.compile(r"reviews-round-(\d+)\.jsonl")
CANARY = "canary"
STUDENT, TEACHER = "student", "teacher"
_ORDERS: Mapping[str, Order] = {"student-first": "ab", "reference-first": "ba"}
_PREFERENCES: Mapping[str, Choice] = {"student": "a", "reference": "b", "tie": "tie"}
_NOTHING_TO_JUDGE = "no student answer"


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return path.is_dir() and (path / "recipe.json").is_file()


def read_run(folder: Path, number: int | None = None) -> Source:
    """The judgements of one round, the first that was judged unless `number` says which.

    Raises:
        DataError: the folder is no run, or nothing was judged in it.
    """
    if not is_run(folder):
        raise DataError(f"{folder} is not the folder of a run", remedy="Name a file of judged pairs, or runs/NAME.")
    store = RunStore(folder)
    place = _round(store, number)
    into = Gathering()
    lengths = dict(_teacher_lengths(store))
    students = {row.id: len(row.text) for row in _each_answer(store, place) if row.text is not None}
    gaps: dict[str, list[Judgement]] = defaultdict(list)
    for row in store.each(f"round-{place}/judgements", JudgementRow):
        if row.unscored == _NOTHING_TO_JUDGE:
            continue
        item = Item(
            row.id,
            row.id,
            model_a=STUDENT,
            model_b=TEACHER,
            length_a=students.get(row.id),
            length_b=lengths.get(row.id),
        )
        into.add(item, _vote(row, row.id))
        if row.student is not None and row.reference is not None:
            gaps[row.id].append(Judgement(row.student, row.reference, cast("Shown", row.order), "", row.judge))
    _canary(store, into)
    if not into.votes:
        raise DataError(f"{folder}, round {place}: no judgement", remedy="Go on with `tapir resume` and audit then.")
    notes = [f"Round {place} of {folder.name}: the student's answers beside the teacher's."]
    found = into.source(folder.name, "run")
    oracle = Oracle({name: difficulty(some).gap for name, some in gaps.items()}, _tasks(store))
    return replace(found, costs=dict(_costs(store, found)), oracle=oracle, notes=notes)


def read_reviews(path: Path) -> Source:
    """What people said with `tapir review`; the later line for the same instruction and person wins.

    Raises:
        DataError: a line is no review, or there is none.
    """
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in records(path):
        if isinstance(row, BadRow):
            if row.reason == CUT:
                continue  # a line that `tapir review` did not finish, as it says itself
            raise DataError(f"{row.place} is no review: {row.reason}", remedy="Mend or delete this line.")
        one = row.fields
        if one.get("preference") not in {*_PREFERENCES, None} or "id" not in one or "rater" not in one:
            raise DataError(
                f"{row.place} is no review: preference {one.get('preference')!r}", remedy="Mend or delete this line."
            )
        latest[str(one["id"]), str(one["rater"])] = one
    if not latest:
        raise DataError(f"{path} holds no review", remedy="Rate some pairs with `tapir review` first.")
    into, people = Gathering(), list[Person]()
    for (name, rater), one in latest.items():
        into.people.add(rater)
        people.append(Person(name, rater, one.get("difficulty"), one.get("task")))
        if one.get("preference") is not None:
            order: Order = "ab" if one.get("left") == "student" else "ba" if one.get("left") == "reference" else ""
            vote = Vote(name, rater, _PREFERENCES[one["preference"]], order=order)
            into.add(Item(name, name, model_a=STUDENT, model_b=TEACHER), vote)
        if one.get("seconds") is not None:
            into.paid(rater, None, float(one["seconds"]))
    notes = ["Reviews are of a sample spread evenly over the gap and the tasks, not of the corpus as it is."]
    return replace(into.source(path.name, "reviews"), oracle=Oracle({}, {}, people), notes=notes)


def reviews_of(folder: Path, number: int | None) -> Path:
    """Where `tapir review` keeps what people said about a round of a run."""
    return folder / (f"reviews-round-{number}.jsonl" if number else REVIEWS)


def round_of(reviews: Path) -> int | None:
    """The round that a file of reviews is about, by its name; None where the name tells none."""
    found = _OF_ROUND.fullmatch(reviews.name)
    return int(found[1]) if found else None


def is_reviews(path: Path) -> bool:
    """Whether a file holds reviews: its first line has what a review has."""
    if not path.is_file() or path.suffix not in {".jsonl", ".json"}:
        return False
    try:
        with path.open("rb") as lines:
            first = json.loads(lines.readline())
    except ValueError:
        return False
    return isinstance(first, dict) and {"id", "rater", "preference", "left"} <= set(first)


def _round(store: RunStore, number: int | None) -> int:
    judged = [
        place for place in range(len(list(store.folder.glob("round-*")))) if store.has(f"round-{place}/judgements")
    ]
    if not judged:
        raise DataError(
            f"{store.folder}: no round has judgements", remedy="Go on with `tapir resume` until the judge is through."
        )
    if number is not None and number not in judged:
        raise DataError(
            f"{store.folder}: round {number} has no judgements", remedy=f"Rounds with judgements: {judged}."
        )
    return judged[0] if number is None else number


def _vote(row: JudgementRow, name: str) -> Vote:
    order = _ORDERS.get(row.order, "")
    if row.student is None or row.reference is None:
        return Vote(name, row.judge, None, order=order, unreadable=row.unscored or "no reason given")
    return by_scores(name, row.judge, (row.student, row.reference), order)


def _canary(store: RunStore, into: Gathering) -> None:
    """A constant answer in the student's place."""
    if not store.has(f"round-0/{CANARY}"):
        return
    for row in store.each(f"round-0/{CANARY}", JudgementRow):
        name = f"{CANARY}/{row.id}"
        constant: Literal["a"] = "a"
        into.add(Item(name, row.id, model_a=CANARY, model_b=TEACHER, constant=constant), _vote(row, name))


def _each_answer(store: RunStore, number: int) -> Iterator[AnswerRow]:
    name = f"round-{number}/answers"
    return store.each(name, AnswerRow) if store.has(name) else iter(())


def _teacher_lengths(store: RunStore) -> Iterator[tuple[str, int]]:
    """Characters of y; what the teacher wrote in place of the corpus's answer comes last and counts."""
    if store.has("corpus"):
        yield from ((row.id, len(row.response)) for row in store.each("corpus", CorpusRow))
    if store.has("round-0/responses"):
        rows = store.each("round-0/responses", ResponseRow)
        yield from ((row.id, len(row.text)) for row in rows if row.text is not None)
    yield from ((row.id, len(row.response)) for row in _expansions(store))


def _expansions(store: RunStore) -> Iterator[ExpansionRow]:
    number = 1
    while store.round(number).exists():
        if store.has(f"round-{number}/expansions"):
            rows = store.each(f"round-{number}/expansions", ExpansionRow)
            yield from (row for row in rows if row.reason is None)
        number += 1


def _tasks(store: RunStore) -> dict[str, str]:
    found: dict[str, str] = {}
    if store.has("round-0/tags"):
        found = {row.id: row.task for row in store.each("round-0/tags", TagRow) if row.task is not None}
    return found | {row.id: row.task for row in _expansions(store) if row.task is not None}


def _costs(store: RunStore, found: Source) -> Iterator[tuple[str, Cost]]:
    """What the judging of the whole run took, by spending.json; it does not say by which judge, so only for one."""
    path = store.folder / "spending.json"
    if not path.exists() or len(found.raters) != 1:
        return
    rows = [one for one in read_json(path) if one["stage"] in {"judge", CANARY}]
    calls = sum(int(one["calls"]) for one in rows)
    if calls:
        yield found.raters[0], Cost(calls, sum(float(one["cost"]) for one in rows))
