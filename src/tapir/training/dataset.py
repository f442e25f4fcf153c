"""Training data: tokenization with a checked loss mask, training order, batches, packing and the collator."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tapir.domain.completion import THOUGHTS, after_thought
from tapir.domain.errors import TrainingError
from tapir.domain.instruction import messages
from tapir.domain.training import Example
from tapir.models.local.template import SpecialTokens, begun_thought, render, split_example

if TYPE_CHECKING:
    import torch

PackedRow: TypeAlias = Sequence[int]
"""Places of the examples that share one row of a tensor; an empty row stands for an example that is not there."""

_IGNORE_INDEX = -100  # the label that carries no loss
_WINDOW = 16  # batches that are sorted by length together
_CHUNK = 512  # examples handed to the tokenizer together, which it works on in parallel
_COMPARED = 64  # tokens of each of two examples that are compared packed and alone, at most
_OFF = 0.05  # relative: rounding in bfloat16 stays far below, an example that is attended to far above
_TEMPLATE = (
    "Set student.chat_template to a template that writes the prompt first, as without an answer, then the answer as it "
    "is and an end token."
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example: prompt and answer as one sequence of token ids, the answer beginning at `answer_start`.

    The loss mask: the answer's tokens, its end token among them, carry loss; the prompt's do not.
    """

    input_ids: array[int]
    answer_start: int


@dataclass(frozen=True, slots=True)
class Encodings:
    """The examples to train on, and the ids of those dropped (`unfit`: with the reason) and of those truncated."""

    examples: list[Encoded]
    too_long: list[str]
    cut: list[str]
    unfit: dict[str, str]


@dataclass(frozen=True, slots=True)
class Misfit:
    """An example that the chat template or the tokenizer cannot hold; `error` is raised where most are like it."""

    reason: str
    error: TrainingError


def encode(
    examples: Sequence[Example],
    tokenizer: Any,
    *,
    max_length: int,
    too_long: Literal["drop", "cut"] = "drop",
    ends: Collection[int] = (),
) -> Encodings:
    """Tokenize with the student's chat template and check every loss mask.

    An example with more than `max_length` tokens is dropped, or the end of its answer is cut; one whose prompt alone is
    too long is dropped in both cases, and so is one with a thought, which might be left without its answer. `ends` are
    the tokens that end an answer; none means the tokenizer's own. An example that cannot
    be learnt as it is (the template changes its answer, a special token is written out in it) is dropped with the
    reason; where most are like it, that is raised.
    """
    if not examples:
        raise TrainingError("the mixture is empty", remedy="Lower curriculum.threshold, or bring a larger corpus.")
    ends = frozenset(ends) or frozenset({tokenizer.eos_token_id} - {None})
    special, result, misfits = SpecialTokens(tokenizer, ends), Encodings([], [], [], {}), list[Misfit]()
    for first in range(0, len(examples), _CHUNK):
        batch = examples[first : first + _CHUNK]
        for example, tokens in zip(batch, tokenize(batch, tokenizer, special), strict=True):
            encoded = _with_end(example, tokens, tokenizer, ends)
            if isinstance(encoded, Misfit):
                misfits.append(encoded)
                result.unfit[example.id] = encoded.reason
            elif len(encoded.input_ids) <= max_length:
                result.examples.append(encoded)
            elif too_long == "cut" and encoded.answer_start < max_length and not example.thought:
                result.examples.append(Encoded(encoded.input_ids[:max_length], encoded.answer_start))
                result.cut.append(example.id)
            else:
                result.too_long.append(example.id)
    if len(misfits) * 2 > len(examples):
        raise misfits[0].error
    if not result.examples:
        raise TrainingError(
            f"all {len(examples) - len(misfits)} examples have more than {max_length} tokens",
            remedy="Raise training.max_length, if the student can read more.",
        )
    return result


