"""Examples as tokens, every one checked before a single step is made; and the order they are trained in."""

from __future__ import annotations

import random
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tapir.errors import TrainingError
from tapir.roles import Example
from tapir.training.settings import TooLong

_WINDOW = 16  # batches that are sorted by length together
_AT_ONCE = 512  # examples handed to the tokenizer together, which it works on in parallel
_TEMPLATE = "Set student.chat_template to a template that writes the prompt first and then the answer as it is."


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example: prompt and answer as one sequence of token ids, the answer beginning at `start`.

    The answer's tokens, its end token among them, carry loss; the prompt's do not.
    """

    input_ids: array[int]
    start: int

    @property
    def completion_mask(self) -> list[int]:
        """1 on the answer's tokens, which alone carry loss."""
        return [0] * self.start + [1] * (len(self.input_ids) - self.start)


@dataclass(frozen=True, slots=True)
class Encodings:
    """The examples to train on, and the ids of those left out and of those without their end."""

    examples: list[Encoded]
    too_long: list[str]
    cut: list[str]


def encode(
    examples: Sequence[Example],
    tokenizer: Any,
    *,
    max_length: int,
    too_long: TooLong = "drop",
    ends: Collection[int] = (),
) -> Encodings:
    """Tokenise with the student's chat template and check every mask.

    Args:
        examples: what to train on.
        tokenizer: the student's.
        max_length: tokens an example may have.
        too_long: "drop" leaves a longer one out; "cut" leaves out the end of its answer. A prompt is never cut: an
            example whose prompt alone is too long is left out in both cases.
        ends: ids of tokens that end an answer; none given means the tokenizer's own end token.

    Raises:
        TrainingError: there is nothing to train on, or an example's answer, or its end, would not be learnt.
    """
    if not examples:
        raise TrainingError("the mixture is empty", remedy="Lower curriculum.threshold, or bring a larger corpus.")
    ends = frozenset(ends) or frozenset({tokenizer.eos_token_id} - {None})
    found = Encodings([], [], [])
    for first in range(0, len(examples), _AT_ONCE):
        batch = examples[first : first + _AT_ONCE]
        for example, one in zip(batch, tokens_of(batch, tokenizer), strict=True):
            _check_end(example, one, tokenizer, ends)
            if len(one.input_ids) <= max_length:
                found.examples.append(one)
            elif too_long == "cut" and one.start < max_length:
                found.examples.append(Encoded(one.input_ids[:max_length], one.start))
                found.cut.append(example.id)
            else:
                found.too_long.append(example.id)
    if not found.examples:
        raise TrainingError(
            f"all {len(examples)} examples have more tokens than training.max_length = {max_length}",
            remedy="Raise training.max_length.",
        )
    return found


def tokens_of(examples: Sequence[Example], tokenizer: Any) -> Iterator[Encoded]:
    """Every example's tokens, the answer starting exactly where the prompt ends.

    Raises:
        TrainingError: the chat template drops or changes an answer or its prompt.
    """
    texts = [_texts(example, tokenizer) for example in examples]
    prompts = tokenizer([prompt for prompt, _ in texts], add_special_tokens=False)["input_ids"]
    wholes = tokenizer([prompt + answer for prompt, answer in texts], add_special_tokens=False)["input_ids"]
    for example, text, prompt, whole in zip(examples, texts, prompts, wholes, strict=True):
        if whole[: len(prompt)] == prompt:
            ids = whole
        else:  # a token spans the border, but the student will be asked with the prompt's own tokens
            ids = prompt + tokenizer(text[1], add_special_tokens=False)["input_ids"]
            if tokenizer.decode(ids) != tokenizer.decode(whole):
                raise TrainingError(
                    f"the tokens of the prompt of example {example.id} change when its answer follows",
                    remedy="Set student.chat_template to a template whose prompt ends with a special token.",
                )
        if len(ids) == len(prompt):
            raise _no_answer(example)
        yield Encoded(array("i", ids), len(prompt))


def training_order(
    lengths: Sequence[int], *, batch_size: int, epochs: float, seed: int, by_length: bool = True
) -> list[int]:
    """Places of the examples in the order of training, over all epochs.

    Every epoch is a fresh shuffle; within a window of batches, examples of similar length share a
    batch, and the batches are shuffled again. The whole order is laid out here, so a resumed training
    only has to skip what it has seen. Without `by_length` the shuffle is left as it is.
    """
    total = max(1, round(epochs * len(lengths)))
    order: list[int] = []
    epoch = 0
    while len(order) < total:
        generator = random.Random(f"{seed}/{epoch}")
        places = list(range(len(lengths)))
        generator.shuffle(places)
        epoch += 1
        if not by_length:
            order += places
            continue
        span = batch_size * _WINDOW
        for start in range(0, len(places), span):
            window = sorted(places[start : start + span], key=lambda place: lengths[place])
            batches = [window[first : first + batch_size] for first in range(0, len(window), batch_size)]
            generator.shuffle(batches)
            order += [place for batch in batches for place in batch]
    return order[:total]


def _texts(example: Example, tokenizer: Any) -> tuple[str, str]:
    """The prompt as the student is asked with it, and what the template makes of the answer after it."""
    from jinja2 import TemplateError

    if not example.answer.strip():
        raise _no_answer(example)
    asked = [{"role": "user", "content": example.prompt}]
    answered = [*asked, {"role": "assistant", "content": example.answer}]
    try:
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(answered, tokenize=False)
    except TemplateError as error:
        raise TrainingError(f"the chat template fails on example {example.id}: {error}", remedy=_TEMPLATE) from error
    answer = whole.removeprefix(prompt)
    if "".join(example.answer.split()) not in "".join(answer.split()):
        raise TrainingError(
            f"the chat template drops or changes the answer of example {example.id}: {example.answer[:60]!r}",
            remedy=_TEMPLATE,
        )
    if not whole.startswith(prompt):
        raise TrainingError(
            f"the chat template does not keep the prompt of example {example.id} as it is when an answer follows",
            remedy=_TEMPLATE,
        )
    return prompt, answer


def _check_end(example: Example, one: Encoded, tokenizer: Any, ends: frozenset[int]) -> None:
    if ends and ends.isdisjoint(one.input_ids[one.start :]):
        names = " or ".join(repr(tokenizer.convert_ids_to_tokens(end)) for end in sorted(ends))
        raise TrainingError(
            f"the chat template writes no end token ({names}) after the answer of example {example.id}: a student "
            "trained on it would never stop",
            remedy="Set student.chat_template to a template that ends the answer with the end token.",
        )


def _no_answer(example: Example) -> TrainingError:
    return TrainingError(
        f"example {example.id} has no answer token to learn from: {example.answer!r}",
        remedy="Check the answer in mixture.parquet and student.chat_template.",
    )
