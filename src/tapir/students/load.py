"""A checkpoint as a model and its tokenizer."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tapir.domain.round import Checkpoint
from tapir.errors import RoleError
from tapir.students.checkpoint import base_of
from tapir.students.hub import located

if TYPE_CHECKING:
    import torch

_QUESTION, _ANSWER = "How many legs have 3 cats?", "They have 12 legs."


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How a student is loaded.

    Attributes:
        dtype: "auto" is bfloat16 on a CUDA device that computes in it, float16 on any other accelerator and float32
            on the CPU; or "float32", "bfloat16", "float16".
        chat_template: Jinja text that takes the place of the tokenizer's own; empty keeps that.
        revision: of a model on a hub; empty means the newest.
    """

    dtype: str = "auto"
    chat_template: str = ""
    revision: str = ""


AS_IT_IS = ModelSettings()


def device() -> str:
    """The best device there is: "cuda", "mps" or "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load(checkpoint: Checkpoint, settings: ModelSettings = AS_IT_IS) -> tuple[Any, Any]:
    """Model and tokenizer of a checkpoint, ready to answer, on the best device there is.

    An adapter is merged into its base, in memory: one model of the base's size, as fast as the base.

    Raises:
        RoleError: there is no such model, it lacks weights or does not fit the memory, or what `load_tokenizer` raises.
    """
    tokenizer = load_tokenizer(checkpoint, settings)
    return _model(checkpoint.path, settings).eval(), tokenizer


def load_tokenizer(checkpoint: Checkpoint, settings: ModelSettings = AS_IT_IS) -> Any:
    """The tokenizer of a checkpoint, with a padding token and a chat template that was tried.

    Raises:
        RoleError: there is none, it has no token to pad with, or its chat template is missing or does not work.
    """
    from transformers import AutoTokenizer

    path = located(checkpoint.path, settings.revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=settings.revision or "main")
    except (OSError, ValueError) as error:
        raise _unusable(checkpoint.path, error) from error
    if settings.chat_template:
        tokenizer.chat_template = settings.chat_template
    _check_template(tokenizer, checkpoint.path)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise RoleError(
                f"the tokenizer of {checkpoint.path} has neither a padding token nor an end token",
                remedy='Name the token that ends an answer in its tokenizer_config.json, e.g. "eos_token": "</s>".',
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _model(path: str, settings: ModelSettings) -> Any:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    path = located(path, settings.revision)
    if base := base_of(path):
        return _merged(_model(base, settings), path)
    place = device()
    disable_progress_bar()  # the run has a progress display of its own
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            path,
            revision=settings.revision or "main",
            dtype=_dtype(place, settings.dtype),
            device_map=place,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(path, error) from error
    except torch.OutOfMemoryError as error:
        raise RoleError(
            f"{path} does not fit the memory of the device ({place}): {error}",
            remedy="Free the device, set student.dtype to bfloat16 or float16, or choose a smaller student.model.",
        ) from error
    if told["missing_keys"]:
        raise _unusable(path, ValueError(f"it lacks the weights {', '.join(sorted(told['missing_keys']))}"))
    return model


def _dtype(place: str, name: str) -> torch.dtype:
    import torch

    if name == "auto" and place != "cpu":
        bfloat = place == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if bfloat else torch.float16
    found: torch.dtype = torch.float32 if name == "auto" else getattr(torch, name)
    return found


def _merged(model: Any, path: str) -> Any:
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():  # peft asks transformers for something by its former name
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            return PeftModel.from_pretrained(model, path).merge_and_unload()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unusable(path, error) from error


def _check_template(tokenizer: Any, path: str) -> None:
    """See that both sides of a conversation come through the chat template."""
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise RoleError(
            f"the tokenizer of {path} has no chat template: it belongs to a base model",
            remedy='Set student.chat_template to "alpaca" or to a file with a Jinja template, or use an '
            "instruction-tuned student.",
        )
    chat = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    try:
        asked = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, tokenize=False)
        answered = tokenizer.apply_chat_template(chat, tokenize=False)
    except TemplateError as error:
        raise _wrong_template(path, f"cannot be used: {error}") from error
    if _QUESTION not in asked:
        raise _wrong_template(path, f"drops the instruction: {_QUESTION!r} becomes {asked!r}")
    if _ANSWER not in answered:
        raise _wrong_template(path, f"drops the answer: {_ANSWER!r} becomes {answered!r}")


def _wrong_template(path: str, what: str) -> RoleError:
    return RoleError(
        f"the chat template of {path} {what}",
        remedy='Set student.chat_template to "alpaca" or to a file with a Jinja template that writes `messages`.',
    )


def _unusable(path: str, error: Exception) -> RoleError:
    base = base_of(path)
    adapter = f" (an adapter of {base})" if base else ""
    return RoleError(
        f"no student can be loaded from {path}{adapter}: {error}",
        remedy="Set student.model to a folder or hub id that transformers can load; a checkpoint of a run that is "
        "damaged can be deleted, `tapir resume` trains it again.",
    )
