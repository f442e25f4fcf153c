"""GGUF files made on the spot: a llama of two layers with a byte-level tokenizer and a chat template."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, WIDTH, INNER, HEADS, KEY_HEADS, CONTEXT = 2, 32, 64, 4, 2, 2048
ENDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_gguf(
    path: Path,
    *,
    seed: int = 0,
    architecture: str = "llama",
    without: Collection[str] = (),
    extra: Collection[str] = (),
    scaling: float = 0.0,
) -> Path:
    """Write a model of random weights; `without` names tensors, "tokenizer" or "template"; `extra` more tensors.

    `scaling` is a factor of linear scaling of positions.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    gguf: Any = importlib.import_module("gguf")
    vocabulary = [*ENDS, *sorted(ByteLevel.alphabet()), "th", "the"]
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(vocabulary))
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling)
    if "tokenizer" not in without:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(vocabulary)
        writer.add_token_types([3] * len(ENDS) + [1] * (len(vocabulary) - len(ENDS)))
        writer.add_token_merges(["t h", "th e"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_pad_token_id(2)
        writer.add_add_bos_token(False)  # noqa: FBT003
    if "template" not in without:
        writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(seed)
    for name, shape in {**_shapes(len(vocabulary)), **dict.fromkeys(extra, (WIDTH,))}.items():
        if name not in without:
            writer.add_tensor(name, rng.normal(scale=0.2, size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors by their names in the file, as numpy has them."""
    keys = WIDTH // HEADS * KEY_HEADS
    layer = {
        "attn_norm": (WIDTH,),
        "ffn_norm": (WIDTH,),
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (keys, WIDTH),
        "attn_v": (keys, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
    }
    blocks = {f"blk.{number}.{name}.weight": shape for number in range(LAYERS) for name, shape in layer.items()}
    return {"token_embd.weight": (vocabulary, WIDTH), "output_norm.weight": (WIDTH,), **blocks}
