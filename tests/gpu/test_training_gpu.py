"""Training on a GPU: what is saved loads again, and memory is given back."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from support import small_model
from support.recording import RecordingProgress
from support.training import FULL as TINY
from support.training import LORA, changed, job_in, weights
from tapir.config.training import SftConfig
from tapir.domain.round import Checkpoint
from tapir.domain.training import Example
from tapir.training.sft import SftTrainer


def no_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return True
    import torch

    return not torch.cuda.is_available()


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(no_gpu(), reason="there is no CUDA device"),
]

WORDS = "the judge compares both answers, writes what speaks for each of them, and gives a score from one to ten "
EXAMPLES = [Example(f"{n:016x}", f"{n}: {WORDS * (n % 5 + 1)}", f"{WORDS * (n % 7 + 2)}{n}") for n in range(192)]
FULL = changed(TINY, learning_rate=2e-4, batch_size=32, micro_batch=16, max_length=1024)
ADAPTER = changed(LORA, learning_rate=1e-3, batch_size=32, micro_batch=16, max_length=1024)
FOUR_BITS = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """About 0.4 billion random parameters, in the shape of a small Llama."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    small_model.make(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=20,
        num_attention_heads=16,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return Checkpoint(str(folder), 0)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        pytest.param(FULL, "torch.bfloat16", id="full"),
        pytest.param(changed(FULL, precision="float32"), "torch.float32", id="full-float32"),
        pytest.param(changed(FULL, packing=True, micro_batch=8), "torch.bfloat16", id="full-packed"),
        pytest.param(changed(FULL, gradient_checkpointing=True), "torch.bfloat16", id="full-checkpointing"),
        pytest.param(ADAPTER, "torch.float32", id="lora"),
        pytest.param(changed(ADAPTER, precision="float16"), "torch.float32", id="lora-float16"),
        pytest.param(changed(ADAPTER, method="qlora"), "torch.bfloat16", marks=FOUR_BITS, id="qlora"),
    ],
)
def test_a_gpu_trains_saves_what_it_trained_and_gives_its_memory_back(
    config: SftConfig, dtype: str, llama: Checkpoint, tmp_path: Path
) -> None:
    import torch

    before = torch.cuda.memory_allocated()
    progress = RecordingProgress()
    report = SftTrainer(config).train(job_in(tmp_path, llama, 4, EXAMPLES), progress)
    assert progress.notes == []
    assert report.loss[-1][1] < report.loss[0][1] - 0.5
    assert {str(tensor.dtype) for tensor in weights(tmp_path / "checkpoint").values()} == {dtype}
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_a_gpu_that_runs_out_of_memory_goes_on_with_smaller_passes(llama: Checkpoint, tmp_path: Path) -> None:
    import torch

    wide = changed(FULL, batch_size=96, micro_batch=48)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    SftTrainer(wide).train(job_in(tmp_path / "half", llama, 1, EXAMPLES), RecordingProgress())
    enough = 1.15 * torch.cuda.max_memory_reserved() / torch.cuda.mem_get_info()[1]
    if enough > 0.5:
        pytest.skip("the GPU is too small for this test")
    torch.cuda.set_per_process_memory_fraction(enough)
    try:
        progress = RecordingProgress()
        job = job_in(tmp_path / "whole", llama, 1, EXAMPLES)
        report = SftTrainer(changed(wide, micro_batch=96)).train(job, progress)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert progress.notes == ["out of memory with 96 examples in a pass: going on with training.micro_batch = 48"]
    assert report.steps == 2
