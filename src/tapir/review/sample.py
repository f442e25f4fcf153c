"""Which pairs a person is asked about: the same for every rater, spread over the gap and the tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast

from tapir.domain.difficulty import difficulty
from tapir.domain.judgement import Judgement, Order
from tapir.domain.randomness import priorities, seed_for
from tapir.errors import DataError
from tapir.store.rows import AnswerRow, CorpusRow, ExpansionRow, JudgementRow, ResponseRow, TagRow
from tapir.store.run import RunStore

Side: TypeAlias = Literal["student", "reference"]

WIDE = 2.0
"""A gap above this is large: the δ of the paper. The bands are the same for every run, so that raters of two runs
were asked about the same spread, whatever rule said what is hard."""
NEGATIVE, ZERO, SMALL, LARGE = "student ahead", "equal", f"gap up to {WIDE:g}", f"gap above {WIDE:g}"
UNKNOWN = "not scored"
BANDS = (NEGATIVE, ZERO, SMALL, LARGE, UNKNOWN)


@dataclass(frozen=True, slots=True)
class ReviewPair:
    """One instruction with both answers.

    Attributes:
        student: ỹ.
        reference: y.
        left: whose answer stands on the left.
    """

    id: str
    instruction: str
    student: str
    reference: str
    left: Side

    @property
    def shown(self) -> tuple[str, str]:
        """The answers as they are shown: left, right."""
        return (self.student, self.reference) if self.left == "student" else (self.reference, self.student)


@dataclass(frozen=True, slots=True)
class Sample:
    """The pairs to rate, in the order they are shown.

    Attributes:
        available: how many pairs the run has to choose from.
        bands: how many of the sample lie in each band of the gap.
        tasks: labels the run's tagger gave, in alphabetical order.
    """

    pairs: tuple[ReviewPair, ...]
    available: int
    bands: Mapping[str, int]
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a sample comes from: a run, a round of it, and the run's seed."""

    store: RunStore
    round: int
    seed: int


def draw(source: Source, size: int) -> Sample:
    """A stratified sample of the pairs of one round that have both answers.

    Bands of the gap take turns (student ahead, equal, up to 2, above 2); within a turn the task asked about least comes
    next, and then chance decides. Every beginning of the sample is spread like the whole,
    and a larger one begins with the smaller one, so a person may stop anywhere and go on with a larger `size`.
    Where the run has judgements, only scored pairs take part; where it has none, tasks alone are balanced.

    Raises:
        DataError: the round has no answers, or no pair has both.
    """
    replies = _answers(source)
    references = _references(source)
    names = [name for name in replies if name in references]
    task_of, gaps = _tasks(source), _gaps(source)
    if gaps:
        names = [name for name in names if name in gaps]
    if not names:
        raise DataError(
            f"{source.store.folder}, round {source.round}: no instruction has both answers"
            + (" and a score" if gaps else "")
            + f" ({len(replies)} answered by the student, {len(references)} by the teacher, {len(gaps)} scored)",
            remedy="`tapir show ID --dir FOLDER` says what became of an instruction, the report's first part of all.",
        )
    bands = {name: _band(gaps.get(name)) for name in names}
    chosen = list(_in_turn(names, bands, task_of, seed_for(source.seed, "review", source.round), size))
    return Sample(
        pairs=tuple(_pairs(source, chosen)),
        available=len(names),
        bands=Counter(bands[name] for name in chosen),
        tasks=tuple(sorted(set(task_of.values()))),
    )


def _in_turn(
    names: Sequence[str], bands: Mapping[str, str], task_of: Mapping[str, str], seed: int, size: int
) -> Iterator[str]:
    """Up to `size` names, as `draw` says; ties are decided by the item's own random rank."""
    rank = dict(zip(names, priorities(names, seed).tolist(), strict=True))
    waiting: dict[tuple[str, str], list[str]] = {}
    for name in sorted(names, key=rank.__getitem__, reverse=True):
        waiting.setdefault((bands[name], task_of.get(name, "")), []).append(name)
    from_band: Counter[str] = Counter()
    from_task: Counter[str] = Counter()

    def turn(stratum: tuple[str, str]) -> tuple[int, int, int]:
        band, task = stratum
        return from_band[band], from_task[task], rank[waiting[stratum][-1]]

    for _ in range(min(size, len(names))):
        band, task = chosen = min(waiting, key=turn)
        yield waiting[chosen].pop()
        from_band[band] += 1
        from_task[task] += 1
        if not waiting[chosen]:
            del waiting[chosen]


