"""Rows that leave a batch change nothing for the others, whatever the model remembers of them."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tapir.domain.errors import RoleError
from tapir.models.local import decoding

ENDS = {2, 5, 9, 11, 13, 17, 21}
TOKENIZER = SimpleNamespace(pad_token_id=0, eos_token_id=2)
LONGEST = 24
KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "mistral": {"sliding_window": 6},
    "gemma3_text": {"sliding_window": 6},
    "lfm2": {},
}
"""Full attention, windows, both in turn, and states of a convolution."""


def prompts(count: int) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(3, 64) for _ in range(rng.randrange(3, 12))] for _ in range(count)]


def model(kind: str, **settings: Any) -> Any:
    """A model of random weights that ends its answers early and late."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 256}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, vocab_size=64, pad_token_id=0, **sizes, **heads, **KINDS[kind])
        ).eval()
    with torch.no_grad():
        for weights in made.parameters():
            if weights.dim() > 1:
                weights.mul_(4)
    made.generation_config.update(eos_token_id=sorted(ENDS), pad_token_id=0, bos_token_id=None, **settings)
    return made


def generate(made: Any, asked: list[list[int]], temperature: float = 0.0, seed: int = 0) -> list[list[int]]:
    return decoding.generate(made, TOKENIZER, asked, longest=LONGEST, temperature=temperature, seed=seed)


def generate_bare(made: Any, asked: list[list[int]]) -> list[list[int]]:
    """By the loop of transformers, which keeps every row to the end."""
    width = max(map(len, asked))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in asked])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in asked])
    rows = made.generate(ids, attention_mask=mask, max_new_tokens=LONGEST, do_sample=False)[:, width:].tolist()
    return [row[: next((place + 1 for place, token in enumerate(row) if token in ENDS), LONGEST)] for row in rows]


@pytest.mark.parametrize("penalty", [None, 1.3])
@pytest.mark.parametrize("kind", list(KINDS))
def test_rows_that_leave_change_nothing_for_the_others(kind: str, penalty: float | None) -> None:
    made, asked = model(kind, repetition_penalty=penalty), prompts(24)
    answers = generate(made, asked)
    assert len({len(answer) for answer in answers}) > 3  # they end at different times
    assert sum(a != b for a, b in zip(answers, generate_bare(made, asked), strict=True)) <= 1  # float noise


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_are_an_error_and_no_empty_answers(temperature: float) -> None:
    made = model("qwen2")
    with torch.no_grad():
        next(iter(made.parameters())).fill_(math.nan)
    with pytest.raises(RoleError, match=r"logits are not numbers \(torch\.float32\)") as caught:
        generate(made, prompts(3), temperature)
    assert "student.dtype" in caught.value.remedy


def test_rare_checks_and_a_single_prompt_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = model("qwen2"), prompts(24)
    often = generate(made, asked)
    monkeypatch.setitem(decoding._CHECK_EVERY, "cpu", 7)
    assert generate(made, asked) == often
    assert generate(made, asked[:1]) == generate_bare(made, asked[:1])


def test_rows_that_have_ended_are_not_computed_any_more() -> None:
    made = model("qwen2")
    rows: list[int] = []
    made.register_forward_pre_hook(lambda _, __, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True)
    answers = generate(made, prompts(24))
    assert rows[0] == 24
    assert rows == sorted(rows, reverse=True)
    assert sum(rows) < 0.9 * 24 * max(map(len, answers))


def test_sampling_at_a_temperature_follows_its_seed() -> None:
    made, asked = model("qwen2"), prompts(24)
    assert generate(made, asked, 1.0, 1) == generate(made, asked, 1.0, 1)
    assert generate(made, asked, 1.0, 1) != generate(made, asked, 1.0, 2)
    assert generate(made, asked, 1e-4, 1) == generate(made, asked, 0.0, 2)