def tokenize(
    examples: Sequence[Example], tokenizer: Any, special: SpecialTokens | None = None
) -> Iterator[Encoded | Misfit]:
    """Yield every example's tokens, the answer starting exactly where the prompt ends, or why there are none."""
    special = special or SpecialTokens(tokenizer)
    found = [_texts(example, tokenizer, special) for example in examples]
    texts = [text for text in found if not isinstance(text, Misfit)] or [("", "")]
    prompts = iter(tokenizer([prompt for prompt, _ in texts], add_special_tokens=False)["input_ids"])
    wholes = iter(tokenizer([prompt + answer for prompt, answer in texts], add_special_tokens=False)["input_ids"])
    for example, text in zip(examples, found, strict=True):
        if isinstance(text, Misfit):
            yield text
            continue
        prompt, whole = next(prompts), next(wholes)
        if whole[: len(prompt)] == prompt:
            ids = whole
        else:  # a token spans the border, but the student will be asked with the prompt's own tokens
            ids = prompt + tokenizer(text[1], add_special_tokens=False)["input_ids"]
            if tokenizer.decode(ids) != tokenizer.decode(whole):
                problem = f"the tokens of the prompt of example {example.id} change when its answer follows"
                remedy = "Set student.chat_template to a template whose prompt ends with a special token."
                yield Misfit("the tokens of its prompt change", TrainingError(problem, remedy=remedy))
                continue
        yield Encoded(array("i", ids), len(prompt)) if len(ids) > len(prompt) else _no_answer(example)


