"""Expand: the teacher writes what is scarce, from hard seeds; every text is checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.mixture import Draw
from tapir.domain.randomness import priorities, seed_for
from tapir.roles import ExpandRequest, Tagger, Teacher
from tapir.store.keep import Place, Work, keep
from tapir.store.rows import DrawRow, ExpansionRow


@dataclass(frozen=True, slots=True)
class Expand:
    """Ask for the shortfall of each task; keep what is new, well tagged and in no evaluation set.

    Attributes:
        attempts: how often a task is asked again for what its last batch still lacked.
        forbidden: normalised texts of all evaluation sets.
    """

    teacher: Teacher
    tagger: Tagger
    attempts: int
    forbidden: AbstractSet[str]

    def run(
        self, place: Place, need: Draw, seeds: Mapping[str, Sequence[Pair]], known: AbstractSet[str]
    ) -> list[ExpansionRow]:
        """Everything the teacher wrote, kept or dropped.

        Args:
            place: the run and round.
            need: its shortfall says what to write.
            seeds: hard pairs by task; a task without any cannot be expanded.
            known: normalised texts of everything in the pools.
        """
        for task in need.shortfall:
            if not seeds.get(task):
                place.watch.note(f"{task}: {need.shortfall[task]} hard examples short and no hard seed to expand")
        requests = [(task, count) for task, count in need.shortfall.items() if seeds.get(task)]

        def do(chunk: Sequence[tuple[str, int]]) -> Iterator[ExpansionRow]:
            for task, count in chunk:
                yield from self._fill(place, task, count, seeds[task], known)

        rows = keep(place, Work("expand", "expansions", 1), ExpansionRow, requests, do)
        return _without_twins(rows)

    def _fill(
        self, place: Place, task: str, count: int, seeds: Sequence[Pair], known: AbstractSet[str]
    ) -> Iterator[ExpansionRow]:
        """Ask until `count` texts are kept or the attempts are used up."""
        kept: set[str] = set()
        for attempt in range(self.attempts):
            seed = seed_for(place.seed, "expand", place.number, task, attempt)
            request = ExpandRequest(task, _shuffled(seeds, seed), count - len(kept), seed)
            written = [pair for pair in self.teacher.expand(request) if not isinstance(pair, Failure)]
            tags = dict(self.tagger.tag([pair.instruction for pair in written]))
            for pair in written:
                tag = tags[pair.instruction.id]
                label = None if isinstance(tag, Failure) else tag.task
                text = normalised(pair.instruction.text)
                reason = self._reason(text, label, task, known | kept)
                if reason is None:
                    kept.add(text)
                yield _row(pair, task, label, reason)
            if len(kept) >= count:
                return

    def _reason(self, text: str, label: str | None, task: str, known: AbstractSet[str]) -> str | None:
        if not text:
            return "empty"
        if text in self.forbidden:
            return "in an evaluation set"
        if text in known:
            return "duplicate"
        if label is None:
            return "not tagged"
        return None if label == task else "tagged as another task"


def normalised(text: str) -> str:
    """Case and white space do not make two instructions different."""
    return " ".join(text.casefold().split())


def pair_of(row: ExpansionRow, number: int) -> Pair:
    """The pair a kept row stands for."""
    origin = Origin("expansion", number, row.parents, row.source)
    return Pair(Instruction(row.id, row.text, origin), Response(row.response, row.author))


def draw_rows(need: Draw, shares: Mapping[str, float], rows: Sequence[ExpansionRow]) -> list[DrawRow]:
    """The round's need by task and how much of its shortfall was written."""
    written = dict.fromkeys(need.wanted, 0)
    for row in rows:
        if row.reason is None:
            written[row.task_wanted] += 1
    return [
        DrawRow(task, shares[task], wanted, need.got[task], need.shortfall.get(task, 0), written[task])
        for task, wanted in need.wanted.items()
    ]


def _shuffled(seeds: Sequence[Pair], seed: int) -> list[Pair]:
    order = priorities([pair.instruction.id for pair in seeds], seed).argsort(kind="stable")
    return [seeds[place] for place in order]


def _row(pair: Pair, task: str, label: str | None, reason: str | None) -> ExpansionRow:
    instruction, response = pair.instruction, pair.response
    return ExpansionRow(
        instruction.id,
        instruction.text,
        response.text,
        response.author,
        instruction.origin.source,
        instruction.origin.parents,
        task,
        label,
        reason,
    )


def _without_twins(rows: Sequence[ExpansionRow]) -> list[ExpansionRow]:
    """Drop a text that was kept for two tasks at once the second time."""
    seen: set[str] = set()
    result = []
    for row in rows:
        twin = row.reason is None and row.id in seen
        result.append(replace(row, reason="duplicate") if twin else row)
        if row.reason is None:
            seen.add(row.id)
    return result
