"""Intake: the corpus without empty rows, duplicates and evaluation items, each drop with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

from tapir.domain.instruction import Instruction, Origin, Pair, Response, normalised
from tapir.store.rows import CorpusRow, DropRow


def sift(pairs: Iterable[Pair], forbidden: AbstractSet[str]) -> Iterator[CorpusRow | DropRow]:
    """Every pair as a row: kept, or dropped with the reason.

    Args:
        pairs: the corpus as its reader gives it.
        forbidden: normalised texts of all evaluation prompts.
    """
    seen: set[str] = set()
    for pair in pairs:
        one = pair.instruction
        reason = None
        if not one.text.strip():
            reason = "empty instruction"
        elif not pair.response.text.strip():
            reason = "empty response"
        elif one.id in seen:
            reason = "duplicate"
        elif normalised(one.text) in forbidden:
            reason = "in an evaluation set"
        if reason:
            yield DropRow(one.id, "corpus", reason, one.origin.source, one.text)
            continue
        seen.add(one.id)
        yield CorpusRow(one.id, one.text, pair.response.text, pair.response.author, one.origin.source)


def pair_of(row: CorpusRow) -> Pair:
    """The pair a row stands for."""
    return Pair(Instruction(row.id, row.text, Origin("corpus", source=row.source)), Response(row.response, row.author))
