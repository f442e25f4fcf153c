"""Loading a student: adapters, precision, chat templates, and what can be wrong with each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tapir.domain.errors import RecipeError, RoleError
from tapir.domain.round import Checkpoint
from tapir.models.local.loading import ModelSettings, chat_template, empty_model, load, load_tokenizer
from tapir.training.model import merge
from unit.models.test_local_student import NANO, edited

ALPACA = ModelSettings(chat_template=chat_template("alpaca"))


def adapter(folder: Path, base: str, seed: int) -> tuple[Checkpoint, Any]:
    """A LoRA of random weights on a base, saved with its tokenizer; and the model that has it, not merged."""
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load(Checkpoint(base, 0))
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # of peft
        torch.manual_seed(seed)
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, weights in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.02)
    adapted.peft_config["default"].base_model_name_or_path = base
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    tokenizer.save_pretrained(str(folder))
    return Checkpoint(str(folder), 1), adapted


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.arange(3, 40)[None]).logits
    return found


def test_an_adapter_is_loaded_with_its_base_and_merged(tmp_path: Path) -> None:
    checkpoint, adapted = adapter(tmp_path / "one", NANO.path, 1)
    merged, _ = load(checkpoint)
    assert type(merged).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(logits(merged), logits(adapted), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(merged), logits(load(NANO)[0]), atol=1e-2)


def test_an_adapter_may_stand_on_another(tmp_path: Path) -> None:
    first, _ = adapter(tmp_path / "one", NANO.path, 1)
    second, adapted = adapter(tmp_path / "two", first.path, 2)
    torch.testing.assert_close(logits(load(second)[0]), logits(adapted), atol=1e-4, rtol=1e-4)
    assert empty_model(second.path, ModelSettings()).num_parameters() == load(second)[0].num_parameters()


def test_an_adapter_whose_base_was_deleted_says_how_it_comes_back(tmp_path: Path) -> None:
    checkpoint, _ = adapter(tmp_path / "one", NANO.path, 1)
    config = tmp_path / "one" / "adapter_config.json"
    config.write_text(config.read_text("utf-8").replace(NANO.path, str(tmp_path / "deleted")), encoding="utf-8")
    with pytest.raises(RoleError, match=r"/deleted: there is no such folder") as caught:
        load(checkpoint)
    assert "`tapir check`" in caught.value.remedy


def test_an_adapter_without_its_weights_is_told_as_such(tmp_path: Path) -> None:
    checkpoint, _ = adapter(tmp_path / "one", NANO.path, 1)
    (tmp_path / "one" / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(RoleError, match="an adapter of"):
        load(checkpoint)


def test_a_checkpoint_whose_template_is_an_empty_file_is_named_and_not_the_recipe(tmp_path: Path) -> None:
    shutil.copytree(NANO.path, tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "chat_template.jinja").write_text("")
    with pytest.raises(RoleError, match="checkpoint: its chat template is an empty file") as caught:
        load_tokenizer(Checkpoint(str(tmp_path / "checkpoint"), 1))
    assert "tapir resume" in caught.value.remedy


@pytest.mark.parametrize("step", ["peft.PeftModel.from_pretrained", "peft.tuners.lora.LoraModel.merge_and_unload"])
@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**60), lambda: bytearray(2**62)], ids=["torch", "python"])
def test_too_little_memory_for_an_adapter_is_an_error_with_a_remedy(
    step: str, allocate: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, _ = adapter(tmp_path / "one", NANO.path, 1)
    monkeypatch.setattr(step, lambda *_, **__: allocate())
    with pytest.raises(RoleError, match="one does not fit the memory of the device") as caught:
        load(checkpoint)
    assert all(word in caught.value.remedy for word in ("student.dtype", "4 bytes"))
    with pytest.raises(RoleError, match="one does not fit the memory of the device"):
        merge(Path(checkpoint.path), tmp_path / "whole", ModelSettings())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in bfloat16 by itself")
def test_the_processor_computes_in_float32_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    model, tokenizer = load(NANO, ModelSettings(dtype="bfloat16"))
    assert model.dtype is torch.bfloat16
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load(Checkpoint(str(tmp_path), 0))[0].dtype is torch.float32


def test_a_checkpoint_that_lacks_weights_is_refused_by_their_names(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = tmp_path / "model" / "model.safetensors"
    shutil.copytree(NANO.path, tmp_path / "model")
    weights = load_file(file)
    del weights["model.norm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(RoleError, match=r"lacks the weights model\.norm\.weight"):
        load(Checkpoint(str(tmp_path / "model"), 0))


def test_a_tokenizer_with_neither_padding_nor_end_is_refused(tmp_path: Path) -> None:
    model = edited(tmp_path, "tokenizer_config.json", pad_token=None, eos_token=None)
    with pytest.raises(RoleError, match="neither a padding token nor an end token") as caught:
        load(model)
    assert "eos_token" in caught.value.remedy


def test_padding_that_was_added_without_an_embedding_is_the_end_token(tmp_path: Path) -> None:
    model = edited(tmp_path, "config.json", vocab_size=1000)
    assert load_tokenizer(model).pad_token_id == 0
    tokenizer = load_tokenizer(NANO)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id >= 1000
    tokenizer.save_pretrained(model.path)
    found = load_tokenizer(model)
    assert found.pad_token_id == found.eos_token_id == 2


def test_a_base_model_without_a_template_names_the_key_that_sets_one(tmp_path: Path) -> None:
    shutil.copytree(NANO.path, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    base = Checkpoint(str(tmp_path / "model"), 0)
    with pytest.raises(RoleError, match="no chat template") as caught:
        load(base)
    assert "student.chat_template" in caught.value.remedy
    assert load_tokenizer(base, ALPACA).chat_template == ALPACA.chat_template


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("<user>{% if add_generation_prompt %}<answer>{% endif %}", "drops the instruction"),
        ("{{ '<user>' + messages[0]['content'] }}", "drops the answer"),
        ("{% for m in messages %}", "cannot be used"),
        ("{{ raise_exception('no') }}", "cannot be used: no"),
        ("{{ messages[0]['content'] + nobody }}", "cannot be used"),
    ],
)
def test_a_template_that_does_not_work_is_told_before_any_work(template: str, what: str) -> None:
    with pytest.raises(RoleError, match=what) as caught:
        load_tokenizer(NANO, ModelSettings(chat_template=template))
    assert "student.chat_template" in caught.value.remedy


OFFLINE = """
import sys, time
from tapir.domain.round import Checkpoint
from tapir.domain.errors import RoleError
from tapir.models.local.loading import load
import transformers
began = time.monotonic()
try:
    load(Checkpoint("nobody/nothing", 0))
