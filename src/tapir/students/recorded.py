"""A student whose answers were written down elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.instruction import Instruction
from tapir.domain.round import Checkpoint
from tapir.roles import Reply


class RecordedStudent:
    """Answers from a file; an instruction that is not in it is a failure, never an empty answer."""

    def __init__(self, answers: Mapping[str, str], name: str) -> None:
        """Take the answers by instruction id (`instruction_id` of the text), and whose they are."""
        self._answers = answers
        self._name = name

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:  # noqa: ARG002
        """The recorded answer to each instruction."""
        for one in instructions:
            text = self._answers.get(one.id)
            if text is None:
                yield one.id, Failure("missing", f"{self._name} has no answer to this instruction")
            else:
                yield one.id, Completion(text, "stop", Usage(), model=self._name)
