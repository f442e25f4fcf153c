"""The student's chat template and tokenizer, tried on the corpus before anything is paid for."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

from tapir.domain.instruction import Instruction, Pair, Turn, messages
from tapir.domain.round import Checkpoint
from tapir.domain.training import Example
from tapir.models.local.loading import ModelSettings, load_tokenizer
from tapir.models.local.template import SpecialTokens, template_fault
from tapir.training.dataset import encode
from tapir.training.model import end_tokens

_TRIED = 16  # pairs
_ANSWER = "An answer."


@dataclass(frozen=True)
class TokenizedFormat:
    """The format of a student whose tokenizer can be loaded."""

    base: Checkpoint
    settings: ModelSettings
    encoded: bool  # whether it is trained through its chat template
    answered: bool  # whether the answers of the corpus are used
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

    def check(self, pairs: Iterable[Pair]) -> None:
        """Encode the first pairs as training does, with an answer of our own where the teacher's is to come."""
        first = islice(pairs, _TRIED) if self.encoded else ()
        texts = [(pair.instruction, pair.response.text if self.answered else "") for pair in first]
        if examples := [
            Example(one.id, one.text, text if text.strip() else _ANSWER, one.context) for one, text in texts
        ]:
            tokenizer, ends, _ = self._tokens
            encode(examples, tokenizer, max_length=sys.maxsize, ends=ends)

    @cached_property
    def _tokens(self) -> tuple[Any, frozenset[int], SpecialTokens]:
        """The tokenizer, the tokens that end an answer, and the special ones."""
        tokenizer = load_tokenizer(self.base, self.settings)
        ends = end_tokens(self.base, tokenizer, self.settings)
        return tokenizer, ends, SpecialTokens(tokenizer, ends)
