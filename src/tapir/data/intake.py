"""Intake: the corpus without unreadable and empty rows, duplicates and evaluation items, each drop with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tapir.data.novelty import Known, Novelty
from tapir.domain.instruction import Instruction, Origin, Pair, Response, instruction_id
from tapir.roles import Rejected
from tapir.store.rows import CorpusRow, DropRow, NeighbourRow


@dataclass(frozen=True, slots=True)
class Sieve:
    """What a corpus has to pass.

    Attributes:
        forbidden: the texts of all evaluation sets.
        known: an empty collection; what passes is added to it.
        drop_near: whether a near-duplicate of an earlier row is dropped, or only reported.
        unanswered: whether rows without an answer pass, because the teacher will answer them.
    """

    forbidden: Novelty
    known: Novelty
    drop_near: bool = False
    unanswered: bool = False

    def sift(self, pairs: Iterable[Pair | Rejected]) -> Iterator[CorpusRow | DropRow | NeighbourRow]:
        """Every row: kept, or dropped with the reason; a kept near-duplicate is named beside."""
        for pair in pairs:
            if isinstance(pair, Rejected):
                yield DropRow(instruction_id(pair.text), "corpus", pair.reason, pair.place, pair.text)
                continue
            one = pair.instruction
            if reason := self._unusable(pair):
                yield DropRow(one.id, "corpus", reason, one.origin.source, one.text)
                continue
            met = self.known.find(one.text)
            if met and (self.drop_near or not met.near):
                reason = "near-duplicate" if met.near else "duplicate"
                yield DropRow(one.id, "corpus", reason, f"{one.origin.source} repeats {_named(met)}", one.text)
                continue
            if met:
                measure, _, similarity = met.near.rpartition(" ")
                yield NeighbourRow(one.id, met.name, float(similarity), measure)
            self.known.learn(one.id, one.text)
            yield CorpusRow(one.id, one.text, pair.response.text, pair.response.author, one.origin.source)

    def _unusable(self, pair: Pair) -> str:
        if not pair.instruction.text.strip():
            return "empty instruction"
        if not pair.response.text.strip() and not self.unanswered:
            return "empty response"
        if met := self.forbidden.find(pair.instruction.text):
            return "near an evaluation item" if met.near else "in an evaluation set"
        return ""


def _named(met: Known) -> str:
    return f"{met.name} ({met.near})" if met.near else met.name


def pair_of(row: CorpusRow) -> Pair:
    """The pair a row stands for."""
    return Pair(Instruction(row.id, row.text, Origin("corpus", source=row.source)), Response(row.response, row.author))
