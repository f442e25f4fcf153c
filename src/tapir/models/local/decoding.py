"""Batched decoding from which each row leaves when its answer has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tapir.domain.errors import RoleError
from tapir.models.local.loading import end_tokens

if TYPE_CHECKING:
    import torch

_SHRINK_AT = 8  # a batch is cut down once one row in so many has ended: that copies the keys and values of the others
_CHECK_EVERY = {"cpu": 1}  # steps between two checks which rows have ended
_CHECK_EVERY_ON_ACCELERATOR = 8  # the same on an accelerator, which has to be waited for


def generate(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], *, longest: int, temperature: float, seed: int
) -> list[list[int]]:
    """Return the tokens that follow each prompt, its end token included where it came to one.

    The model is on its device, the tokenizer has a padding token. `longest` is in tokens of an answer; temperature 0 is
    greedy; the model's own settings (top-p, repetition penalty) hold too.
    """
    import torch

    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    ends = end_tokens(tokenizer, model.generation_config)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    with torch.inference_mode():
        output = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=longest,
            eos_token_id=sorted(ends) or None,
            pad_token_id=pad,
            num_beams=1,
            use_cache=True,  # a model that was trained with gradient checkpointing says no
            custom_generate=_decode,
            rng=torch.Generator(model.device).manual_seed(seed),
            **sampling,
        )
    rows: list[list[int]] = output[:, width:].tolist()
    return [row[: next((place + 1 for place, token in enumerate(row) if token in ends), longest)] for row in rows]


def _decode(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    rng: torch.Generator | None = None,
    **inputs: Any,
) -> torch.Tensor:
    """Decode in place of the loop of `generate`, which computes every row until the slowest has ended.

    What is returned has the shape (prompts, tokens); what follows the end of an answer is padding.
    """
    import torch

    rows, width = input_ids.shape
    output_ids = input_ids.new_full((rows, stopping_criteria.max_length), generation_config.pad_token_id)
    output_ids[:, :width] = input_ids
    places = torch.arange(rows, device=input_ids.device)  # of the rows that are still computed
    ended = torch.zeros(rows, dtype=torch.bool, device=input_ids.device)
    interval = _CHECK_EVERY.get(input_ids.device.type, _CHECK_EVERY_ON_ACCELERATOR)
    for length in range(width, output_ids.shape[1]):
        first = length == width
        step = model.prepare_inputs_for_generation(
            output_ids[places, :length],
            next_sequence_length=None if first else 1,
            is_first_iteration=first,
            **inputs,
        )
        step_output = model(**step, return_dict=True)
        inputs = model._update_model_kwargs_for_generation(step_output, inputs)  # noqa: SLF001 (what such loops use)
        scores = step_output.logits[:, -1].float()
        if first and scores.isnan().any():
            raise RoleError(
                f"the student's logits are not numbers ({model.dtype})",
                remedy='Set student.dtype = "float32"; if that does not help, its weights are broken.',
            )
        if logits_processor:  # some remember the rows they began with
            all_scores = scores.new_zeros(rows, scores.shape[1])
            all_scores[places] = scores
            scores = logits_processor(output_ids[:, :length], all_scores)[places]
        tokens = scores.argmax(dim=-1)
        if generation_config.do_sample:
            tokens = torch.multinomial(scores.softmax(dim=-1), 1, generator=rng)[:, 0]
        output_ids[places, length] = tokens.masked_fill(ended[places], generation_config.pad_token_id)
        ended |= stopping_criteria(output_ids[:, : length + 1], None)
        if (length - width) % interval == 0:
            alive = (~ended[places]).nonzero()[:, 0]
            if not len(alive):
                break
            if len(places) - len(alive) >= max(1, len(places) // _SHRINK_AT):
                inputs, places = _select_rows(inputs, alive), places[alive]
    return output_ids


def _select_rows(inputs: dict[str, Any], alive: torch.Tensor) -> dict[str, Any]:
    for value in inputs.values():
        if hasattr(value, "reorder_cache"):
            value.reorder_cache(alive)
    return {name: value[alive] if hasattr(value, "new_full") else value for name, value in inputs.items()}
