"""Checkpoints on disk: those a training goes on from, and the one it leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tapir.store.files import disk_errors, full, write_json
from tapir.training.progress import COMPLETE
from tapir.training.ranks import first

_FULL_SIGNS = ("os error 27", "os error 28", "os error 122", "PytorchStreamWriter", "inline_container")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system, torch and safetensors raise about a disk into our errors.

    Raises:
        StoreFull: no space is left.
        StoreError: the path cannot be written.
    """
    from safetensors import SafetensorError

    with disk_errors(path):
        try:
            yield
        except (RuntimeError, SafetensorError) as error:
            if any(sign in str(error) for sign in _FULL_SIGNS):
                raise full(path) from error
            raise


def step_of(checkpoint: Path | None) -> int:
    """How many steps were done when it was saved."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def last_complete(work: Path) -> Path | None:
    """The newest training checkpoint that was saved to its end; broken ones are removed."""
    found = sorted(work.glob("checkpoint-*"), key=step_of)
    for checkpoint in found:
        if first() and not (checkpoint / COMPLETE).exists():
            shutil.rmtree(checkpoint, ignore_errors=True)
    return next((one for one in reversed(found) if (one / COMPLETE).exists()), None)


def draft_of(out: Path) -> Path:
    """Where a checkpoint is written before it is moved to its place whole."""
    return out.with_name(f".{out.name}.draft")


def lower(model: Any, dtype: Any) -> None:
    """Keep the weights in the precision they are saved in; what the model computes from them stays as it is."""
    for one in model.parameters():
        one.data = one.data.to(dtype)


def save(trainer: Any, tokenizer: Any, draft: Path, dtype: Any) -> None:
    """Write model and tokenizer; every process must come here, the first one writes.

    Args:
        trainer: holds the model, whole or in shards.
        tokenizer: saved beside it, so that the folder is all that is needed.
        draft: replaced if it is there.
        dtype: of the weights of a whole model; None leaves them as they are.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if not first():
        return
    if state is not None and dtype is not None:
        state = {name: one.to(dtype) if one.is_floating_point() else one for name, one in state.items()}
    shutil.rmtree(draft, ignore_errors=True)
    try:
        model.save_pretrained(draft, **({} if state is None else {"state_dict": state}))
        tokenizer.save_pretrained(draft)
        if state is not None and dtype is not None:
            described = json.loads((draft / "config.json").read_text("utf-8"))
            write_json(draft / "config.json", described | {"dtype": str(dtype).removeprefix("torch.")})
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)  # on a full disk its space is needed
        raise


def publish(draft: Path, out: Path) -> None:
    """Move a checkpoint that was written to its end to its place."""
    shutil.rmtree(out, ignore_errors=True)
    draft.replace(out)
