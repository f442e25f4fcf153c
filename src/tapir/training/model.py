"""The student's weights in training: device and precision, full models, LoRA adapters, quantization, merging."""

from __future__ import annotations

import re
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapir.config.training import LoraConfig, Precision, SftConfig
from tapir.data.files import replacing_folder
from tapir.domain.errors import TrainingError
from tapir.domain.round import Checkpoint
from tapir.models.local import loading
from tapir.models.local.loading import ModelSettings, base_of, load_generation_config, load_model, load_tokenizer
from tapir.models.local.weights import weight_shapes
from tapir.models.memory import computes_in_bfloat16, free_memory
from tapir.training.checkpoints import cast_weights
from tapir.training.distributed import local_rank

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

        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype


def choose_device(precision: Precision, base: Checkpoint, settings: ModelSettings) -> Device:
    """Return the best device there is; auto is bfloat16 where that is faster, else float32."""
    import torch

    cuda = torch.cuda.is_available()
    if precision == "float16" and not cuda:
        raise TrainingError(
            "training.precision = 'float16' needs a GPU, and there is none",
            remedy="Set training.precision to auto, float32 or bfloat16.",
        )
    if precision == "auto":
        faster = computes_in_bfloat16() if cuda else loading.large_on_bfloat16_cpu(base.path, settings)
        precision = "bfloat16" if faster else "float32"
    return Device("cuda" if cuda else "cpu", precision)


def check_weights(base: Checkpoint, config: SftConfig, settings: ModelSettings) -> None:
    """Raise `TrainingError` where the student cannot be trained in this precision, or has none of `lora.targets`."""
    if config.precision == "float16" and not getattr(config.launch, "gpus", 0):  # those are of other machines
        choose_device(config.precision, base, settings)
    if config.method == "full" or list(config.lora.targets) == ["all-linear"] or base_of(base.path):
        return
    shapes = weight_shapes(base.path, settings.revision).items()
    matrices = [f".{name}".removesuffix(".weight") for name, shape in shapes if len(shape) == 2]  # noqa: PLR2004
    if not any(name.endswith(f".{target}") for name in matrices for target in config.lora.targets):
        # peft knows for certain, and takes seconds; names of other families beside one that fits do no harm
        _add_adapter(loading.empty_model(base.path, settings), base.path, config.lora, settings.revision)


@contextmanager
def freeing_memory() -> Iterator[None]:
    """Empty the accelerator's cache at the end; after an error also drop its frames, which hold on to the model."""
    try:
        yield
    except BaseException as error:
        cause: BaseException | None = error
        while cause is not None:
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__cause__ or cause.__context__
        raise
    finally:
        free_memory()


def load_for_training(base: Checkpoint, config: SftConfig, settings: ModelSettings, device: Device) -> Any:
    """Load the student's weights, ready to be trained; the trainer moves them to their device."""
    import torch

    if config.method == "full":
        model = load_model(base.path, settings, dtype=torch.float32).requires_grad_()  # peft froze it
        beside = _beside_language(model)
        for name, part in model.named_parameters():
            if beside and re.fullmatch(beside, name):  # text gives it no gradient, which DDP would wait for
                part.requires_grad_(requires_grad=False)
        return model
    adapter_base = base_of(base.path)
    name = adapter_base or base.path
    model = load_model(name, settings, **load_arguments(config, device))
    if adapter_base:
        model = loading.load_adapter(model, base.path, trained=True)
    else:
        model = _add_adapter(model, name, config.lora, settings.revision)
    # or peft asks the hub, at every save, whether the vocabulary has changed; it never does here
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    return model


def load_arguments(config: SftConfig, device: Device) -> dict[str, Any]:
    """Return the arguments with which transformers loads a checkpoint in the precision it is trained in."""
    if config.method != "qlora":
        return {"dtype": device.dtype}
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=device.dtype,
        bnb_4bit_quant_storage=device.dtype,  # the same as the other weights, or they could not be sharded together
    )
    device_map = {"": local_rank() if device.kind == "cuda" else "cpu"}
    return {"dtype": device.dtype, "quantization_config": quantization, "device_map": device_map}


def count_parameters(model: Any) -> tuple[int, int]:
    """Return the number of all parameters, and of those that are trained."""
    if hasattr(model, "get_nb_trainable_parameters"):
        trained, total = model.get_nb_trainable_parameters()
        return int(total), int(trained)
    parts = [(getattr(part, "ds_numel", part.numel()), part.requires_grad) for part in model.parameters()]
    return sum(size for size, _ in parts), sum(size for size, trained in parts if trained)  # a shard knows all of it


def end_tokens(base: Checkpoint, tokenizer: Any, settings: ModelSettings) -> frozenset[int]:
    """Return the ids of the tokens that end the student's answers: its tokenizer's, and those its model names."""
    config = load_generation_config(base_of(base.path) or base.path, settings.revision)
    return loading.end_tokens(tokenizer, config)


def _beside_language(model: Any) -> str:
    """Return a pattern of the names beside a multimodal model's language model; empty where there is nothing."""
    if not any(getattr(model.config, part, None) for part in ("vision_config", "audio_config")):
        return ""
    language = (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
    names = [name for name, part in model.named_modules() if any(part is one for one in language)]
    return rf"(?!(?:{'|'.join(map(re.escape, names))})(?:\.|$)).*"


def _add_adapter(model: Any, name: str, lora: LoraConfig, revision: str) -> Any:
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    targets = list(lora.targets)
    config = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        exclude_modules=_beside_language(model) or None,
        task_type="CAUSAL_LM",
    )
    try:
        with loading.ignore_deprecation():
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise TrainingError(
            f"training.lora.targets = {targets} does not fit the student: {error}",
            remedy='Name layers that the student has, or use ["all-linear"].',
        ) from error
    folder = Path(name)
    config.base_model_name_or_path = str(folder.resolve()) if folder.is_dir() else name  # found from any folder
    config.revision = revision if revision and not folder.is_dir() else None
    return adapted


def merge(checkpoint: Path, out: Path, settings: ModelSettings) -> None:
    """Write a folder that holds the whole model and its tokenizer; `out` appears only when it is complete.

    The update is added on the CPU in float32, and the sum kept in the precision that `settings.dtype` names; "auto" is
    that of the base. A checkpoint that is a whole model already is copied.
    """
    import torch

    with replacing_folder(out) as draft, freeing_memory():
        base = base_of(str(checkpoint))
        if base is None:
            shutil.copytree(checkpoint, draft, dirs_exist_ok=True)
        else:
            tokenizer = load_tokenizer(Checkpoint(str(checkpoint), 0), settings)
            with loading.memory_errors(str(checkpoint), "cpu"):
                model = load_model(base, settings, dtype=getattr(torch, settings.dtype, settings.dtype))
                dtype = model.dtype
                merged = loading.load_adapter(model.float(), str(checkpoint)).merge_and_unload()
                cast_weights(merged, dtype)
            merged.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
