"""Difficulty without a judge: the student's own losses, or nothing but the length of the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from tapir.domain.instruction import Pair
from tapir.domain.judgement import Unscored
from tapir.domain.round import Checkpoint
from tapir.roles import Estimate, Watch
from tapir.students.load import ModelSettings, load

_IGNORED = -100
_BATCH_TOKENS = 8192
_LOGITS = 2**28  # numbers of a batch's logits: a gigabyte


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A pair as token ids: what stands before the answer, and the answer."""

    name: str
    prompt: list[int]
    answer: list[int]


class Ifd:
    """Instruction-following difficulty after Li et al. 2024 ("From Quantity to Quality", NAACL).

    The student's mean loss per token of the teacher's answer, with the instruction before it, divided by the same
    without the instruction. Near 1 the instruction hardly helps: the student does not see how the two belong together.
    Above 1 it does harm, which speaks of a wrong answer (`curriculum.threshold.most = 1` sets those aside).

    Both losses are over all tokens of the answer. Without the instruction it follows the token that begins a text, or,
    where the tokenizer has none, the one that ends the text before.
    """

    name = "ifd"

    def __init__(self, model: ModelSettings) -> None:
        """Take how the student is loaded; nothing is loaded before it is needed."""
        self._settings = model
        self._loaded: tuple[str, Any, Any] | None = None

    def open(self, folder: Path, watch: Watch) -> None:
        """A session begins; nothing is loaded yet."""

    def rest(self) -> None:
        """Drop the model."""
        from accelerate.utils.memory import clear_device_cache

        if self._loaded is not None:
            self._loaded = None
            clear_device_cache(garbage_collection=True)

    def close(self) -> None:
        """As `rest`."""
        self.rest()

    def estimate(
        self, checkpoint: Checkpoint, pairs: Sequence[Pair], tasks: Mapping[str, str]
    ) -> Iterator[tuple[str, Estimate | Unscored]]:
        """The ratio for every pair; an empty answer, or one too long to read, has none."""
        del tasks
        model, tokenizer = self._load(checkpoint)
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        first = [next(one for one in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if one is not None)]
        fit: list[_Tokens] = []
        for one in self._tokens(tokenizer, pairs):
            if not one.answer:
                yield one.name, Unscored("the answer is empty")
            elif limit and len(one.prompt) + len(one.answer) > limit:
                yield one.name, Unscored("too long for the student", f"{len(one.prompt) + len(one.answer)} tokens")
            else:
                fit.append(one)
        given = self._losses(model, tokenizer, [(one.prompt, one.answer) for one in fit])
        alone = self._losses(model, tokenizer, [(first, one.answer) for one in fit])
        for one, with_it, without in zip(fit, given, alone, strict=True):
            losses = f"loss {with_it:.4f} with, {without:.4f} without"
            if not (isfinite(with_it) and isfinite(without)):
                yield one.name, Unscored("the loss is no number", losses)
            elif without > 0:
                yield one.name, Estimate(with_it / without, losses)
            else:
                yield one.name, Unscored("the answer needs no instruction", losses)

    def _load(self, checkpoint: Checkpoint) -> tuple[Any, Any]:
        if self._loaded is None or self._loaded[0] != checkpoint.path:
            self.rest()
            self._loaded = (checkpoint.path, *load(checkpoint, self._settings))
        return self._loaded[1:]

    @staticmethod
    def _tokens(tokenizer: Any, pairs: Sequence[Pair]) -> list[_Tokens]:
        """Prompts as the student is asked, answers without a beginning or end of their own."""
        chats = [[{"role": "user", "content": pair.instruction.text}] for pair in pairs]
        prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=True, return_dict=False)
        answers = tokenizer([pair.response.text for pair in pairs], add_special_tokens=False)["input_ids"]
        return [
            _Tokens(pair.instruction.id, prompt, answer)
            for pair, prompt, answer in zip(pairs, prompts, answers, strict=True)
        ]

    @staticmethod
    def _losses(model: Any, tokenizer: Any, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        """Mean loss per answer token for each (before, answer)."""
        found: dict[int, float] = {}
        room = min(_BATCH_TOKENS, _LOGITS // model.get_input_embeddings().num_embeddings)
        order = sorted(range(len(texts)), key=lambda place: (len(texts[place][0]) + len(texts[place][1]), place))
        while order:
            longest = sum(map(len, texts[order[-1]]))
            rows, order = order[-max(1, room // longest) :], order[: -max(1, room // longest)]
            found |= zip(rows, _batch(model, tokenizer.pad_token_id, [texts[row] for row in rows]), strict=True)
        return [found[place] for place in range(len(texts))]


def _batch(model: Any, pad: int, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
    import torch
    from torch.nn.functional import cross_entropy

    width = max(len(before) + len(answer) for before, answer in texts)
    ids = torch.full((len(texts), width), pad)
    labels = torch.full((len(texts), width), _IGNORED)
    mask = torch.zeros((len(texts), width), dtype=torch.long)
    for row, (before, answer) in enumerate(texts):
        start, end = len(before), len(before) + len(answer)
        ids[row, :end] = torch.tensor([*before, *answer])
        labels[row, start:end] = ids[row, start:end]
        mask[row, :end] = 1
    with torch.inference_mode():
        logits = model(ids.to(model.device), attention_mask=mask.to(model.device)).logits[:, :-1].float()
        wanted = labels[:, 1:].to(model.device)
        losses = cross_entropy(logits.transpose(1, 2), wanted, ignore_index=_IGNORED, reduction="none").sum(dim=1)
        means: list[float] = (losses / (wanted != _IGNORED).sum(dim=1)).tolist()
    return means


class Length:
    """The length of the teacher's answer in characters: the baseline of "Long Is More" (Zhao et al. 2024, ICML)."""

    name = "length"

    def estimate(
        self, checkpoint: Checkpoint, pairs: Sequence[Pair], tasks: Mapping[str, str]
    ) -> Iterator[tuple[str, Estimate | Unscored]]:
        """Longer is harder; the student is not asked.

        Many answers are equally long, and a threshold by quantile or budget never takes a part of equals. So each has a
        fraction of a character more, which is its id's: as good as random, and the same in every run.
        """
        del checkpoint, tasks
        for pair in pairs:
            length = len(pair.response.text)
            fraction = int(pair.instruction.id, 16) / 16 ** len(pair.instruction.id)
            yield pair.instruction.id, Estimate(length + fraction, f"{length} characters")