except RoleError as error:
    print(error, error.remedy)
print(f"{time.monotonic() - began:.0f} seconds")
print(load(Checkpoint("somebody/nano", 0))[0].num_parameters(), "parameters")
"""


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_a_network_only_what_was_downloaded_can_be_loaded(tmp_path: Path, environment: dict[str, str]) -> None:
    cached = tmp_path / "hub" / "models--somebody--nano"
    shutil.copytree(NANO.path, cached / "snapshots" / ("a" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    result = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        env={**os.environ, **environment, "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "student.model = nobody/nothing is no folder, was not downloaded before" in result.stdout
    assert "hf download nobody/nothing" in result.stdout
    assert "2086464 parameters" in result.stdout
    assert "Retrying" not in result.stderr


def test_a_folder_that_is_no_model_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(RoleError, match="no student can be loaded") as caught:
        load(Checkpoint(str(tmp_path), 0))
    assert "student.model" in caught.value.remedy


def rendered(tokenizer: Any, *turns: str, ask: bool = False) -> str:
    chat = [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]
    found: str = tokenizer.apply_chat_template(chat, add_generation_prompt=ask, tokenize=False)
    return found


def test_the_alpaca_template_writes_the_alpaca_form_and_ends_answers() -> None:
    tokenizer = load_tokenizer(NANO, ALPACA)
    assert rendered(tokenizer, "Add 1 and 2.", "3") == (
        "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd 1 and 2.\n\n### Response:\n3</s>"
    )
    assert rendered(tokenizer, "a", "b", "c", "d").endswith("b</s>\n\n### Instruction:\nc\n\n### Response:\nd</s>")


TOKENIZER = load_tokenizer(NANO, ALPACA)


@given(st.text(min_size=1), st.text(min_size=1))
def test_an_alpaca_prompt_is_a_prefix_of_its_conversation(question: str, answer: str) -> None:
    prompt = rendered(TOKENIZER, question, ask=True)
    whole = rendered(TOKENIZER, question, answer)
    assert question in prompt
    assert whole == prompt + answer.strip() + "</s>"


def test_the_alpaca_template_marks_the_tokens_of_the_answer() -> None:
    chat = [{"role": "user", "content": "Add 1 and 2."}, {"role": "assistant", "content": "3"}]
    found = TOKENIZER.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    marked = [one for one, mask in zip(found["input_ids"], found["assistant_masks"], strict=True) if mask]
    assert TOKENIZER.decode(marked) == "3</s>"


def test_the_shipped_template_is_known_by_name_and_others_by_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages }}")
    assert chat_template("") == ""
    assert "### Response" in chat_template("alpaca")
    assert chat_template(str(file)) == "{{ messages }}"
    file.write_text("{{ messages }}", encoding="utf-8-sig")  # as Windows saves it: the mark is not learnt
    assert chat_template(str(file)) == "{{ messages }}"
    with pytest.raises(RecipeError, match=r"student\.chat_template = 'alpacca'.*\(alpaca\)"):
        chat_template("alpacca")
