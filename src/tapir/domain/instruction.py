"""Instructions, responses, and where they came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, TypeAlias

OriginKind: TypeAlias = Literal["corpus", "expansion", "evaluation"]


def instruction_id(text: str) -> str:
    """Digest of an instruction's text: 16 hexadecimal digits (64 bits).

    Equal texts have equal ids, so an id can be computed anywhere and never clashes by accident:
    among five million texts the chance of any collision is below one in a million.
    """
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def normalised(text: str) -> str:
    """Case and white space do not make two instructions different."""
    return " ".join(text.casefold().split())


@dataclass(frozen=True, slots=True)
class Origin:
    """How an instruction came to be: `round` 0 is the corpus; `parents` are ids of its hard seeds."""

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
        """An instruction whose id is the digest of its text."""
        return cls(instruction_id(text), text, origin)


@dataclass(frozen=True, slots=True)
class Response:
    """y: an answer to an instruction and who wrote it."""

    text: str
    author: str


@dataclass(frozen=True, slots=True)
class Pair:
    """(x, y): one element of the corpus D."""

    instruction: Instruction
    response: Response
