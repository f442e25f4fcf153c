"""An encoder with a classification head: texts in, a row of logits for each out, and what they say."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tapir.domain.task import TaskTag
from tapir.errors import RoleError
from tapir.tagging.measure import log_softmax, temperature

if TYPE_CHECKING:
    import torch

_MULTIPLE = 8  # widths that an accelerator multiplies fast


class Classifier:
    """A model with its tokenizer, on the accelerator while it works.

    Attributes:
        labels: what each column of its logits stands for.
        temperature: what its logits are divided by.
    """

    def __init__(self, model: Any, tokenizer: Any, labels: Sequence[str], *, max_length: int, batch_size: int) -> None:
        """Take a model as it was loaded, what it says, the tokens read of a text, and the texts read at once.

        Raises:
            RoleError: the model cannot read `max_length` tokens.
        """
        check_length(model, tokenizer, max_length)
        self.labels = labels
        self.temperature = 1.0
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._batch_size = batch_size
        self._halved = False

    def logits(self, texts: Sequence[str], note: Callable[[str], None]) -> NDArray[np.float64]:
        """One row for each text, in their order; the same texts give the same bits again.

        Args:
            texts: read in batches of similar length; tokens beyond `max_length` are not read.
            note: told when memory does not suffice and smaller batches are tried, which happens once.

        Returns:
            Shape (texts, labels).

        Raises:
            RoleError: memory does not suffice for the smaller batches either.
        """
        if not texts:
            return np.empty((0, len(self.labels)))
        tokens = encoded(self._tokenizer, texts, self._max_length)
        order = sorted(range(len(tokens)), key=lambda place: (len(tokens[place]), place))
        found = self._read([tokens[place] for place in order])
        if found is None and not self._halved and self._batch_size > 1:
            self._batch_size, self._halved = (self._batch_size + 1) // 2, True
            note(f"out of memory while tagging: from now on {self._batch_size} instructions at once")
            found = self._read([tokens[place] for place in order])
        if found is None:
            raise no_memory(self._batch_size)
        rows = np.empty(found.shape)
        rows[order] = found
        return rows

    def guesses(self, logits: NDArray[np.float64]) -> list[TaskTag]:
        """The most probable label of each row with its probability, which is NaN where a logit is."""
        with np.errstate(invalid="ignore"):
            chances = log_softmax(logits / self.temperature)
            best = chances.argmax(axis=1)
            sure = np.minimum(np.exp(chances[np.arange(len(best)), best]), 1.0)
        return [TaskTag(self.labels[place], float(share)) for place, share in zip(best, sure, strict=True)]

    def calibrate(self, logits: NDArray[np.float64], truth: Sequence[str]) -> None:
        """Find the temperature from labelled rows that were not learnt from."""
        number_of = {label: number for number, label in enumerate(self.labels)}
        self.temperature = temperature(logits, [number_of[label] for label in truth])

    def rest(self) -> None:
        """Leave the accelerator; the next text brings the model back."""
        self._model.to("cpu")
        free()

    def _read(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32] | None:
        """Rows in the order of `tokens`; None where memory does not suffice."""
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        found = []
        try:
            self._model.to(device)
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=in_bf16()):
                for start in range(0, len(tokens), self._batch_size):
                    batch = padded(tokens[start : start + self._batch_size], self._tokenizer.pad_token_id)
                    found.append(self._model(**{name: one.to(device) for name, one in batch.items()}).logits)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        else:
            rows: NDArray[np.float32] = torch.cat(found).float().cpu().numpy()
            return rows
        found.clear()
        free()
        return None


def encoded(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Token numbers of each text, with the model's own marks at both ends, at most `max_length`."""
    found: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    return found


def padded(tokens: Sequence[Sequence[int]], pad: int) -> dict[str, torch.Tensor]:
    """Token numbers as one batch: `input_ids` and `attention_mask`, both of shape (texts, longest)."""
    import torch

    width = max(map(len, tokens))
    if torch.cuda.is_available():
        width = -(-width // _MULTIPLE) * _MULTIPLE
    ids = np.full((len(tokens), width), pad, dtype=np.int64)
    mask = np.zeros((len(tokens), width), dtype=np.int64)
    for row, one in enumerate(tokens):
        ids[row, : len(one)] = one
        mask[row, : len(one)] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def check_length(model: Any, tokenizer: Any, max_length: int) -> None:
    """See that a model can read so many tokens.

    Raises:
        RoleError: it cannot.
    """
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or max_length)
    if max_length > longest:
        raise RoleError(
            f"tagger.max_length = {max_length}, but {model.name_or_path} reads {longest} tokens at most",
            remedy=f"Set tagger.max_length to {longest} or less.",
        )


def in_bf16() -> bool:
    """Whether there is an accelerator that computes in bfloat16."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, of the accelerator or of the machine."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def no_memory(batch_size: int) -> RoleError:
    """The error where smaller batches do not fit either."""
    return RoleError(
        f"the tagger runs out of memory with {batch_size} instructions at once",
        remedy="Lower tagger.batch_size or tagger.max_length, or choose a smaller tagger.model.",
    )


def free() -> None:
    """Give memory that nothing refers to back to the accelerator."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
