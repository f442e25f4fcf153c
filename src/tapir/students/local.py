"""A checkpoint answering in this process, through transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tapir.domain.completion import Completion, Usage
from tapir.domain.instruction import Instruction
from tapir.domain.randomness import seed_for
from tapir.domain.round import Checkpoint
from tapir.roles import Reply
from tapir.students.load import load

if TYPE_CHECKING:
    import torch


class LocalStudent:
    """Batched generation, sorted by length; greedy at temperature 0, else sampled from a fixed seed."""

    def __init__(self, *, max_new_tokens: int, batch_size: int, temperature: float, seed: int) -> None:
        """Take the sampling settings; a checkpoint is loaded when it is first asked."""
        self._max_new_tokens = max_new_tokens
        self._batch_size = batch_size
        self._temperature = temperature
        self._seed = seed
        self._loaded: tuple[str, Any, Any] | None = None

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        """One completion for each instruction; shorter prompts come back first."""
        model, tokenizer = self._load(checkpoint)
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": one.text}], add_generation_prompt=True, tokenize=True, return_dict=False
            )
            for one in instructions
        ]
        order = sorted(range(len(prompts)), key=lambda place: (len(prompts[place]), instructions[place].id))
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            yield from self._generate(
                model, tokenizer, [instructions[place] for place in batch], [prompts[place] for place in batch]
            )

    def _load(self, checkpoint: Checkpoint) -> tuple[Any, Any]:
        if self._loaded is None or self._loaded[0] != checkpoint.path:
            model, tokenizer = load(checkpoint)
            self._loaded = (checkpoint.path, model.eval(), tokenizer)
        return self._loaded[1:]

    def _generate(
        self, model: Any, tokenizer: Any, instructions: Sequence[Instruction], prompts: Sequence[list[int]]
    ) -> Iterator[Reply]:
        import torch

        width = max(map(len, prompts))
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]).to(model.device)
        if self._temperature:
            torch.manual_seed(seed_for(self._seed, *(one.id for one in instructions)))
        sampling = {"do_sample": True, "temperature": self._temperature} if self._temperature else {"do_sample": False}
        with torch.inference_mode():
            written = model.generate(
                ids, attention_mask=mask, max_new_tokens=self._max_new_tokens, pad_token_id=pad, **sampling
            )[:, width:]
        for one, prompt, row in zip(instructions, prompts, written, strict=True):
            yield one.id, _completion(row, tokenizer, len(prompt))


def _completion(row: torch.Tensor, tokenizer: Any, prompt_tokens: int) -> Completion:
    tokens = row.tolist()
    stopped = tokenizer.eos_token_id in tokens
    if stopped:
        tokens = tokens[: tokens.index(tokenizer.eos_token_id)]
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    usage = Usage(prompt_tokens, len(tokens))
    return Completion(text, "stop" if stopped else "length", usage, model="student")
