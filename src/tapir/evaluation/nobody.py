"""Who fills the roles of a recipe that leaves them empty."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction
from tapir.domain.judgement import Unscored, Verdict
from tapir.domain.task import TaskTag, Taxonomy
from tapir.roles import Comparison, ExpandRequest, RefineRequest, Reply, TaggerReport

_ABSENT = Failure("nobody", "the recipe names no teacher")


class NobodyTeaches:
    """Writes nothing; a recipe without a teacher asks for nothing that needs one."""

    name = "nobody"

    def answer(self, instructions: Iterable[Instruction]) -> Iterator[Reply]:
        """No instruction is answered."""
        for one in instructions:
            yield one.id, _ABSENT

    def expand(self, requests: Sequence[ExpandRequest]) -> Iterator[tuple[str, Instruction | Failure]]:
        """Nothing new is written."""
        for request in requests:
            yield request.task, _ABSENT

    def refine(self, requests: Iterable[RefineRequest]) -> Iterator[Reply]:
        """Every answer stays as it is."""
        for request in requests:
            yield request.pair.instruction.id, _ABSENT


class OneTask:
    """Every instruction is of the same task."""

    def __init__(self, taxonomy: Taxonomy, label: str) -> None:
        """Take the label that all get."""
        self.taxonomy = taxonomy
        self._label = label

    def sample(self, instructions: Sequence[Instruction], seed: int) -> Sequence[Instruction]:  # noqa: ARG002
        """There is nothing to learn."""
        return ()

    def label(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        """As `tag`."""
        return self.tag(instructions)

    def fit(self, labelled: Sequence[tuple[Instruction, str]]) -> TaggerReport | None:  # noqa: ARG002
        """Nothing was learnt."""
        return None

    def tag(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        """The one label."""
        for one in instructions:
            yield one.id, TaskTag(self._label)


class NobodyJudges:
    """Scores nothing; a recipe without a judge asks for nothing that needs one."""

    name = "nobody"

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        """No comparison has a score."""
        for one in comparisons:
            yield one.instruction.id, Unscored("the recipe names no judge")
