"""Instructions, responses and their origins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Literal, NamedTuple, TypeAlias

OriginKind: TypeAlias = Literal["corpus", "expansion", "evaluation"]


class Turn(NamedTuple):
    """What one side of a conversation says, or the system prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


def messages(text: str, context: Sequence[Turn] = (), answer: str | None = None) -> list[dict[str, str]]:
    """Return a chat: its context, the user's last turn, the answer if there is one."""
    turns = [*context, Turn("user", text), *([] if answer is None else [Turn("assistant", answer)])]
    return [turn._asdict() for turn in turns]


def instruction_id(text: str, context: Sequence[Turn] = ()) -> str:
    """Return the digest of an instruction, or of its text where nothing stands before it: 16 hexadecimal digits.

    With 64 bits the chance of any collision among five million texts is below one in a million.
    """
    whole = json.dumps([*context, ("user", text)]) if context else text
    return hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()


def prompt_id(text: str) -> str:
    """Return the digest by which prompts, recorded answers and annotations match: white space around is ignored."""
    return instruction_id(text.strip())


@lru_cache(maxsize=8)  # a filter asks several times for the same
def normalised(text: str) -> str:
    """Return a text without differences of case and white space."""
    return " ".join(text.casefold().split())


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an instruction comes from: `round` 0 is the corpus; `parents` are ids of its hard seeds."""

    kind: OriginKind
    round: int = 0
    parents: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Instruction:
    """x: what stands before the answer.

    Attributes:
        id: digest of all of it.
        text: the user's last turn.
        context: what was said before, oldest first: the system prompt and earlier turns, if there are any.
    """

    id: str
    text: str
    origin: Origin
    context: tuple[Turn, ...] = ()

    @classmethod
    def of(cls, text: str, origin: Origin, context: Sequence[Turn] = ()) -> Instruction:
        """Return the instruction of a text after its context."""
        return cls(instruction_id(text, context), text, origin, tuple(context))

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat that a model answers."""
        return messages(self.text, self.context)

    @property
    def user_turns(self) -> list[str]:
        """What the user says, turn by turn."""
        return [*(turn.content for turn in self.context if turn.role == "user"), self.text]

    @property
    def user_text(self) -> str:
        """What the user says, in all turns: by this instructions are compared."""
        return "\n\n".join(self.user_turns)

    @property
    def transcript(self) -> str:
        """All of it as one text, every turn under its role; of a single user turn its text alone."""
        return transcript(self.text, self.context)


def transcript(text: str, context: Sequence[Turn]) -> str:
    """Return a text after its context, every turn under its role; without a context the text alone."""
    if not context:
        return text
    return "\n\n".join(f"[{turn.role}]\n{turn.content}" for turn in [*context, Turn("user", text)])


@dataclass(frozen=True, slots=True)
class Response:
    """y: an answer to an instruction, its author, and the author's thought before it, where that is known."""

    text: str
    author: str
    thought: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """(x, y): one element of the corpus D."""

    instruction: Instruction
    response: Response


id_of = attrgetter("instruction.id")
"""Returns the id of the instruction of a pair or of a prompt."""
