"""Token after token for a batch of prompts, of which each leaves when its answer has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ENDED = 8  # a batch is cut down once one row in so many has ended: that copies the keys and values of the others
_LOOK = {"cpu": 1}  # steps between two looks at which rows have ended
_LOOK_AFAR = 8  # the same on an accelerator, which has to be waited for


def endings(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that end an answer: the tokenizer's, and all that the model's folder names."""
    named = model.generation_config.eos_token_id
    several = named if isinstance(named, list) else [named]
    return frozenset(int(end) for end in [tokenizer.eos_token_id, *several] if end is not None)


def answers(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], *, longest: int, temperature: float, seed: int
) -> list[list[int]]:
    """The tokens that follow each prompt, its end token included where it came to one.

    Args:
        model: on its device.
        tokenizer: with a padding token.
        prompts: token ids.
        longest: tokens of an answer.
        temperature: 0 is greedy; the model's own settings (top-p, repetition penalty) hold beside it.
        seed: of sampling.
    """
    import torch

    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(one)) + list(one) for one in prompts])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
    ends = endings(model, tokenizer)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    with torch.inference_mode():
        written = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=longest,
            eos_token_id=sorted(ends) or None,
            pad_token_id=pad,
            num_beams=1,
            use_cache=True,  # a model that was trained with gradient checkpointing says no
            custom_generate=_until_each_ends,
            dice=torch.Generator(model.device).manual_seed(seed),
            **sampling,
        )
    rows: list[list[int]] = written[:, width:].tolist()
    return [row[: next((place + 1 for place, one in enumerate(row) if one in ends), longest)] for row in rows]


def _until_each_ends(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    dice: torch.Generator | None = None,
    **inputs: Any,
) -> torch.Tensor:
    """In place of the loop of `generate`, which computes every row until the slowest has ended.

    Returns:
        Prompts and answers, (prompts, tokens); what follows the end of an answer is padding.
    """
    import torch

    rows, width = input_ids.shape
    written = input_ids.new_full((rows, stopping_criteria.max_length), generation_config.pad_token_id)
    written[:, :width] = input_ids
    places = torch.arange(rows, device=input_ids.device)  # of the rows that are still computed
    ended = torch.zeros(rows, dtype=torch.bool, device=input_ids.device)
    look = _LOOK.get(input_ids.device.type, _LOOK_AFAR)
    for length in range(width, written.shape[1]):
        first = length == width
        step = model.prepare_inputs_for_generation(
            written[places, :length],
            next_sequence_length=None if first else 1,
            is_first_iteration=first,
            **inputs,
        )
        output = model(**step, return_dict=True)
        inputs = model._update_model_kwargs_for_generation(output, inputs)  # noqa: SLF001 (what such loops use)
        scores = output.logits[:, -1].float()
        if logits_processor:  # some remember the rows they began with
            whole = scores.new_zeros(rows, scores.shape[1])
            whole[places] = scores
            scores = logits_processor(written[:, :length], whole)[places]
        tokens = _chosen(scores, dice if generation_config.do_sample else None)
        written[places, length] = tokens.masked_fill(ended[places], generation_config.pad_token_id)
        ended |= stopping_criteria(written[:, : length + 1], None)
        if (length - width) % look == 0:
            kept = (~ended[places]).nonzero()[:, 0]
            if not len(kept):
                break
            if len(places) - len(kept) >= max(1, len(places) // _ENDED):
                inputs, places = _only(inputs, kept), places[kept]
    return written


def _chosen(scores: torch.Tensor, dice: torch.Generator | None) -> torch.Tensor:
    import torch

    if dice is None:
        return scores.argmax(dim=-1)
    return torch.multinomial(scores.softmax(dim=-1), 1, generator=dice)[:, 0]


def _only(inputs: dict[str, Any], kept: torch.Tensor) -> dict[str, Any]:
    """The inputs of the next step for some of the rows."""
    for one in inputs.values():
        if hasattr(one, "reorder_cache"):
            one.reorder_cache(kept)
    return {name: one[kept] if hasattr(one, "new_full") else one for name, one in inputs.items()}
