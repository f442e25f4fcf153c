"""The gym's teacher: it knows every answer, writes fresh instances, and shows its work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.domain.task import TaskTag
from tapir.gym.steps import worked
from tapir.gym.world import from_address, stream
from tapir.roles import ExpandRequest, RefineRequest, Reply


class GymTeacher:
    """Exact by construction; every text follows from an item's address."""

    name = "gym-teacher"

    def answer(self, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        """The exact answer, bare."""
        for one in instructions:
            yield one.id, self._said(from_address(one.origin.source).answer)

    def expand(self, request: ExpandRequest) -> Iterator[Pair | Failure]:
        """Fresh instances of each seed's skill at the seed's level; never a text kept for evaluation."""
        streams = {}
        for turn in range(request.wanted):
            seed = request.seeds[turn % len(request.seeds)].instruction
            parent = from_address(seed.origin.source)
            kind = (parent.skill, parent.level)
            if kind not in streams:
                streams[kind] = stream(*kind, key=f"{request.seed}/expand", reserved=False)
            for found in islice(streams[kind], 1):
                origin = Origin("expansion", parents=(seed.id,), source=found.address)
                yield Pair(Instruction.of(found.question, origin), Response(found.answer, self.name))

    def refine(self, requests: Sequence[RefineRequest]) -> Iterator[Reply]:
        """The answer with worked steps where steps help a small model, else the bare answer."""
        for request in requests:
            one = request.pair.instruction
            yield one.id, self._said(worked(from_address(one.origin.source)))

    def label(self, instructions: Sequence[Instruction]) -> Iterator[tuple[str, TaskTag]]:
        """The true skill; the tagger learns from a sample of these."""
        for one in instructions:
            yield one.id, TaskTag(from_address(one.origin.source).skill)

    def _said(self, text: str) -> Completion:
        return Completion(text, "stop", Usage(), self.name)
