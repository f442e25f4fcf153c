"""Whether what was saved is what was trained: the same logits from the folder as from memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tapir.errors import TrainingError
from tapir.training.examples import Encoded

if TYPE_CHECKING:
    import torch

Logits: TypeAlias = "list[torch.Tensor]"
"""For each probe, on the CPU: (tokens, vocabulary)."""

_PROBES = 3
_TOKENS = 128  # of each probe, at most
_TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}  # relative; a lost tensor is off by far more


def probes(examples: Sequence[Encoded]) -> list[list[int]]:
    """Token ids of a few examples."""
    return [list(one.input_ids[:_TOKENS]) for one in examples[:_PROBES]]


def logits(model: Any, ids: Sequence[Sequence[int]], where: Any) -> Logits:
    """What the model says after every token of every probe."""
    import torch

    was = model.training
    model.eval()
    with torch.no_grad():
        found = [model(input_ids=torch.tensor([one], device=where)).logits[0].float().cpu() for one in ids]
    model.train(was)
    return found


def reload(draft: Path, where: Any, **how: Any) -> Any:
    """The saved checkpoint, loaded the way anybody would.

    Raises:
        TrainingError: it cannot be loaded, or a weight is missing.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.integrations import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # or it would be loaded in shards, for which the other processes are not here
    try:
        model, info = AutoModelForCausalLM.from_pretrained(draft, output_loading_info=True, **how)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _differs(draft, f"it cannot be loaded: {error}") from error
    lost = sorted(info["missing_keys"])
    if lost:
        raise _differs(draft, f"it lacks {', '.join(lost[:3])}{' and more' * (len(lost) > 3)}")  # noqa: PLR2004
    return model.to(where) if "quantization_config" not in how else model


def compare(draft: Path, trained: Logits, saved: Logits, precision: str) -> None:
    """Raise `TrainingError` if the logits differ by more than rounding to this precision explains."""
    for one, other in zip(trained, saved, strict=True):
        off = float((one - other).norm() / one.norm().clamp(min=1e-12))
        if not off <= _TOLERANCE[precision]:
            raise _differs(draft, f"its logits are off by {off:.2g} of their size ({precision})")


def _differs(draft: Path, how: str) -> TrainingError:
    return TrainingError(
        f"the checkpoint saved in {draft.parent} is not the model that was trained: {how}",
        remedy="Run `tapir resume` to save it again; if it happens again, report it with the student's name.",
    )
