"""A student that is asked in the middle of a conversation: what was said before stands in its prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.round import Checkpoint
from tapir.roles import Reply
from tapir.students.load import AS_IT_IS, ModelSettings
from tapir.students.local import AnswerSettings, LocalStudent


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said so far.

    Attributes:
        id: what the reply is known by.
        question: which conversation it is.
        said: questions and answers in turn, beginning and ending with a question.
    """

    id: str
    question: int
    said: tuple[str, ...]

    @property
    def turn(self) -> int:
        """Which question is to be answered, from 1."""
        return (len(self.said) + 1) // 2


class Conversing(Protocol):
    """A student that answers the last question of a conversation."""

    def converse(self, checkpoint: Checkpoint, conversations: Sequence[Conversation]) -> Iterable[Reply]:
        """One reply for each conversation, by its id, in any order."""


class LocalConversing(LocalStudent):
    """A checkpoint in this process; its chat template sees the conversation as messages."""

    def __init__(self, settings: AnswerSettings, model: ModelSettings = AS_IT_IS) -> None:
        """Take the settings; a checkpoint is loaded when it is first asked."""
        super().__init__(settings, model)
        self._said: Mapping[str, tuple[str, ...]] = {}

    def converse(self, checkpoint: Checkpoint, conversations: Sequence[Conversation]) -> Iterator[Reply]:
        """One reply for each conversation; shorter ones come back first.

        Raises:
            RoleError: no student can be loaded, or not even one conversation fits the memory.
        """
        self._said = {one.id: one.said for one in conversations}
        origin = Origin("evaluation")
        yield from self.answer(checkpoint, [Instruction(one.id, one.said[-1], origin) for one in conversations])

    def _chat(self, one: Instruction) -> list[dict[str, str]]:
        said = self._said[one.id]
        return [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(said)]


class RecordedConversing:
    """Answers from a file, by question and turn; one that is not there is a failure, never an empty answer."""

    def __init__(self, answers: Mapping[int, Sequence[str]], name: str) -> None:
        """Take the answers to every turn of each question, and whose they are."""
        self._answers = answers
        self._name = name

    def converse(
        self,
        checkpoint: Checkpoint,  # noqa: ARG002 (a file has one author)
        conversations: Sequence[Conversation],
    ) -> Iterator[Reply]:
        """The recorded answer to the last question of each conversation."""
        for one in conversations:
            turns = self._answers.get(one.question, ())
            if len(turns) < one.turn:
                yield one.id, Failure("missing", f"{self._name} has no answer to turn {one.turn} of {one.question}")
            else:
                yield one.id, Completion(turns[one.turn - 1], "stop", Usage(), model=self._name)
