"""Roles without a model: what stands in for one that the recipe leaves out, and a student of recorded answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

from tapir.config.annotators import NoTaggerConfig
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.errors import RecipeError
from tapir.domain.instruction import Instruction, prompt_id
from tapir.domain.judgement import Unscored, Verdict
from tapir.domain.roles import Comparison, ExpandRequest, PlainRole, RefineRequest, Reply
from tapir.domain.round import Checkpoint
from tapir.domain.task import TaskTag, Taxonomy
from tapir.domain.training import TaggerReport
from tapir.models.context import BuildContext

_ABSENT = Failure("nobody", "the recipe names no teacher")


class NoTeacher(PlainRole):
    """Fails every request; a recipe without a teacher makes none."""

    name = "nobody"

    def answer(self, instructions: Iterable[Instruction]) -> Iterator[Reply]:
        return ((instruction.id, _ABSENT) for instruction in instructions)

    def expand(self, requests: Sequence[ExpandRequest]) -> Iterator[tuple[str, Instruction | Failure]]:
        return ((request.task, _ABSENT) for request in requests)

    def refine(self, requests: Iterable[RefineRequest]) -> Iterator[Reply]:
        return ((request.pair.instruction.id, _ABSENT) for request in requests)


class NoJudge(PlainRole):
    """Scores nothing; a recipe without a judge needs no score."""

    name = "nobody"

    def judge(self, comparisons: Iterable[Comparison]) -> Iterator[tuple[str, Verdict]]:
        return ((each.instruction.id, Unscored("the recipe names no judge")) for each in comparisons)


class UntrainedTagger:
    """What the taggers that learn nothing share."""

    def sample(self, instructions: Sequence[Instruction], seed: int) -> Sequence[Instruction]:
        return ()

    def label(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        return self.tag(instructions)

    def fit(self, labelled: Sequence[tuple[Instruction, str]]) -> TaggerReport | None:
        return None

    @abstractmethod
    def tag(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]: ...


class SingleTask(UntrainedTagger):
    """Gives every instruction the same label of the taxonomy."""

    def __init__(self, taxonomy: Taxonomy, label: str) -> None:
        self.taxonomy = taxonomy
        self._label = label

    @classmethod
    def build(cls, section: NoTaggerConfig, context: BuildContext) -> Self:
        taxonomy = context.taxonomy
        if section.label not in taxonomy.labels:
            raise RecipeError(
                f"tagger.label = {section.label!r} is no label of the taxonomy {taxonomy.name}",
                remedy=f"Use one of {', '.join(taxonomy.labels)}.",
            )
        return cls(taxonomy, section.label)

    def tag(self, instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        return ((instruction.id, TaskTag(self._label)) for instruction in instructions)


class RecordedStudent:
    """Answers from a file, by instruction id or by `prompt_id`.

    An instruction that is not in it is a failure, never an empty answer.
    """

    def __init__(self, answers: Mapping[str, str], name: str) -> None:
        self._answers = answers
        self._name = name

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        """Yield the recorded answer to each instruction."""
        for instruction in instructions:
            alone = "" if instruction.context else prompt_id(instruction.text)
            text = self._answers.get(instruction.id, self._answers.get(alone))
            if text is None:
                yield instruction.id, Failure("missing", f"{self._name} has no answer to this instruction")
            else:
                yield instruction.id, Completion(text, "stop", Usage(), model=self._name)
