"""Expand: the teacher writes what is scarce, from hard seeds; every text is checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction, Origin, Pair, Response, normalised
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

        return keep(place, Work("expand", "expansions", 1), ExpansionRow, requests, do)

    def _fill(
        self, place: Place, task: str, count: int, seeds: Sequence[Pair], known: AbstractSet[str]
    ) -> Iterator[ExpansionRow]:
        """Ask until `count` texts are kept or the attempts are used up."""
        kept: set[str] = set()
        for attempt in range(self.attempts):
            seed = seed_for(place.seed, "expand", place.number, task, attempt)
            request = ExpandRequest(task, _shuffled(seeds, seed), count - len(kept), seed)
            replies = list(self.teacher.expand(request))
            written = [reply for reply in replies if not isinstance(reply, Failure)]
            for failure in (reply for reply in replies if isinstance(reply, Failure)):
                place.watch.note(f"{task}: expansion failed: {failure.kind}: {failure.message}")
            tags = dict(self.tagger.tag([pair.instruction for pair in written]))
            for pair in written:
                tag = tags[pair.instruction.id]
                label = None if isinstance(tag, Failure) else tag.task
                text = normalised(pair.instruction.text)
                reason = self._reason(pair, label, task)
                if reason is None and (text in known or text in kept):
                    reason = "duplicate"
                if reason is None:
                    kept.add(text)
                yield _row(pair, task, label, reason)
            if len(kept) >= count:
                return

    def _reason(self, pair: Pair, label: str | None, task: str) -> str | None:
        text = normalised(pair.instruction.text)
        if not text:
            return "empty instruction"
        if not pair.response.text.strip():
            return "empty response"
        if text in self.forbidden:
            return "in an evaluation set"
        if label is None:
            return "not tagged"
        return None if label == task else "tagged as another task"


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
