"""Examples as tokens with a mask, checked before a single step is made."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tapir.errors import TrainingError
from tapir.roles import Example

_WINDOW = 16  # batches that are sorted by length together


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example: `completion_mask` is 1 on the answer's tokens, which alone carry loss."""

    input_ids: list[int]
    completion_mask: list[int]


def encode(examples: Sequence[Example], tokenizer: Any, max_length: int) -> tuple[list[Encoded], list[str]]:
    """Tokenise with the student's chat template.

    Returns:
        The examples, and the ids of those left out because they have more than `max_length` tokens: an answer
        that is cut off teaches the student to stop in the middle.

    Raises:
        TrainingError: an example has no answer token, or all are too long.
    """
    if not examples:
        raise TrainingError("the mixture is empty", remedy="Lower curriculum.threshold, or bring a larger corpus.")
    encoded: list[Encoded] = []
    too_long: list[str] = []
    for example in examples:
        one = _encode(example, tokenizer)
        if not example.answer.strip() or not any(one.completion_mask):
            raise TrainingError(
                f"example {example.id} has no answer token to learn from: {example.answer!r}",
                remedy="Check the answer in mixture.parquet and the student's chat template.",
            )
        if len(one.input_ids) > max_length:
            too_long.append(example.id)
        else:
            encoded.append(one)
    if not encoded:
        raise TrainingError(
            f"all {len(examples)} examples have more tokens than training.max_length = {max_length}",
            remedy="Raise training.max_length.",
        )
    return encoded, too_long


def training_order(lengths: Sequence[int], *, batch_size: int, epochs: float, seed: int) -> list[int]:
    """Places of the examples in the order of training, over all epochs.

    Every epoch is a fresh shuffle; within a window of batches, examples of similar length share a
    batch, and the batches are shuffled again. The whole order is laid out here, so a resumed training
    only has to skip what it has seen.
    """
    total = max(1, round(epochs * len(lengths)))
    order: list[int] = []
    epoch = 0
    while len(order) < total:
        generator = random.Random(f"{seed}/{epoch}")
        places = list(range(len(lengths)))
        generator.shuffle(places)
        span = batch_size * _WINDOW
        for start in range(0, len(places), span):
            window = sorted(places[start : start + span], key=lambda place: lengths[place])
            batches = [window[first : first + batch_size] for first in range(0, len(window), batch_size)]
            generator.shuffle(batches)
            order += [place for batch in batches for place in batch]
        epoch += 1
    return order[:total]


def _encode(example: Example, tokenizer: Any) -> Encoded:
    prompt = [{"role": "user", "content": example.prompt}]
    answered = [*prompt, {"role": "assistant", "content": example.answer}]
    start = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=False)
    whole = tokenizer.apply_chat_template(answered, tokenize=True, return_dict=False)
    if whole[: len(start)] != start:
        raise TrainingError(
            f"the chat template does not keep the prompt of example {example.id} as it is when an answer follows",
            remedy="Use a chat template whose prompt with add_generation_prompt is a prefix of the whole conversation.",
        )
    return Encoded(whole, [0] * len(start) + [1] * (len(whole) - len(start)))
