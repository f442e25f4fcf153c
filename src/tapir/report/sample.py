"""A browsable sample of a run's instructions: every fate, every task, the same choice every time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from tapir.report.rounds import preferences
from tapir.store import rows
from tapir.store.run import RunStore
from tapir.store.tables import RowT

ItemT = TypeVar("ItemT")

FATES = {
    "trained, hard": "drawn from the hard pool for at least one round",
    "trained, easy": "drawn from the easy pool only",
    "trained": "drawn for at least one round; difficulty was not measured, so there is one pool",
    "not drawn": "no round drew it: it was not needed, or it has no task",
    "withheld": "the student's answer beat the teacher's, so the teacher's is not trained on",
    "hopeless": "too hard for the student when it was scored: set aside, and drawn in no round",
    "unscored": "it has no score, for the reason that is given: neither hard nor easy",
    "expansion kept": "written by the teacher for a task that fell short",
    "expansion dropped": "written by the teacher and refused, with the reason",
    "set aside": "left out before the run, with the reason",
}
REFUSED = {"refused": "the judge preferred the original", "unjudged": "the judge could not compare it"}
LIMIT = 300
LONGEST = 1_500


@dataclass(frozen=True, slots=True)
class Sample:
    """One instruction with everything the run knows about it.

    Attributes:
        fate: a key of FATES.
        reason: why it was dropped or not scored, else empty.
        origin: where it came from; an expansion names its round and parents.
        teacher: y.
        student: ỹ, the answer of S_0; absent where it was never asked.
        teacher_score: f_J(x, y), mean over the orders.
        student_score: f_J(x, ỹ), mean over the orders.
        gap: difficulty, first scoring.
        refined: y', absent where there is none.
        refused: why y' is not trained on, else empty.
        rounds: the rounds it was trained in, each with its pool.
    """

    id: str
    text: str
    task: str | None
    fate: str
    reason: str
    origin: str
    teacher: str | None
    student: str | None = None
    teacher_score: float | None = None
    student_score: float | None = None
    gap: float | None = None
    refined: str | None = None
    refused: str = ""
    rounds: tuple[str, ...] = ()


@dataclass(slots=True)
class Scored:
    """The judgements of one instruction: a mean needs no more, and their texts would fill the memory."""

    student: float = 0.0
    reference: float = 0.0
    times: int = 0
    unscored: str = ""


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables the sample is made from, by instruction id.

    Attributes:
        unscored: why an estimator could not measure.
        refused: what the judge made of rewritten answers that are not trained on.
        mixed: rounds with the pool the instruction was drawn from.
    """

    corpus: Sequence[rows.CorpusRow]
    drops: Sequence[rows.DropRow]
    expansions: Sequence[tuple[int, rows.ExpansionRow]]
    tasks: Mapping[str, rows.TagRow]
    answers: Mapping[str, rows.AnswerRow]
    difficulty: Mapping[str, rows.DifficultyRow]
    judgements: Mapping[str, Scored]
    unscored: Mapping[str, str]
    refined: Mapping[str, str]
    refused: Mapping[str, str]
    responses: Mapping[str, rows.ResponseRow]
    mixed: Mapping[str, list[tuple[int, str]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selection:
    """The sample, and how many instructions of the whole run met each fate."""

    items: Sequence[Sample]
    counts: Mapping[str, int]


def select(store: RunStore, limit: int = LIMIT) -> Selection:
    """At most `limit` instructions, evenly over fates, within a fate evenly over tasks."""
    tables = _tables(store)
    by_fate: dict[str, dict[str, list[Sample]]] = {fate: defaultdict(list) for fate in FATES}
    for one in _everything(tables):
        by_fate[one.fate][one.task or ""].append(one)
    fates = [list(_in_turn(sorted(map(_by_id, tasks.values()), key=_first))) for tasks in by_fate.values()]
    counts = {fate: len(items) for fate, items in zip(FATES, fates, strict=True)}
    return Selection(list(islice(_in_turn(fates), limit)), counts)


def _in_turn(groups: Iterable[Sequence[ItemT]]) -> Iterator[ItemT]:
    """One of each group, then the next of each, until all are through."""
    queues = list(groups)
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))


def _by_id(items: Iterable[Sample]) -> list[Sample]:
    """In the order of ids: digests, so as good as random and always the same."""
    return sorted(items, key=lambda one: (one.id, one.text, one.origin))


def _first(items: Sequence[Sample]) -> str:
    return items[0].id


def _everything(tables: Tables) -> Iterator[Sample]:
    yield from (_from_corpus(tables, row) for row in tables.corpus)
    yield from (_from_teacher(tables, number, row) for number, row in tables.expansions)
    for drop in tables.drops:
        yield Sample(drop.id, _cut(drop.text), None, "set aside", drop.reason, f"corpus ({drop.detail})", None)