def training_order(
    lengths: Sequence[int], *, batch_size: int, epochs: float, seed: int, by_length: bool = True
) -> list[int]:
    """Return the places of the examples in the order of training, over all epochs.

    Every epoch is a fresh shuffle; with `by_length`, examples of similar length within a window of batches share a
    batch, and the batches are shuffled again. A resumed training only has to skip what it has seen.
    """
    total = max(1, round(epochs * len(lengths)))
    order: list[int] = []
    for epoch in range(-(-total // len(lengths))):
        generator = random.Random(f"{seed}/{epoch}")
        places = list(range(len(lengths)))
        generator.shuffle(places)
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


def _texts(example: Example, tokenizer: Any, special: SpecialTokens) -> tuple[str, str] | Misfit:
    """Return the prompt as the student is asked with it, and what the template makes of the answer after it."""
    from jinja2 import TemplateError

    if not example.answer.strip():
        return _no_answer(example)
    before = [("context", turn.content) for turn in example.context]
    after = [("prompt", example.prompt), ("thought", example.thought), ("answer", example.answer)]
    for what, text in (*before, *after):
        if token := special.find(text):
            problem = f"the special token {token} is written out in the {what} of example {example.id}"
            remedy = "Remove it from the text; the student would read a turn or an end there."
            return Misfit(f"the special token {token} in its {what}", TrainingError(problem, remedy=remedy))
    try:
        prompt, whole = _render(example, tokenizer)
    except TemplateError as error:
        return _unfit("fails on", example, f": {error}")
    found = split_example(prompt, whole, example.thought)
    for what, text in (("answer", example.answer), ("thought", example.thought)):
        if "".join(text.split()) not in "".join((found or ("", whole.removeprefix(prompt)))[1].split()):
            return _unfit(f"drops or changes the {what} of", example, f": {text[:60]!r}")
    return found or _unfit("does not keep the prompt of", example, " as it is when an answer follows")


def _render(example: Example, tokenizer: Any) -> tuple[str, str]:
    """Return the prompt of an example and the whole of it; a thought goes where the template has a place for it."""
    *before, last = messages(example.prompt, example.context, example.answer)
    if not example.thought:
        return render(tokenizer, [*before, last])
    apart = last | dict.fromkeys(("reasoning_content", "thinking"), example.thought)
    prompt, whole = render(tokenizer, [*before, apart])
    if begun_thought(prompt) or example.thought.strip() in whole[len(prompt) :]:
        return prompt, whole
    known = str(tokenizer.chat_template)
    mark = next((mark for mark in THOUGHTS if mark in known), "<think>")
    return render(tokenizer, [*before, last | {"content": after_thought(example.thought, example.answer, mark)}])


def _with_end(example: Example, encoded: Encoded | Misfit, tokenizer: Any, ends: frozenset[int]) -> Encoded | Misfit:
    if not isinstance(encoded, Encoded) or not ends or not ends.isdisjoint(encoded.input_ids[encoded.answer_start :]):
        return encoded
    names = " or ".join(repr(tokenizer.convert_ids_to_tokens(end)) for end in sorted(ends))
    how = ": a student trained on it would never stop"
    return _unfit(f"writes no end token ({names}) after the answer of", example, how)


def _unfit(what: str, example: Example, more: str) -> Misfit:
    """Return the fault of a template that cannot hold an example."""
    error = TrainingError(f"the chat template {what} example {example.id}{more}", remedy=_TEMPLATE)
    return Misfit(f"the chat template {what.removesuffix(' of')}", error)


def _no_answer(example: Example) -> Misfit:
    problem = f"example {example.id} has no answer token to learn from: {example.answer!r}"
    remedy = "Check the answer in mixture.parquet and student.chat_template."
    return Misfit("no answer token to learn from", TrainingError(problem, remedy=remedy))


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Which examples every step and forward pass reads; items are numbered in the order of training."""

    items: int
    rows: Callable[[int], Sequence[PackedRow]]  # of an item
    per_pass: int  # items in one forward pass of one process
    accumulation: int  # forward passes of one process in one step
    steps: int


def plan_batches(order: Sequence[int], batch_size: int, micro: int, processes: int) -> BatchPlan:
    """Plan batches of one example in a row; processes that share the last step get equally many rows."""
    items = len(order) + (-len(order) % (micro * processes) if processes > 1 else 0)
    passes, steps = batch_size // micro // processes, -(-len(order) // batch_size)
    return BatchPlan(items, lambda item: [order[item : item + 1]], micro, passes, steps)


def plan_packed_batches(
    order: Sequence[int], lengths: Sequence[int], *, batch_size: int, max_length: int, micro: int, processes: int
) -> BatchPlan:
    """Plan batches of packed rows, of at most max_length tokens; a forward pass reads at most `micro` rows."""
    steps = [pack(order[first : first + batch_size], lengths, max_length) for first in range(0, len(order), batch_size)]
    accumulation = max(-(-len(rows) // (micro * processes)) for rows in steps)
    passes = accumulation * processes
    items = [rows[first::passes] or [()] for rows in steps for first in range(passes)]
    return BatchPlan(len(items), items.__getitem__, 1, accumulation, len(steps))


def pack(places: Sequence[int], lengths: Sequence[int], max_length: int) -> list[PackedRow]:
    """Return rows of at most max_length tokens: the longest example first, each into the fullest row that has room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for place in sorted(places, key=lambda place: -lengths[place]):
        fitting = [number for number, left in enumerate(room) if left >= lengths[place]]
        best = min(fitting, key=room.__getitem__, default=len(rows))
        if best == len(rows):
            rows.append([])
            room.append(max_length)
        rows[best].append(place)
        room[best] -= lengths[place]
    return sorted(rows, key=lambda row: -sum(lengths[place] for place in row))


def cumulative_tokens(order: Sequence[int], lengths: Sequence[int], batch_size: int) -> Sequence[int]:
    """Return the tokens read before step 0, 1, 2 and so on, up to the last."""
    sizes = [lengths[place] for place in order]
    steps = (sum(sizes[first : first + batch_size]) for first in range(0, len(sizes), batch_size))
    return list(accumulate(steps, initial=0))


def make_collator(
    examples: Sequence[Encoded], plan: BatchPlan, pad: int, *, packing: bool, one_row: bool = False
) -> Callable[[Sequence[Mapping[str, int]]], dict[str, torch.Tensor]]:
    """Return the collator, which turns the items of one forward pass into tensors.

    With `one_row` all rows come behind each other in one, as kernels for sequences of different lengths take them.
    """

    def collate(batch: Sequence[Mapping[str, int]]) -> dict[str, torch.Tensor]:
        rows = [row for item in batch for row in plan.rows(item["item"])]
        if one_row:
            rows = [[place for row in rows for place in row]]
        return collate_with_loss_mask([[examples[place] for place in row] for row in rows], pad, packing=packing)

    return collate


def collate_with_loss_mask(rows: Sequence[Sequence[Encoded]], pad: int, *, packing: bool) -> dict[str, Any]:
    """Return input_ids and labels, each of shape (rows, tokens of the longest row).

    The loss mask: labels are -100 everywhere but at the tokens of an answer.

    With `packing`, position_ids that begin again at 0 keep the examples of a row apart, else an attention_mask comes.
    """
    import torch

    width = max(2, *(sum(len(example.input_ids) for example in row) for row in rows))
    ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), _IGNORE_INDEX)
    positions = torch.zeros_like(ids)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        first = 0
        for example in row:
            last = first + len(example.input_ids)
            ids[number, first:last] = torch.tensor(example.input_ids)
            start = first + max(1, example.answer_start)  # the first token is not for the example before to predict
            labels[number, start:last] = ids[number, start:last]
            positions[number, first:last] = torch.arange(last - first)
            first = last
        mask[number, : max(1, first)] = 1
    attention = {"position_ids": positions} if packing else {"attention_mask": mask}
    return {"input_ids": ids, "labels": labels, **attention}


