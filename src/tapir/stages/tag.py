"""Tag: t(x), one label of a closed taxonomy for every instruction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction
from tapir.roles import Tagger
from tapir.store.keep import Place, Work, keep
from tapir.store.rows import TagRow


@dataclass(frozen=True, slots=True)
class Tag:
    """The tagger labels; a failure is recorded and the item is in no task's pool."""

    tagger: Tagger
    chunk: int

    def run(self, place: Place, instructions: Sequence[Instruction]) -> dict[str, TagRow]:
        """One row for each instruction, by id."""
        items = [(one.id, one) for one in instructions]

        def do(chunk: Sequence[tuple[str, Instruction]]) -> Iterator[TagRow]:
            for name, tag in self.tagger.tag([one for _, one in chunk]):
                if isinstance(tag, Failure):
                    yield TagRow(name, None, 0.0, f"{tag.kind}: {tag.message}")
                else:
                    yield TagRow(name, tag.task, tag.confidence, None)

        return {row.id: row for row in keep(place, Work("tag", "tags", self.chunk), TagRow, items, do)}