def _from_corpus(tables: Tables, row: rows.CorpusRow) -> Sample:
    tag, answer = tables.tasks.get(row.id), tables.answers.get(row.id)
    scored, found = tables.judgements.get(row.id, Scored()), tables.difficulty.get(row.id)
    pools = tables.mixed.get(row.id, [])
    fate, reason = _fate(tables, row.id)
    return Sample(
        id=row.id,
        text=_cut(row.text),
        task=tag.task if tag else None,
        fate=fate,
        reason=reason,
        origin=f"corpus ({row.source})",
        teacher=_teacher(tables, row),
        student=_said(answer),
        teacher_score=scored.reference / scored.times if scored.times else None,
        student_score=scored.student / scored.times if scored.times else None,
        gap=found.gap if found and found.gap is not None and math.isfinite(found.gap) else None,
        refined=tables.refined.get(row.id),
        refused=tables.refused.get(row.id, ""),
        rounds=_rounds(pools),
    )


def _fate(tables: Tables, name: str) -> tuple[str, str]:
    """The state an instruction of the corpus ended in, and why, where there is something to say."""
    response, tag, found = tables.responses.get(name), tables.tasks.get(name), tables.difficulty.get(name)
    if response and response.text is None:
        return "set aside", f"the teacher gave no answer: {response.failure}"
    part = found.part if found else "easy"
    pools = tables.mixed.get(name, [])
    fate = "not drawn"
    if pools:
        fate = _trained({pool for _, pool in pools})
    elif part in {"unscored", "withheld", "hopeless"}:
        fate = part
    if part == "unscored":
        return fate, tables.judgements.get(name, Scored()).unscored or tables.unscored.get(name, "no score")
    if tag is None or tag.task is None:
        return fate, tag.failure or "not tagged" if tag else "not tagged yet"
    return fate, ""


def _trained(pools: Collection[str]) -> str:
    return "trained, hard" if "hard" in pools else "trained" if "any" in pools else "trained, easy"


def _teacher(tables: Tables, row: rows.CorpusRow) -> str | None:
    """Y: what the teacher wrote for the run, or what the corpus brought."""
    response = tables.responses.get(row.id)
    if response is None:
        return _cut(row.response)
    return None if response.text is None else _cut(response.text)


def _from_teacher(tables: Tables, number: int, row: rows.ExpansionRow) -> Sample:
    kept = row.reason is None
    return Sample(
        id=row.id,
        text=_cut(row.text),
        task=row.task if kept else row.task_wanted,
        fate="expansion kept" if kept else "expansion dropped",
        reason=f"{row.reason}: {row.detail}" if row.reason and row.detail else row.reason or "",
        origin=f"written in round {number} for {row.task_wanted} from {', '.join(row.parents) or 'no seed'}",
        teacher=_cut(row.response),
        refined=tables.refined.get(row.id) if kept else None,
        refused=tables.refused.get(row.id, "") if kept else "",
        rounds=_rounds(tables.mixed.get(row.id, [])) if kept else (),
    )


def _rounds(pools: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(str(number) if pool == "any" else f"{number} ({pool})" for number, pool in pools)


def _said(answer: rows.AnswerRow | None) -> str | None:
    if answer is None:
        return None
    return _cut(answer.text) if answer.text is not None else f"[no answer: {answer.failure}]"


def _cut(text: str) -> str:
    """The beginning of a very long text; the whole of it is in the run's tables."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} […{len(text) - LONGEST:,} more characters]"


def _tables(store: RunStore) -> Tables:
    def read(name: str, row: type[RowT]) -> list[RowT]:
        return store.read(name, row) if store.has(name) else []

    refined: dict[str, str] = {}
    refused: dict[str, str] = {}
    mixed: dict[str, list[tuple[int, str]]] = defaultdict(list)
    expansions: list[tuple[int, rows.ExpansionRow]] = []
    number = 1
    while store.round(number).exists():
        expansions += [(number, row) for row in read(f"round-{number}/expansions", rows.ExpansionRow)]
        refined |= {
            row.id: _cut(row.text)
            for row in read(f"round-{number}/refinements", rows.RefinementRow)
            if row.text is not None
        }
        refused |= {name: REFUSED[found] for name, found in preferences(store, number).items() if found in REFUSED}
        for example in read(f"round-{number}/mixture", rows.MixtureRow):
            mixed[example.id].append((number, example.pool))
        number += 1
    return Tables(
        corpus=read("corpus", rows.CorpusRow),
        drops=read("drops", rows.DropRow),
        expansions=expansions,
        tasks={row.id: row for row in read("round-0/tags", rows.TagRow)},
        answers={row.id: row for row in read("round-0/answers", rows.AnswerRow)},
        difficulty={row.id: row for row in read("round-1/difficulty", rows.DifficultyRow)},
        judgements=_scored(store),
        unscored={
            row.id: f"{row.unscored}: {row.detail}" if row.detail else row.unscored or "no score"
            for row in read("round-0/estimates", rows.EstimateRow)
            if row.value is None
        },
        refined=refined,
        refused=refused,
        responses={row.id: row for row in read("round-0/responses", rows.ResponseRow)},
        mixed=mixed,
    )


def _scored(store: RunStore) -> dict[str, Scored]:
    """The first scoring of every instruction, summed over orders and samples."""
    found: dict[str, Scored] = defaultdict(Scored)
    if store.has("round-0/judgements"):
        for row in store.each("round-0/judgements", rows.JudgementRow):
            one = found[row.id]
            if row.student is None or row.reference is None:
                one.unscored = "; ".join(filter(None, (one.unscored, row.unscored)))
            else:
                one.student += row.student
                one.reference += row.reference
                one.times += 1
    return dict(found)
