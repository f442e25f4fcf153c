"""An adapter and its base as one whole model."""

from __future__ import annotations

import shutil
from pathlib import Path

from tapir.domain.round import Checkpoint
from tapir.students.checkpoint import base_of
from tapir.students.load import ModelSettings, load_tokenizer
from tapir.training.memory import given_back
from tapir.training.model import whole_model, with_adapter
from tapir.training.saving import draft_of, lower, publish, writing


def merge(checkpoint: Path, out: Path, settings: ModelSettings) -> None:
    """Write a folder that holds the whole model and its tokenizer; `out` appears only when it is complete.

    The update is added to the base's weights on the CPU, in float32 and then kept in the precision that
    `settings.dtype` names; "auto" is the precision the base is stored in. A checkpoint that is a whole model
    already is copied as it is.

    Raises:
        RoleError: the checkpoint or its base cannot be loaded.
        StoreFull: the disk filled up.
    """
    draft = draft_of(out)
    with writing(out), given_back():
        shutil.rmtree(draft, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        base = base_of(str(checkpoint))
        if base is None:
            shutil.copytree(checkpoint, draft)
        else:
            _write(checkpoint, base, draft, settings)
        publish(draft, out)


def _write(checkpoint: Path, base: str, draft: Path, settings: ModelSettings) -> None:
    import torch

    tokenizer = load_tokenizer(Checkpoint(str(checkpoint), 0), settings)
    model = whole_model(base, settings, dtype="auto" if settings.dtype == "auto" else getattr(torch, settings.dtype))
    kept = model.dtype
    whole = with_adapter(model.float(), str(checkpoint)).merge_and_unload()
    lower(whole, kept)
    whole.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
