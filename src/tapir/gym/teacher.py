"""The gym's teacher: it knows every answer, writes fresh instances, and shows its work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from tapir.domain.completion import Completion, Usage
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.task import TaskTag
from tapir.gym.steps import worked
from tapir.gym.world import from_address, stream
from tapir.roles import ExpandRequest, RefineRequest, Reply


class GymTeacher:
    """Exact by construction; every text follows from an item's address."""

    name = "gym-teacher"

    def answer(self, instructions: Iterable[Instruction]) -> Iterator[Reply]:
        """The exact answer, bare."""
        for one in instructions:
            yield one.id, self._said(from_address(one.origin.source).answer)

    def expand(self, requests: Sequence[ExpandRequest]) -> Iterator[tuple[str, Instruction]]:
        """Fresh instances of each seed's skill at the seed's level; never a text kept for evaluation."""
        for request in requests:
            for one in self._written(request):
                yield request.task, one

    def _written(self, request: ExpandRequest) -> Iterator[Instruction]:
        streams = {}
        for turn in range(request.wanted):
            seed = request.seeds[turn % len(request.seeds)].instruction
            parent = from_address(seed.origin.source)
            kind = (parent.skill, parent.level)
            if kind not in streams:
                streams[kind] = stream(*kind, key=f"{request.seed}/expand", reserved=False)
            for found in islice(streams[kind], 1):
                origin = Origin("expansion", parents=(seed.id,), source=found.address)
                yield Instruction.of(found.question, origin)

    def refine(self, requests: Iterable[RefineRequest]) -> Iterator[Reply]:
        """The answer with worked steps where steps help a small model, else the bare answer."""
        for request in requests:
            one = request.pair.instruction
            yield one.id, self._said(worked(from_address(one.origin.source)))

    def label(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag]]:
        """The true skill; the tagger learns from a sample of these."""
        for one in instructions:
            yield one.id, TaskTag(from_address(one.origin.source).skill)

    def _said(self, text: str) -> Completion:
        return Completion(text, "stop", Usage(), self.name)