def _band(gap: float | None) -> str:
    if gap is None:
        return UNKNOWN
    if gap < 0:
        return NEGATIVE
    if gap == 0:
        return ZERO
    return SMALL if gap <= WIDE else LARGE


def _answers(source: Source) -> set[str]:
    """Who has an answer of the student's in this round.

    Raises:
        DataError: the table is not there.
    """
    store, name = source.store, f"round-{source.round}/answers"
    if not store.has(name):
        rounds = ", ".join(map(str, _answered_rounds(store)))
        there = f"rounds with answers: {rounds}; choose one with --round" if rounds else "no round has answers yet"
        raise DataError(
            f"{_table(store, name)} is missing or unfinished: there is nothing to compare ({there})",
            remedy=f"`tapir resume {store.folder}` makes it, or makes it again; a run whose difficulty is not mfd has"
            " none.",
        )
    return {row.id for row in store.each(name, AnswerRow) if row.text is not None}


def _answered_rounds(store: RunStore) -> list[int]:
    places = (path.name.removeprefix("round-") for path in store.folder.glob("round-*"))
    return sorted(int(place) for place in places if place.isdigit() and store.has(f"round-{place}/answers"))


def _table(store: RunStore, name: str) -> Path:
    return store.folder / f"{name}.parquet"


def _references(source: Source) -> set[str]:
    """Who has an answer of the teacher's."""
    return {name for name, _, reference in _known(source) if reference.strip()}


def _known(source: Source) -> Iterator[tuple[str, str, str]]:
    """Id, instruction and y of everything the run knew before this round; y as the judge saw it, before refining."""
    store = source.store
    written: dict[str, str | None] = {}
    if store.has("round-0/responses"):
        written = {row.id: row.text for row in store.each("round-0/responses", ResponseRow)}
    for row in store.each("corpus", CorpusRow):
        reference = written.get(row.id, row.response)
        if reference is not None:  # an instruction the teacher failed to answer is no part of D
            yield row.id, row.text, reference
    for number in range(1, source.round):
        for more in _each_expansion(store, number):
            yield more.id, more.text, more.response


def _each_expansion(store: RunStore, number: int) -> Iterable[ExpansionRow]:
    name = f"round-{number}/expansions"
    rows = store.each(name, ExpansionRow) if store.has(name) else ()
    return (row for row in rows if row.reason is None)


def _tasks(source: Source) -> dict[str, str]:
    """t(x) by id, where there is one."""
    store = source.store
    found: dict[str, str] = {}
    if store.has("round-0/tags"):
        found = {row.id: row.task for row in store.each("round-0/tags", TagRow) if row.task is not None}
    for number in range(1, source.round):
        found |= {row.id: row.task for row in _each_expansion(store, number) if row.task is not None}
    return found


def _gaps(source: Source) -> dict[str, float]:
    """MFD by id of what the judge could score in this round; empty where the run was scored without a judge."""
    name = f"round-{source.round}/judgements"
    if not source.store.has(name):
        return {}
    found: dict[str, list[Judgement]] = {}
    unscored: set[str] = set()
    for row in source.store.each(name, JudgementRow):
        if row.student is None or row.reference is None:
            unscored.add(row.id)
        else:
            one = Judgement(row.student, row.reference, cast("Order", row.order), "", row.judge)
            found.setdefault(row.id, []).append(one)
    return {name: difficulty(some).gap for name, some in found.items() if name not in unscored}


def _pairs(source: Source, chosen: Sequence[str]) -> Iterator[ReviewPair]:
    """The texts of what was chosen, in its order; only these are held in memory."""
    wanted = set(chosen)
    answers = source.store.each(f"round-{source.round}/answers", AnswerRow)
    replies = {row.id: row.text for row in answers if row.id in wanted}
    known = {name: (text, reference) for name, text, reference in _known(source) if name in wanted}
    for name in chosen:
        text, reference = known[name]
        left: Side = "student" if seed_for(source.seed, "review", "left", name) % 2 else "reference"
        yield ReviewPair(name, text, replies[name] or "", reference, left)
