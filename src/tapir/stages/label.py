"""Label: the labels a tagger learns from, each asked for once in a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction
from tapir.errors import RoleError
from tapir.roles import Tagger, TaggerReport
from tapir.store.keep import Place, Work, stream
from tapir.store.rows import TagRow


@dataclass(frozen=True, slots=True)
class Label:
    """The tagger's sample is labelled and kept; it learns from that table, so a resumed run learns the same."""

    tagger: Tagger
    chunk: int

    def run(self, place: Place, instructions: Sequence[Instruction]) -> TaggerReport | None:
        """How good the tagger is; None where it has nothing to learn.

        Raises:
            RoleError: not one label came back, or too few to learn from.
        """
        sample = self.tagger.sample(instructions, place.seed)
        if not sample:
            return self.tagger.fit([])
        items = [(one.id, one) for one in sample]

        def do(owed: Iterator[tuple[str, Instruction]]) -> Iterator[tuple[str, list[TagRow]]]:
            for name, tag in self.tagger.label(one for _, one in owed):
                if isinstance(tag, Failure):
                    yield name, [TagRow(name, None, 0.0, f"{tag.kind}: {tag.message}")]
                else:
                    yield name, [TagRow(name, tag.task, tag.confidence, None)]

        stream(place, Work("label", "labels", self.chunk), TagRow, items, do)
        rows = {row.id: row for row in place.store.each(place.named("labels"), TagRow)}
        failed = Counter((row.failure or "").partition(":")[0] for row in rows.values() if row.task is None)
        if failed:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in failed.most_common(5))
            if sum(failed.values()) == len(rows):
                raise RoleError(
                    f"not one of {len(rows)} labels for the tagger came back: {reasons}",
                    remedy="What came instead is in round-0/labels.parquet; mend the endpoint, start a new run.",
                )
            place.watch.note(f"{sum(failed.values())} of {len(rows)} labels did not come back: {reasons}")
        return self.tagger.fit([(one, task) for one in sample if (task := rows[one.id].task) is not None])
