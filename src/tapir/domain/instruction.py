"""Instructions, responses and their origins."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal, TypeAlias

OriginKind: TypeAlias = Literal["corpus", "expansion", "evaluation"]


def instruction_id(text: str) -> str:
    """Return the digest of an instruction's text: 16 hexadecimal digits.

    With 64 bits the chance of any collision among five million texts is below one in a million.
    """
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def prompt_id(text: str) -> str:
    """Return the digest by which prompts, recorded answers and annotations match: white space around is ignored."""
    return instruction_id(text.strip())


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
    """x: what the student is asked to do."""

    id: str
    text: str
    origin: Origin

    @classmethod
    def of(cls, text: str, origin: Origin) -> Instruction:
        """Return the instruction of a text; its id is the digest of the text."""
        return cls(instruction_id(text), text, origin)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat that a model answers."""
        return [{"role": "user", "content": self.text}]


@dataclass(frozen=True, slots=True)
class Conversation(Instruction):
    """An instruction that follows earlier turns, which are those of the user and of the model alternately."""

    earlier: tuple[str, ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat that a model answers."""
        turns = (*self.earlier, self.text)
        return [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(turns)]


@dataclass(frozen=True, slots=True)
class Response:
    """y: an answer to an instruction, and its author."""

    text: str
    author: str


@dataclass(frozen=True, slots=True)
class Pair:
    """(x, y): one element of the corpus D."""

    instruction: Instruction
    response: Response


id_of = attrgetter("instruction.id")
"""Returns the id of the instruction of a pair or of a prompt."""
