"""Tag: t(x), one label of a closed taxonomy for every instruction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction
from tapir.roles import Tagger
from tapir.store.keep import Place, Work, stream
from tapir.store.rows import TagRow


@dataclass(frozen=True, slots=True)
class Tag:
    """The tagger labels; a failure is recorded and the item is in no task's pool."""

    tagger: Tagger
    chunk: int

    def run(self, place: Place, instructions: Sequence[Instruction]) -> dict[str, TagRow]:
        """One row for each instruction, by id."""
        items = [(one.id, one) for one in instructions]

        def do(owed: Iterator[tuple[str, Instruction]]) -> Iterator[tuple[str, list[TagRow]]]:
            for name, tag in self.tagger.tag(one for _, one in owed):
                if isinstance(tag, Failure):
                    yield name, [TagRow(name, None, 0.0, f"{tag.kind}: {tag.message}")]
                else:
                    yield name, [TagRow(name, tag.task, tag.confidence, None)]

        stream(place, Work("tag", "tags", self.chunk), TagRow, items, do)
        return {row.id: row for row in place.store.each(place.named("tags"), TagRow)}
