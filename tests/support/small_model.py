"""A language model of about three million random parameters, made on the spot: it can be served, and says nothing.

Its weights come from a fixed seed. Only the tokens that end something (a reply, a string, a key, a number, an object)
are likelier than the others, so that some replies end by themselves and some are cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

CONTEXT = 4096
"""Tokens that prompt and reply may have together."""

_VOCABULARY = 1024
_END = "<|end|>"
_TURN = "<|turn|>"
_ENDINGS = (_END, '"', ":", ",", "}", "]")
_CONSTANT, _LIKELIER = 1.0, 0.9  # each of them is about one token in sixteen
_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|turn|>' + message['role'] + '\n' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)


def make(folder: Path) -> Path:
    """Save the model and its tokenizer in `folder`, readable by transformers and by serving engines."""
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    model = _model(tokenizer)
    model.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    """Byte-level BPE, learnt from the prompts shipped with the package: they are what it will read most."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    prompts = resources.files("tapir.models.prompts")
    texts = sorted(file.read_text("utf-8") for file in prompts.iterdir() if file.name.endswith(".txt"))
    found.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=_VOCABULARY,
            special_tokens=[_END, _TURN],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=found, eos_token=_END, pad_token=_END, chat_template=_TEMPLATE, model_max_length=CONTEXT
    )


def _model(tokenizer: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=5,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    _favour(model, [tokenizer.convert_tokens_to_ids(ending) for ending in _ENDINGS])
    return model


def _favour(model: Any, tokens: Sequence[int]) -> None:
    """Make tokens likelier wherever they stand: the first channel is one constant, and they alone listen to it."""
    import torch

    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = _CONSTANT
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        model.lm_head.weight[:, 0] = 0
        model.lm_head.weight[list(tokens), 0] = _LIKELIER
