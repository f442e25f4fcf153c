"""A checkpoint answering in this process, through transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tapir.config.student import LocalStudentConfig
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.errors import RoleError
from tapir.domain.instruction import Instruction
from tapir.domain.progress import Progress, SilentProgress
from tapir.domain.randomness import seed_for
from tapir.domain.roles import Reply
from tapir.domain.round import Checkpoint
from tapir.models.local.decoding import generate
from tapir.models.local.loading import MODEL_DEFAULTS, LoadedCheckpoint, ModelSettings, end_tokens, position_limit
from tapir.models.local.template import ReplyReader, prompt_tokens, too_long
from tapir.models.memory import OutOfMemory, free_memory

if TYPE_CHECKING:
    from tapir.models.context import BuildContext


class _Prompt(NamedTuple):
    instruction: Instruction
    ids: list[int]  # of the rendered prompt


class LocalStudent(LoadedCheckpoint):
    """Batched generation, sorted by length. Where memory does not suffice, smaller batches are tried."""

    def __init__(self, section: LocalStudentConfig, seed: int, model: ModelSettings = MODEL_DEFAULTS) -> None:
        super().__init__(model)
        self.section = section
        self._seed = seed
        self._progress: Progress = SilentProgress()
        self._batch_tokens = section.batch_tokens  # 0 is no limit

    @classmethod
    def build(cls, section: LocalStudentConfig, context: BuildContext) -> Self:
        """Build the student of a run."""
        return cls(section, context.recipe.seed, ModelSettings.of(section))

    def open(self, folder: Path, progress: Progress) -> None:  # noqa: ARG002 (a resource is given the folder)
        """Begin a session; nothing is loaded yet."""
        self._progress, self._batch_tokens = progress, self.section.batch_tokens

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        """Answer each instruction; shorter prompts come back first.

        The same instructions give the same replies, whatever was asked before, unless memory ran out on the way:
        smaller batches round differently.
        """
        if not instructions:
            return
        model, tokenizer = self.load(checkpoint)
        prompts = []
        encoded = prompt_tokens(tokenizer, [instruction.messages for instruction in instructions])
        for instruction, ids in zip(instructions, encoded, strict=True):
            if isinstance(ids, Failure):
                yield instruction.id, ids
            else:
                prompts.append(_Prompt(instruction, ids))
        pending = sorted(prompts, key=lambda prompt: (len(prompt.ids), prompt.instruction.id))
        limit = position_limit(model.config)
        while pending:
            if limit and len(pending[-1].ids) + self.section.longest > limit:
                prompt = pending.pop()
                yield prompt.instruction.id, too_long(len(prompt.ids), self.section.longest, limit)
                continue
            batch = pending[: self._batch_size(pending)]
            replies = self._answer_batch(model, tokenizer, batch)
            if replies is None:
                self._shrink(batch)
            else:
                pending = pending[len(batch) :]
                yield from replies

    def _batch_size(self, pending: Sequence[_Prompt]) -> int:
        """How many of the shortest prompts make a batch, at least one."""
        size = min(self.section.batch_size, len(pending))
        while size > 1 and self._batch_tokens and self._count_tokens(pending[:size]) > self._batch_tokens:
            size -= 1
        return size

    def _count_tokens(self, batch: Sequence[_Prompt]) -> int:
        return len(batch) * (len(batch[-1].ids) + self.section.longest)

    def _answer_batch(self, model: Any, tokenizer: Any, batch: Sequence[_Prompt]) -> list[Reply] | None:
        """Answer a batch; None where memory ran out, all of it being given back on the way."""
        seed = seed_for(self._seed, *(prompt.instruction.id for prompt in batch))
        longest, temperature = self.section.longest, self.section.temperature
        ids = [prompt.ids for prompt in batch]
        with OutOfMemory():
            answers = generate(model, tokenizer, ids, longest=longest, temperature=temperature, seed=seed)
            ends, reader = end_tokens(tokenizer, model.generation_config), ReplyReader(tokenizer)
            return [
                (prompt.instruction.id, reader.within(_completion(tokens, reader, len(prompt.ids), ends), self.section))
                for prompt, tokens in zip(batch, answers, strict=True)
            ]
        return None

    def _shrink(self, batch: Sequence[_Prompt]) -> None:
        free_memory()
        longest = len(batch[-1].ids)
        if len(batch) == 1:
            raise RoleError(
                f"out of memory with a single prompt of {longest} tokens and student.max_new_tokens = "
                f"{self.section.max_new_tokens}",
                remedy="Free the device, lower student.max_new_tokens, or choose a smaller student.model.",
            )
        if self._batch_tokens == self.section.batch_tokens:
            self._progress.note(
                f"out of memory with {len(batch)} prompts of up to {longest} tokens: the student answers "
                "in smaller batches from here on (student.batch_size and student.batch_tokens set their size)"
            )
        self._batch_tokens = self._count_tokens(batch) // 2


def _completion(tokens: Sequence[int], reader: ReplyReader, prompt_tokens: int, ends: frozenset[int]) -> Completion:
    stopped = bool(tokens) and tokens[-1] in ends
    written = tokens[:-1] if stopped else tokens
    text, thought = reader.read(written)
    return Completion(text, "stop" if stopped else "length", Usage(prompt_tokens, len(written)), "student", thought)
