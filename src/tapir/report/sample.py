"""Browsable sample of a run's instructions: every fate, every task, the same choice every time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from operator import attrgetter
from statistics import fmean
from typing import TypeVar

from tapir.data.run import rows
from tapir.data.run.reader import RunReader
from tapir.domain.instruction import transcript
from tapir.report.judging import TEXTS
from tapir.report.rounds import preferences

ItemT = TypeVar("ItemT")

FATES: Mapping[str, str] = TEXTS["fates"]
_TRAINED = {"hard": "trained, hard", "any": "trained", "easy": "trained, easy"}  # by pool, the first that applies
_UNDRAWN = {"unscored", "withheld", "hopeless"}  # parts that no round draws from
REFUSED = {"worse": "the judge preferred the original", "unjudged": "the judge could not compare it"}
LIMIT = 300
LONGEST = 1_500


@dataclass(frozen=True, slots=True)
class SampledInstruction:
    """One instruction with everything the run knows about it; empty or None where it knows nothing.

    `fate` is a key of FATES, `reason` says why it was dropped or not scored, `refused` why y' is not trained on. The
    scores are means over the orders, the answer and the gap are those of S_0.
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


@dataclass(frozen=True, slots=True)
class InstructionSample:
    """The sample, and how many instructions of the whole run met each fate."""

    items: Sequence[SampledInstruction]
    counts: Mapping[str, int]


def choose_sample(run: RunReader, limit: int = LIMIT) -> InstructionSample:
    """Choose at most `limit` instructions, evenly over fates, within a fate evenly over tasks."""
    by_fate: dict[str, dict[str, list[SampledInstruction]]] = {fate: defaultdict(list) for fate in FATES}
    for item in _Collector(run).items():
        by_fate[item.fate][item.task or ""].append(item)
    by_id = attrgetter("id", "text", "origin")  # digests: as good as random and always the same
    fates = [
        list(_alternate(sorted((sorted(items, key=by_id) for items in tasks.values()), key=lambda items: items[0].id)))
        for tasks in by_fate.values()
    ]
    counts = {fate: len(items) for fate, items in zip(FATES, fates, strict=True)}
    return InstructionSample(list(islice(_alternate(fates), limit)), counts)


def _alternate(groups: Iterable[Sequence[ItemT]]) -> Iterator[ItemT]:
    """Yield the first of each group, then the second of each, until all are through."""
    return (item for item in chain.from_iterable(zip_longest(*groups)) if item is not None)


class _Collector:
    """The tables of a run by instruction id, and the instructions put together from them."""

    def __init__(self, run: RunReader) -> None:
        self.run = run
        self.undrawn = "not drawn" if run.finished else "waiting"
        self.tags = {row.id: row for row in run.tags()}
        self.answers = {row.id: row for row in run.answers(0)}
        self.difficulty = {row.id: row for row in run.difficulty(1)}
        self.responses = {row.id: row for row in run.responses()}
        self.judged: dict[str, list[rows.JudgementRow]] = defaultdict(list)
        for row in run.judgements(0):
            self.judged[row.id].append(replace(row, rationale="", raw=None))  # texts would fill the memory
        self.unscored = {
            row.id: f"{row.unscored}: {row.detail}" if row.detail else row.unscored or "no score"
            for row in run.estimates(0)
            if row.value is None
        }
        self.refined: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.pools: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for number in run.rounds():
            self.refined |= {row.id: _cut(row.text) for row in run.refinements(number) if row.text is not None}
            verdicts = preferences(run, number).items()
            self.refused |= {name: REFUSED[verdict] for name, verdict in verdicts if verdict in REFUSED}
            for example in run.mixture(number):
                self.pools[example.id].append((number, example.pool))

    def items(self) -> Iterator[SampledInstruction]:
        """Yield every instruction of the run."""
        yield from map(self._from_corpus, self.run.corpus())
        for number in self.run.rounds():
            yield from (self._expansion(number, row) for row in self.run.expansions(number))
        for drop in self.run.drops():
            origin = f"corpus ({drop.detail})"
            yield SampledInstruction(drop.id, _cut(drop.text), None, "dropped", drop.reason, origin, None)

    def _from_corpus(self, row: rows.CorpusRow) -> SampledInstruction:
        tag, scored, response = self.tags.get(row.id), self.difficulty.get(row.id), self.responses.get(row.id)
        pairs = [(each.reference, each.student) for each in self.judged[row.id]]
        scores = [(teacher, student) for teacher, student in pairs if teacher is not None and student is not None]
        fate, reason = self._fate(row.id)
        reference = row.response if response is None else response.text
        answer, student = self.answers.get(row.id), None
        if answer:
            student = _cut(answer.text) if answer.text is not None else f"[no answer: {answer.failure}]"
        return SampledInstruction(
            id=row.id,
            text=_cut(transcript(row.text, row.context)),
            task=tag.task if tag else None,
            fate=fate,
            reason=reason,
            origin=f"corpus ({row.source})",
            teacher=None if reference is None else _cut(reference),
            student=student,
            teacher_score=fmean(teacher for teacher, _ in scores) if scores else None,
            student_score=fmean(student for _, student in scores) if scores else None,
            gap=scored.gap if scored and scored.gap is not None and math.isfinite(scored.gap) else None,
            refined=self.refined.get(row.id),
            refused=self.refused.get(row.id, ""),
            rounds=self._rounds(row.id),
        )

    def _fate(self, name: str) -> tuple[str, str]:
        """Return the state an instruction of the corpus ended in, and why, where there is something to say."""
        response, tag, scored = self.responses.get(name), self.tags.get(name), self.difficulty.get(name)
        if response and response.text is None:
            return "dropped", f"the teacher gave no answer: {response.failure}"
        part = scored.part if scored else "easy"
        pools = {pool for _, pool in self.pools.get(name, ())}
        trained = next((fate for pool, fate in _TRAINED.items() if pool in pools), None)
        fate = trained or (part if part in _UNDRAWN else self.undrawn)
        if part == "unscored":
            return fate, "; ".join(filter(None, (row.unscored for row in self.judged[name]))) or self.unscored.get(
                name, "no score"
            )
        if tag is None or tag.task is None:
            return fate, tag.failure or "not tagged" if tag else "not tagged yet"
        return fate, ""

    def _expansion(self, number: int, row: rows.ExpansionRow) -> SampledInstruction:
        kept = row.reason is None
        return SampledInstruction(
            id=row.id,
            text=_cut(row.text),
            task=row.task if kept else row.task_wanted,
            fate="expansion kept" if kept else "expansion dropped",
            reason=f"{row.reason}: {row.detail}" if row.reason and row.detail else row.reason or "",
            origin=f"written in round {number} for {row.task_wanted} from {', '.join(row.parents) or 'no seed'}",
            teacher=_cut(row.response),
            refined=self.refined.get(row.id) if kept else None,
            refused=self.refused.get(row.id, "") if kept else "",
            rounds=self._rounds(row.id) if kept else (),
        )

    def _rounds(self, name: str) -> tuple[str, ...]:
        pools = self.pools.get(name, ())
        return tuple(str(number) if pool == "any" else f"{number} ({pool})" for number, pool in pools)


def _cut(text: str) -> str:
    """Return the beginning of a very long text; the whole of it is in the run's tables."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} […{len(text) - LONGEST:,} more characters]"
