"""Task types, t(x): fitting the tagger, and one label of a closed taxonomy for every instruction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from tapir.data.run.rows import TagRow
from tapir.domain.completion import Failure
from tapir.domain.errors import RoleError, commonest
from tapir.domain.instruction import Instruction
from tapir.domain.roles import Labeller, Tagger
from tapir.domain.training import TaggerReport
from tapir.stages.base import StageContext, Work, run_items


@dataclass(frozen=True, slots=True)
class Tag:
    """The tagger labels every instruction; a failure is recorded and the item is in no task's pool."""

    tagger: Tagger
    chunk: int

    def run(self, context: StageContext, instructions: Sequence[Instruction]) -> dict[str, TagRow]:
        """Return one row for each instruction, by id; raise `RoleError` if none of them has a task."""
        rows = _label(context, Work("tag", "tags", self.chunk), instructions, self.tagger.tag)
        failed = [(row.failure or "").partition(":")[0] for row in rows.values() if row.task is None]
        if rows and len(failed) == len(rows):
            raise RoleError(
                f"the tagger found no task for any of {len(rows)} instructions: {commonest(failed)}",
                remedy=f"What it said is in {context.path('tags')}.parquet. Lower tagger.abstain_below where it"
                " abstained, else use another tagger, in a new run.",
            )
        return rows


@dataclass(frozen=True, slots=True)
class FitTagger:
    """The tagger learns from a labelled sample, which is saved, so a resumed run learns the same."""

    tagger: Tagger
    chunk: int

    def run(self, context: StageContext, instructions: Sequence[Instruction]) -> TaggerReport | None:
        """Fit the tagger and record how good it is; None for a tagger that has nothing to learn."""
        sample = self.tagger.sample(instructions, context.seed)
        report = self.tagger.fit(self._labelled(context, sample) if sample else [])
        context.store.once_json(context.path("tagger"), lambda: asdict(report) if report else {})
        return report

    def _labelled(self, context: StageContext, sample: Sequence[Instruction]) -> list[tuple[Instruction, str]]:
        rows = _label(context, Work("label", "labels", self.chunk), sample, self.tagger.label)
        failed = [(row.failure or "").partition(":")[0] for row in rows.values() if row.task is None]
        if failed:
            reasons = commonest(failed)
            if len(failed) == len(rows):
                raise RoleError(
                    f"none of the {len(rows)} labels for the tagger came back: {reasons}",
                    remedy="The replies are in round-0/labels.parquet. Fix the endpoint and start a new run.",
                )
            context.progress.note(f"{len(failed)} of {len(rows)} labels did not come back: {reasons}")
        return [(instruction, task) for instruction in sample if (task := rows[instruction.id].task) is not None]


def _label(
    context: StageContext, work: Work, instructions: Sequence[Instruction], label: Labeller
) -> dict[str, TagRow]:
    def do(pending: Iterator[tuple[str, Instruction]]) -> Iterator[tuple[str, list[TagRow]]]:
        for name, tag in label(instruction for _, instruction in pending):
            if isinstance(tag, Failure):
                yield name, [TagRow(name, None, 0.0, f"{tag.kind}: {tag.message}")]
            else:
                yield name, [TagRow(name, tag.task, tag.confidence, None)]

    items = [(instruction.id, instruction) for instruction in instructions]
    return {row.id: row for row in run_items(context, work, TagRow, items, do)}
