"""GGUF files as students: each is converted once into a folder that transformers loads."""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

from tapir.data.files import disk_errors, locked, replacing_folder, sha256
from tapir.domain.errors import RoleError, require
from tapir.models.local.loading import memory_errors
from tapir.models.memory import is_out_of_memory


def converted_folder(file: Path) -> Path:
    """Return the folder of a converted GGUF file, in the user's cache under its name and the digest of its content."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with disk_errors(file):
        digest = _digest(file, file.stat().st_size, file.stat().st_mtime_ns)
    return cache / "tapir" / "gguf" / f"{file.stem}-{digest[:16]}"


@lru_cache
def _digest(file: Path, _size: int, _modified: int) -> str:
    return sha256(file)


def convert(file: Path) -> Path:
    """Return the folder of a GGUF file's model; it is made where it is not there.

    It holds the weights in float32, tokenizer and chat template, and depends on the file's content alone. Another
    process that converts at the same time is waited for.
    """
    folder = converted_folder(file)
    if folder.is_dir():
        return folder
    require("train", "torch", "transformers", "gguf")
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent, wait=True):
        if not folder.is_dir():
            with replacing_folder(folder) as draft, memory_errors(str(file), "cpu"):
                write_model(file, draft)
    return folder


def write_model(file: Path, folder: Path) -> None:
    """Write what a GGUF file contains into an empty folder; raise `RoleError` where transformers cannot read it all."""
    alone = folder / "model.gguf"  # or files beside it would take the place of what it contains
    alone.symlink_to(file.resolve())
    try:
        tokenizer, model = _read(alone)
    except (OSError, ValueError, LookupError, RuntimeError, struct.error) as error:
        if is_out_of_memory(error):
            raise
        raise RoleError(
            f"no student can be made of {file}: {'it is cut short' if isinstance(error, struct.error) else error}",
            remedy="Fetch the file again if it is incomplete. Transformers reads the GGUF files of some architectures"
            " only: of another, name the folder or hub id of the model that it was made of.",
        ) from error
    alone.unlink()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _is_scaling(key: str, value: Any) -> bool:
    return (key.endswith(".rope.scaling.type") and value != "none") or (
        key.endswith(".rope.scaling.factor") and value not in {0, 1}
    )


def _read(file: Path) -> tuple[Any, Any]:
    """Return tokenizer and model, with weights that are plain numbers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.integrations.gguf import read_gguf_metadata
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    metadata, names = read_gguf_metadata(str(file))
    dropped = [name for name in names if name.startswith("rope_f")]
    if metadata.get("general.architecture") != "gpt-oss":  # the only one whose scaling transformers reads
        dropped += [f"{key} = {metadata[key]}" for key in metadata if _is_scaling(key, metadata[key])]
    if dropped:
        raise ValueError(f"transformers drops its {', '.join(dropped)}, which scale positions")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    whole = {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
    model, info = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, output_loading_info=True, **whole
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"it lacks the weights {', '.join(missing)}")
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return tokenizer, model
