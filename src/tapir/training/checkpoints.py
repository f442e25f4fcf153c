"""Checkpoints: those that a training resumes from, and the final one, verified against the model in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tapir.data.files import sync, write_json
from tapir.domain.errors import TrainingError
from tapir.training.distributed import is_main_process

if TYPE_CHECKING:
    import torch

Logits: TypeAlias = "list[torch.Tensor]"
"""For each probe, on the CPU: (tokens, vocabulary)."""

_COMPLETE = "complete"  # the file that marks a training checkpoint that was saved to its end
_TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}  # relative; a lost tensor is off by far more


def mark_complete(work: Path, step: int) -> None:
    """Mark the training checkpoint of a step as saved to its end."""
    sync(checkpoint := work / f"checkpoint-{step}")
    (checkpoint / _COMPLETE).touch()


def checkpoint_step(checkpoint: Path | None) -> int:
    """Return how many steps were done when it was saved."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def last_checkpoint(work: Path) -> Path | None:
    """Return the newest training checkpoint that was saved to its end; remove broken ones."""
    checkpoints = sorted(work.glob("checkpoint-*"), key=checkpoint_step)
    for checkpoint in checkpoints:
        if is_main_process() and not (checkpoint / _COMPLETE).exists():
            shutil.rmtree(checkpoint, ignore_errors=True)
    return next((path for path in reversed(checkpoints) if (path / _COMPLETE).exists()), None)


def find_damage(checkpoint: Path) -> str:
    """Return which file of a training checkpoint cannot be read, and why; "" where all can be."""
    import torch
    from safetensors import safe_open

    for path in sorted(checkpoint.rglob("*")):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
            elif path.suffix == ".json":
                json.loads(path.read_text("utf-8"))
            elif path.suffix in {".pt", ".pth"}:
                torch.load(path, "cpu", weights_only=False, mmap=True)
        except Exception as error:  # noqa: BLE001 (a damaged file raises almost anything)
            return f"{path.relative_to(checkpoint)}: {error!r}"
    return ""


def cast_weights(model: Any, dtype: Any) -> None:
    """Convert the weights to the precision they are saved in; buffers stay as they are."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def save(trainer: Any, tokenizer: Any, draft: Path, dtype: Any, probes: Sequence[Sequence[int]]) -> Logits:
    """Write model and tokenizer; return the logits of the model in memory, in the precision it is saved in.

    Every process must call it, the first one writes. The trainer holds the model, whole or in shards. `dtype` is that
    of a whole model's weights; None leaves them.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if dtype is not None and not sharded:
        cast_weights(trainer.model, dtype)
    probes = probes if sharded or is_main_process() else []  # a sharded model needs all of its processes
    trained = logits(trainer.model_wrapped if sharded else trainer.model, probes, trainer.args.device)
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if not is_main_process():
        return trained
    if state is not None and dtype is not None:
        state = {name: part.to(dtype) if part.is_floating_point() else part for name, part in state.items()}
    model.save_pretrained(draft, **({} if state is None else {"state_dict": state}))
    tokenizer.save_pretrained(draft)
    if state is not None and dtype is not None:
        config = json.loads((draft / "config.json").read_text("utf-8"))
        write_json(draft / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")})
    return trained


def logits(model: Any, ids: Sequence[Sequence[int]], device: Any) -> Logits:
    """Return the model's logits after every token of every probe."""
    import torch

    was_training = model.training
    model.eval()
    with torch.no_grad():
        result = [model(input_ids=torch.tensor([probe], device=device)).logits[0].float().cpu() for probe in ids]
    model.train(was_training)
    return result


def reload(draft: Path, device: Any, **arguments: Any) -> Any:
    """Load the saved checkpoint the way anybody would; raise `TrainingError` if it cannot be, or lacks a weight."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.integrations import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # or it would be loaded in shards, for which the other processes are not here
    try:
        model, info = AutoModelForCausalLM.from_pretrained(draft, output_loading_info=True, **arguments)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _mismatch(draft, f"it cannot be loaded: {error}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise _mismatch(draft, f"it lacks {', '.join(missing[:3])}{' and more' * (len(missing) > 3)}")  # noqa: PLR2004
    return model.to(device) if "quantization_config" not in arguments else model


def compare_logits(draft: Path, trained: Logits, saved: Logits, precision: str) -> None:
    """Raise `TrainingError` if the logits differ by more than rounding to this precision explains."""
    for expected, actual in zip(trained, saved, strict=True):
        off = float((expected - actual).norm() / expected.norm().clamp(min=1e-12))
        if not off <= _TOLERANCE[precision]:
            raise _mismatch(draft, f"its logits are off by {off:.2g} of their size ({precision})")


def _mismatch(draft: Path, problem: str) -> TrainingError:
    return TrainingError(
        f"the checkpoint saved in {draft.parent} is not the model that was trained: {problem}",
        remedy="Run `tapir resume` to save it again; if it happens again, report it with the student's name.",
    )
