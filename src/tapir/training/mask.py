"""What is trained on and what is not, as text."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from tapir.roles import Example
from tapir.training.examples import tokens_of


def coloured(example: Example, tokenizer: Any) -> list[tuple[str, bool]]:
    """The example as the student reads it, special tokens included, and which parts of it are learnt.

    Returns:
        Pieces of text, which joined are the decoded whole, each with whether it carries loss.

    Raises:
        TrainingError: the chat template drops or changes the answer or its prompt.
    """
    (one,) = tokens_of([example], tokenizer)
    ids = list(one.input_ids)
    whole = tokenizer.decode(ids)
    pieces: list[tuple[str, bool]] = []
    tokens = written = 0
    for learnt, run in groupby(one.completion_mask):
        tokens += len(list(run))
        until = len(whole) if tokens == len(ids) else _shared(whole, tokenizer.decode(ids[:tokens]))
        pieces.append((whole[written:until], bool(learnt)))
        written = until
    return pieces


def _shared(whole: str, start: str) -> int:
    """Characters that both begin with: a character in the middle of which a token ends belongs to what follows."""
    return next(
        (place for place, (one, other) in enumerate(zip(whole, start, strict=False)) if one != other), len(start)
    )
