"""The student's chat template, tokenizer and training settings, tried on the corpus before anything is paid for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import nsmallest
from typing import Any

from tapir.config.training import SftConfig
from tapir.domain.completion import Failure
from tapir.domain.errors import RoleError
from tapir.domain.instruction import Instruction, Pair, Turn, messages
from tapir.domain.round import Checkpoint
from tapir.domain.training import Example
from tapir.models.local.loading import ModelSettings, load_tokenizer, most_tokens
from tapir.models.local.template import SpecialTokens, prompt_tokens, template_fault
from tapir.training.dataset import encode
from tapir.training.model import check_weights, end_tokens

_TRIED = 16  # pairs
_ANSWER = "An answer."


@dataclass(frozen=True)
class TokenizedFormat:
    """The format of a student whose tokenizer can be loaded."""

    base: Checkpoint
    settings: ModelSettings
    training: SftConfig | None  # None where it is not trained through its chat template
    answered: bool  # whether the answers of the corpus are used
    longest: int = 0  # tokens of a reply at most; 0 where another program knows what the student can read
    _faults: dict[tuple[str, ...], str] = field(default_factory=dict, init=False, compare=False)

    def special(self, text: str) -> str:
        """Return the first special token that is written out in a text; "" for none."""
        return self._tokens[2].find(text)

    def fault(self, instruction: Instruction) -> str:
        """Return why the chat template cannot hold a conversation; "" where it can.

        It is a matter of its form, the roles in order: texts of our own are rendered, once for each form.
        """
        roles = tuple(turn.role for turn in instruction.context)
        if roles and roles not in self._faults:
            context = [Turn(role, f"What the {role} says in turn {number}.") for number, role in enumerate(roles)]
            self._faults[roles] = template_fault(self._tokens[0], messages("What is asked in the end.", context))
        return self._faults.get(roles, "")

    def check(self, pairs: Sequence[Pair]) -> None:
        """Raise what keeps the student from being trained on any pair, or from answering any.

        The first pairs and the shortest are encoded as training does, with an answer of our own where the teacher's is
        to come.
        """
        readable, tokenizer = most_tokens(self.base.path, self.settings), self._tokens[0]
        texts = [(pair.instruction, pair.response.text if self.answered else "") for pair in pairs]
        shortest = nsmallest(_TRIED, texts, key=lambda each: len(each[0].transcript) + len(each[1]))
        if training := self.training:
            check_weights(self.base, training, self.settings)
            tried, longest = dict.fromkeys([*texts[:_TRIED], *shortest]), int(min(training.max_length, readable))
            examples = [Example(x.id, x.text, y if y.strip() else _ANSWER, x.context) for x, y in tried]
            if examples:
                encode(examples, tokenizer, max_length=longest, too_long=training.too_long, ends=self._tokens[1])
        prompts = prompt_tokens(tokenizer, [one.messages for one, _ in shortest]) if self.longest and shortest else []
        least = min((len(prompt) for prompt in prompts if not isinstance(prompt, Failure)), default=0)
        if least + self.longest > readable:
            raise RoleError(
                f"student.max_new_tokens leaves no room for a prompt: the shortest has {least} tokens, a reply may have"
                f" {self.longest}, and the student reads {readable:g}",
                remedy="Lower student.max_new_tokens, or student.thinking_tokens where it thinks.",
            )

    @cached_property
    def _tokens(self) -> tuple[Any, frozenset[int], SpecialTokens]:
        """The tokenizer, the tokens that end an answer, and the special ones."""
        tokenizer = load_tokenizer(self.base, self.settings)
        ends = end_tokens(self.base, tokenizer, self.settings)
        return tokenizer, ends, SpecialTokens(tokenizer, ends)
