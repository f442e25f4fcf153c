"""A checkpoint answering in this process, through transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.instruction import Instruction
from tapir.domain.randomness import seed_for
from tapir.domain.round import Checkpoint
from tapir.errors import RoleError
from tapir.roles import Reply, Watch
from tapir.students.decoding import answers, endings
from tapir.students.load import AS_IT_IS, ModelSettings, load


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """How the student answers.

    Attributes:
        max_new_tokens: longest answer.
        batch_size: most prompts at once.
        batch_tokens: most tokens at once, prompts and longest answers together; 0 is no limit.
        temperature: 0 is greedy.
        seed: of the run; with the instructions of a batch it seeds the replies that are sampled.
    """

    max_new_tokens: int
    batch_size: int
    batch_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """An instruction and the token ids of its prompt."""

    instruction: Instruction
    prompt: list[int]


class LocalStudent:
    """Batched generation, sorted by length. Where memory does not suffice, smaller batches are tried."""

    def __init__(self, settings: AnswerSettings, model: ModelSettings = AS_IT_IS) -> None:
        """Take the settings; a checkpoint is loaded when it is first asked."""
        self.settings = settings
        self.model = model
        self._watch: Watch | None = None
        self._loaded: tuple[str, Any, Any] | None = None
        self._room = settings.batch_tokens

    def open(self, folder: Path, watch: Watch) -> None:  # noqa: ARG002 (a resource is told the folder)
        """A session begins; nothing is loaded yet."""
        self._watch, self._room = watch, self.settings.batch_tokens

    def rest(self) -> None:
        """Drop the model and hand the accelerator's memory back."""
        if self._loaded is not None:
            self._loaded = None
            _give_back()

    def close(self) -> None:
        """As `rest`; and nobody watches any more."""
        self._watch = None
        self.rest()

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        """One reply for each instruction; shorter prompts come back first.

        The same instructions give the same replies, whatever was asked before, unless memory ran out on the way:
        smaller batches round differently.

        Raises:
            RoleError: no student can be loaded, or not even one prompt fits the memory.
        """
        if not instructions:
            return
        model, tokenizer = self._load(checkpoint)
        waiting = self._prompts(tokenizer, instructions)
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        while waiting:
            if limit and len(waiting[-1].prompt) + self.settings.max_new_tokens > limit:
                yield self._too_long(waiting.pop(), limit)
                continue
            batch = waiting[: self._rows(waiting)]
            replies = self._answered(model, tokenizer, batch)
            if replies is None:
                self._shrink(batch)
            else:
                waiting = waiting[len(batch) :]
                yield from replies

    def _load(self, checkpoint: Checkpoint) -> tuple[Any, Any]:
        if self._loaded is None or self._loaded[0] != checkpoint.path:
            self.rest()  # two models might not fit
            self._loaded = (checkpoint.path, *load(checkpoint, self.model))
        return self._loaded[1:]

    def _chat(self, one: Instruction) -> list[dict[str, str]]:
        """What stands before the answer."""
        return [{"role": "user", "content": one.text}]

    def _prompts(self, tokenizer: Any, instructions: Sequence[Instruction]) -> list[_Asked]:
        """The shortest first."""
        chats = [self._chat(one) for one in instructions]
        prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=True, return_dict=False)
        asked = [_Asked(one, prompt) for one, prompt in zip(instructions, prompts, strict=True)]
        return sorted(asked, key=lambda one: (len(one.prompt), one.instruction.id))

    def _rows(self, waiting: Sequence[_Asked]) -> int:
        """How many of the shortest prompts make a batch, at least one."""
        rows = min(self.settings.batch_size, len(waiting))
        while rows > 1 and self._room and self._tokens(waiting[:rows]) > self._room:
            rows -= 1
        return rows

    def _tokens(self, batch: Sequence[_Asked]) -> int:
        return len(batch) * (len(batch[-1].prompt) + self.settings.max_new_tokens)

    def _answered(self, model: Any, tokenizer: Any, batch: Sequence[_Asked]) -> list[Reply] | None:
        """The replies to a batch; None where memory ran out, all of it being given back on the way."""
        import torch
        from accelerate.utils.memory import should_reduce_batch_size

        seed = seed_for(self.settings.seed, *(one.instruction.id for one in batch))
        prompts = [one.prompt for one in batch]
        longest, temperature = self.settings.max_new_tokens, self.settings.temperature
        try:
            written = answers(model, tokenizer, prompts, longest=longest, temperature=temperature, seed=seed)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error):
                return None
            raise
        ends = endings(model, tokenizer)
        return [
            (one.instruction.id, _completion(tokens, tokenizer, len(one.prompt), ends))
            for one, tokens in zip(batch, written, strict=True)
        ]

    def _shrink(self, batch: Sequence[_Asked]) -> None:
        """Half as many tokens from here on."""
        _give_back()
        if len(batch) == 1:
            raise RoleError(
                f"out of memory with a single prompt of {len(batch[0].prompt)} tokens and student.max_new_tokens = "
                f"{self.settings.max_new_tokens}",
                remedy="Free the device, lower student.max_new_tokens, or choose a smaller student.model.",
            )
        if self._watch and self._room == self.settings.batch_tokens:
            self._watch.note(
                f"out of memory with {len(batch)} prompts of up to {len(batch[-1].prompt)} tokens: the student answers "
                "in smaller batches from here on (student.batch_size and student.batch_tokens set their size)"
            )
        self._room = self._tokens(batch) // 2

    def _too_long(self, one: _Asked, limit: int) -> Reply:
        return one.instruction.id, Failure(
            "too long",
            f"the prompt has {len(one.prompt)} tokens; with student.max_new_tokens = {self.settings.max_new_tokens} "
            f"that is more than the {limit} the student can read",
        )


def _give_back() -> None:
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)


def _completion(tokens: Sequence[int], tokenizer: Any, prompt_tokens: int, ends: frozenset[int]) -> Completion:
    stopped = bool(tokens) and tokens[-1] in ends
    said = tokens[:-1] if stopped else tokens
    text = tokenizer.decode(said, skip_special_tokens=True)
    return Completion(text, "stop" if stopped else "length", Usage(prompt_tokens, len(said)), model="student")
