"""Whether examples that share a row really do not see each other.

With positions that begin again at 0 and no attention mask, transformers builds a mask for eager, sdpa and flex
attention that keeps the examples of a row apart; flash attention takes the same from one row that holds everything.
A model that carries state from token to token may ignore both, so it is measured on the student itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapir.errors import TrainingError
from tapir.training.batches import tensors
from tapir.training.examples import Encoded

_TOKENS = 64  # of each of the two examples, at most
_ALIKE = 0.05  # relative: rounding in bfloat16 stays far below, a neighbour that is seen far above


def attention(model: Any) -> str:
    """The name of the kernels that the model attends with."""
    return str(getattr(model.config, "_attn_implementation", "eager") or "eager")


def one_row(model: Any) -> bool:
    """Whether everything that a pass reads must lie in one row for the examples to be kept apart."""
    return "flash" in attention(model)


def check_isolation(model: Any, examples: Sequence[Encoded], pad: int, where: Any) -> None:
    """Compare an example's logits behind another one in the same row with its logits alone.

    Raises:
        TrainingError: they differ.
    """
    import torch

    if any(one.is_meta or not one.numel() for one in model.parameters()):
        return  # in shards, whose processes would all have to take part; its kernels are those of a whole model
    before, one = (Encoded(example.input_ids[:_TOKENS], 0) for example in (examples[-1], examples[0]))
    was = model.training
    model.eval()
    with torch.no_grad():
        row = {name: part.to(where) for name, part in tensors([[before, one]], pad, packing=True).items()}
        shared = model(input_ids=row["input_ids"], position_ids=row["position_ids"], use_cache=False).logits
        alone = model(input_ids=torch.tensor([list(one.input_ids)], device=where), use_cache=False).logits
    model.train(was)
    off = float((shared[0, len(before.input_ids) :] - alone[0]).norm() / alone.norm())
    if not off <= _ALIKE:
        raise TrainingError(
            f"training.packing: with {attention(model)} attention an example of this student sees the one before it "
            f"in its row (its logits are off by {off:.2g} of their size)",
            remedy="Set training.packing = false.",
        )
