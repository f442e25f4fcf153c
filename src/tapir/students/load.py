"""A checkpoint as a model and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tapir.domain.round import Checkpoint
from tapir.errors import RoleError
from tapir.students.checkpoint import base_of


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How a student is loaded.

    Attributes:
        dtype: "auto" is bfloat16 on an accelerator that computes in it and float32 elsewhere; or "float32",
            "bfloat16", "float16".
        chat_template: Jinja text that takes the place of the tokenizer's own; empty keeps that.
        revision: of a model on a hub; empty means the newest.
    """

    dtype: str = "auto"
    chat_template: str = ""
    revision: str = ""


AS_IT_IS = ModelSettings()


def load(checkpoint: Checkpoint, settings: ModelSettings = AS_IT_IS) -> tuple[Any, Any]:
    """Model and tokenizer of a checkpoint, on the best device there is; an adapter comes with its base.

    Raises:
        RoleError: the folder holds no such model, or its tokenizer has no chat template.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(checkpoint, settings)
    try:
        model = AutoModelForCausalLM.from_pretrained(checkpoint.path)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(checkpoint, error) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device), tokenizer


def load_tokenizer(checkpoint: Checkpoint, settings: ModelSettings = AS_IT_IS) -> Any:
    """The tokenizer of a checkpoint, with a chat template and a padding token.

    Raises:
        RoleError: there is none, or it has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)
    except (OSError, ValueError) as error:
        raise _unusable(checkpoint, error) from error
    if settings.chat_template:
        tokenizer.chat_template = settings.chat_template
    if tokenizer.chat_template is None:
        raise RoleError(
            f"the tokenizer of {checkpoint.path} has no chat template",
            remedy="Use an instruction-tuned student, or set student.chat_template to a template.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _unusable(checkpoint: Checkpoint, error: Exception) -> RoleError:
    base = base_of(checkpoint.path)
    adapter = f" (an adapter of {base})" if base else ""
    return RoleError(
        f"no student can be loaded from {checkpoint.path}{adapter}: {error}",
        remedy="Set student.model to a folder or hub id that transformers can load; a checkpoint of a run that is "
        "damaged can be deleted, `tapir resume` trains it again.",
    )