def attention_kernel(model: Any) -> str:
    """Return the name of the implementation of attention that a model uses."""
    return str(getattr(model.config, "_attn_implementation", "eager") or "eager")


def check_isolation(model: Any, examples: Sequence[Encoded], pad: int) -> None:
    """Raise `TrainingError` if an example's logits behind another one in the same row are not its logits alone.

    With positions that begin again at 0 and no attention mask, transformers builds a mask for eager, sdpa and flex
    attention that keeps the examples of a row apart; flash attention takes the same from one row that holds everything.
    A model that carries state from token to token may ignore both, so it is measured on the student itself.
    """
    import torch

    if any(part.is_meta or not part.numel() for part in model.parameters()):
        return  # in shards, whose processes would all have to take part; its kernels are those of a whole model
    before, example = (Encoded(shown.input_ids[:_COMPARED], 0) for shown in (examples[-1], examples[0]))
    device = next(model.parameters()).device  # that of training, or the CPU until a launcher shares the model
    was_training = model.training
    model.eval()
    with torch.no_grad():
        row = {
            name: part.to(device)
            for name, part in collate_with_loss_mask([[before, example]], pad, packing=True).items()
        }
        packed = model(input_ids=row["input_ids"], position_ids=row["position_ids"], use_cache=False).logits
        alone = model(input_ids=torch.tensor([list(example.input_ids)], device=device), use_cache=False).logits
    model.train(was_training)
    off = float((packed[0, len(before.input_ids) :] - alone[0]).norm() / alone.norm())
    if not off <= _OFF:
        raise TrainingError(
            f"training.packing: with {attention_kernel(model)} attention an example of this student sees the one "
            f"before it in its row (its logits are off by {off:.2g} of their size)",
            remedy="Set training.packing = false.",
        )


def highlight_loss_mask(example: Example, tokenizer: Any) -> list[tuple[str, bool]]:
    """Return the pieces of the example as the student reads it, each with whether it carries loss."""
    (encoded,) = tokenize([example], tokenizer)
    if isinstance(encoded, Misfit):
        raise encoded.error
    ids = list(encoded.input_ids)
    whole = tokenizer.decode(ids)
    # a character in the middle of which a token ends belongs to what follows
    prompt = commonprefix([whole, tokenizer.decode(ids[: encoded.answer_start])])  # noqa: RUF071 (by character is meant)
    return [(prompt, False), (whole[len(prompt) :], True)]
