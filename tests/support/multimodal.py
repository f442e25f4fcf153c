"""Tiny random models of several modalities, with the built-in student's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.training import NANO
from tapir.domain.round import Checkpoint

_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": 32,
}
_VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def gemma3(folder: Path) -> Checkpoint:
    import transformers

    vision = _VISION | {"image_size": 28, "patch_size": 14}
    config = transformers.Gemma3Config(text_config=_sized(), vision_config=vision, mm_tokens_per_image=4)
    return _saved(transformers.Gemma3ForConditionalGeneration, config, folder)


def gemma4(folder: Path) -> Checkpoint:
    import transformers

    more = {
        "global_head_dim": 16,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": _sized()["vocab_size"],
        "layer_types": ["sliding_attention", "full_attention"],
    }
    vision = _VISION | {"num_key_value_heads": 2, "head_dim": 16, "position_embedding_size": 64}
    config = transformers.Gemma4Config(text_config=_sized() | more, vision_config=vision)
    return _saved(transformers.Gemma4ForConditionalGeneration, config, folder)


def _sized() -> dict[str, Any]:
    from transformers import AutoTokenizer

    return _TEXT | {"vocab_size": len(AutoTokenizer.from_pretrained(NANO.path))}


def _saved(kind: Any, config: Any, folder: Path) -> Checkpoint:
    import torch
    from transformers import AutoTokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(NANO.path).save_pretrained(folder)
    return Checkpoint(str(folder), 0)
