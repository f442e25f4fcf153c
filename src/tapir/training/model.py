"""A checkpoint opened for training: which weights are trained, and in which precision.

Full fine-tuning keeps its weights in float32 and computes in the training's precision. An adapter is trained in
float32 on a base that stays as it is in that precision, or (by TRL's choice) in bfloat16 on a base in 4 bits. A base
that is itself an adapter goes on being trained, with the settings it was made with; full fine-tuning merges it into
its model first.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapir.domain.round import Checkpoint
from tapir.errors import RoleError, TrainingError
from tapir.students.checkpoint import base_of
from tapir.students.hub import located
from tapir.students.load import ModelSettings
from tapir.training.memory import ran_out
from tapir.training.ranks import local
from tapir.training.settings import LoraSettings, Precision, SftSettings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Device:
    """Where training computes ("cuda" or "cpu"), and in what: float32, bfloat16 or float16."""

    kind: str
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch has it."""
        import torch

        found: torch.dtype = getattr(torch, self.precision)
        return found


def device(precision: Precision) -> Device:
    """The best device there is; auto is bfloat16 where it computes in it, else float32.

    Raises:
        TrainingError: it does not compute in that precision.
    """
    import torch

    if not torch.cuda.is_available():
        if precision == "float16":
            raise TrainingError(
                "training.precision = 'float16' needs a GPU, and there is none",
                remedy="Set training.precision to auto, float32 or bfloat16.",
            )
        return Device("cpu", "float32" if precision == "auto" else precision)
    if precision == "auto":
        return Device("cuda", "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32")
    return Device("cuda", precision)


def open_model(base: Checkpoint, settings: SftSettings, where: Device) -> Any:
    """The student's weights, ready to be trained; the trainer moves them to their device.

    Raises:
        RoleError: there is no such model.
        TrainingError: the adapter does not fit it.
    """
    import torch

    under = base_of(base.path)
    name = under or base.path
    if settings.method == "full":
        return whole_model(base.path, settings.model, dtype=torch.float32).requires_grad_()  # peft froze it
    model = whole_model(name, settings.model, **to_load_again(settings, where))
    if under:
        return _saved_alone(with_adapter(model, base.path, trained=True))
    assert settings.lora is not None  # noqa: S101 (the settings were checked)
    return _saved_alone(_new_adapter(model, name, settings.lora, settings.model.revision))


def whole_model(name: str, settings: ModelSettings, **how: Any) -> Any:
    """A whole model, where transformers puts it; an adapter comes merged into its base.

    Args:
        name: folder, or id on the hub.
        settings: the revision matters here.
        how: more arguments of `from_pretrained`.

    Raises:
        RoleError: there is no such model.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    if base := base_of(name):
        return with_adapter(whole_model(base, settings, **how), name).merge_and_unload()
    disable_progress_bar()  # the run has a progress display of its own
    try:
        path, revision = located(name, settings.revision), settings.revision or "main"
        return AutoModelForCausalLM.from_pretrained(path, revision=revision, **how)
    except (OSError, ValueError, SafetensorError) as error:
        raise RoleError(
            f"no student can be loaded from {name}: {error}",
            remedy="Set student.model to a folder or hub id that transformers can load; a checkpoint of a run that is "
            "damaged can be deleted, `tapir resume` trains it again.",
        ) from error


def counted(model: Any) -> tuple[int, int]:
    """Parameters in all, and those that are trained."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trained, every = model.get_nb_trainable_parameters()
        return int(every), int(trained)
    sizes = [getattr(one, "ds_numel", one.numel()) for one in model.parameters()]  # a shard knows its whole size
    return sum(sizes), sum(sizes)


def to_load_again(settings: SftSettings, where: Device) -> dict[str, Any]:
    """What transformers must be told to load the checkpoint in the precision it was trained in."""
    if settings.method != "qlora":
        return {"dtype": where.dtype}
    from transformers import BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=where.dtype,
        bnb_4bit_quant_storage=where.dtype,  # as its neighbours have it, or they could not be sharded together
    )
    device_map = {"": local() if where.kind == "cuda" else "cpu"}
    return {"dtype": where.dtype, "quantization_config": four_bits, "device_map": device_map}


def end_tokens(base: Checkpoint, tokenizer: Any, settings: ModelSettings) -> frozenset[int]:
    """Ids of the tokens that end the student's answers: its tokenizer's, and those its model's folder names."""
    from transformers import GenerationConfig

    name = base_of(base.path) or base.path
    try:
        path, revision = located(name, settings.revision), settings.revision or "main"
        named = GenerationConfig.from_pretrained(path, revision=revision).eos_token_id
    except OSError:
        named = None
    several = named if isinstance(named, list) else [named]
    return frozenset(int(end) for end in [tokenizer.eos_token_id, *several] if end is not None)


def with_adapter(model: Any, path: str, *, trained: bool = False) -> Any:
    """A model with the adapter of a checkpoint on it.

    Raises:
        RoleError: the adapter is not one of this model.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        with _renamed():
            return PeftModel.from_pretrained(model, path, is_trainable=trained)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if ran_out(error):
            raise
        raise RoleError(
            f"the adapter in {path} does not fit the model it names: {error}",
            remedy="Delete the checkpoint's folder; `tapir resume` trains it again.",
        ) from error


def _new_adapter(model: Any, name: str, lora: LoraSettings, revision: str) -> Any:
    from peft import LoraConfig, get_peft_model

    every = lora.targets == ("all-linear",)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if every else list(lora.targets),
        task_type="CAUSAL_LM",
    )
    try:
        with _renamed():
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise TrainingError(
            f"training.lora.targets = {list(lora.targets)} does not fit the student: {error}",
            remedy='Name layers that the student has, or use ["all-linear"].',
        ) from error
    where = Path(name)
    config.base_model_name_or_path = str(where.resolve()) if where.is_dir() else name  # found from any folder
    config.revision = revision if revision and not where.is_dir() else None
    return adapted


@contextmanager
def _renamed() -> Iterator[None]:
    """Say nothing of properties that peft still calls by the names they had before transformers 5.23."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`.*gradient_checkpointing.*` is deprecated", FutureWarning)
        yield


def _saved_alone(model: Any) -> Any:
    """Keep peft from asking the hub, at every save, whether the vocabulary has changed; it never does here."""
    from functools import partial

    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    return model
