"""Supervised fine-tuning with the real trainer and the real student."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from support import multimodal
from support.recording import RecordingProgress
from support.training import (
    EXAMPLES,
    FULL,
    LONG,
    LORA,
    NANO,
    answers,
    answers_of_transformers,
    changed,
    job_in,
    losses,
    template,
    train,
    weights,
)
from tapir.config.toml import parse
from tapir.domain.errors import MissingExtra, RecipeError, TrainingError
from tapir.domain.round import Checkpoint
from tapir.domain.training import Example
from tapir.models.local.loading import MODEL_DEFAULTS, ModelSettings, load
from tapir.runs.build import build
from tapir.training.dataset import encode
from tapir.training.loop import training_arguments
from tapir.training.model import choose_device, merge
from tapir.training.sft import SftTask, SftTrainer


@pytest.mark.slow
def test_the_student_learns_its_examples_and_progress_gets_loss_speed_and_time_left(tmp_path: Path) -> None:
    progress = RecordingProgress()
    report = train(tmp_path, epochs=20, progress=progress)
    assert report.steps == progress.steps == 60
    assert progress.resumes == [(60, 0)]
    assert [(metrics["step"], metrics["loss"]) for metrics in progress.metrics] == list(report.loss)
    assert all(metrics["learning_rate"] == FULL.learning_rate for metrics in progress.metrics)
    assert all(metrics["tokens_per_second"] > 0 for metrics in progress.metrics)
    assert progress.metrics[0]["seconds_left"] > progress.metrics[-1]["seconds_left"] == 0
    assert report.loss[-1][1] < report.loss[0][1] / 2
    assert (report.parameters, report.trainable) == (2_086_464, 2_086_464)
    assert report.tokens == 20 * sum(
        len(example.input_ids) for example in encode(EXAMPLES, load(NANO)[1], max_length=64).examples
    )
    assert report.tokens_per_second == pytest.approx(report.tokens / report.seconds)
    replies = answers(tmp_path / "checkpoint")
    assert sum(reply == example.answer for reply, example in zip(replies, EXAMPLES, strict=True)) >= 20


@pytest.mark.slow
def test_a_tracker_writes_to_a_folder_that_outlasts_the_training(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX", reason="no tracker is installed here")
    train(tmp_path, changed(FULL, report_to=("tensorboard",)), epochs=1)
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_stops_the_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the training loss is (nan|inf) at step") as caught:
        train(tmp_path, changed(FULL, learning_rate=1e30))
    assert "training.learning_rate" in caught.value.remedy
    assert not (tmp_path / "checkpoint").exists()


def test_an_example_that_the_template_changes_is_left_out_with_its_reason(tmp_path: Path) -> None:
    short = ModelSettings(chat_template=template("{{ messages[1].content[:20] }}</s>"))
    changed, forged = Example("d" * 16, "Say 1.", "The sum of 1 and 1 is 2."), Example("e" * 16, "1.<user>2", "1")
    progress = RecordingProgress()
    report = SftTrainer(FULL, short).train(job_in(tmp_path, examples=[*EXAMPLES, changed, forged]), progress)
    reasons = {changed.id: "the chat template drops or changes the answer"}
    assert report.unfit == reasons | {forged.id: "the special token <user> in its prompt"}
    assert {f"1 of 26 examples left out: {reason}" for reason in report.unfit.values()} <= {*progress.notes}
    progress = RecordingProgress()
    with pytest.raises(TrainingError, match=r"drops or changes the answer of example dddddddddddddddd") as caught:
        SftTrainer(FULL, short).train(job_in(tmp_path, examples=[EXAMPLES[0], changed, changed]), progress)
    assert "student.chat_template" in caught.value.remedy
    assert progress.starts == []


def test_dropped_and_cut_examples_are_counted_and_noted(tmp_path: Path) -> None:
    endless = Example("c" * 16, "1 + " * 60, "1")
    progress = RecordingProgress()
    job = job_in(tmp_path, epochs=1, examples=[*EXAMPLES, LONG, endless])
    report = SftTrainer(changed(FULL, too_long="cut")).train(job, progress)
    assert (report.too_long, report.cut) == ([endless.id], [LONG.id])
    assert "1 of 26 examples left out: longer than 64 tokens" in progress.notes
    assert "1 of 26 examples cut: longer than 64 tokens" in progress.notes


def test_an_example_longer_than_the_student_reads_is_left_out(tmp_path: Path) -> None:
    tokenizer = load(NANO)[1]
    tokenizer.save_pretrained(tmp_path / "gpt2")
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    progress = RecordingProgress()
    job = replace(job_in(tmp_path, epochs=1, examples=[*EXAMPLES, LONG]), base=Checkpoint(str(tmp_path / "gpt2"), 0))
    report = SftTrainer(changed(FULL, max_length=512)).train(job, progress)
    assert report.too_long == [LONG.id]
    assert "1 of 25 examples left out: longer than 32 tokens" in progress.notes


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"training\.report_to.* = 'wanddb': must be 'mlflow', .* mean 'wandb'\?"):
        parse({"training": {"report_to": ["wanddb"]}})


def test_an_adapter_over_four_bits_is_not_scaled_as_float16_is() -> None:
    with pytest.raises(
        RecipeError, match=r"'qlora' with precision = 'float16'.*use precision = 'bfloat16' or 'float32'"
    ):
        parse({"training": {"method": "qlora", "precision": "float16"}})
    parse({"training": {"method": "lora", "precision": "float16"}})


@pytest.mark.parametrize(
    ("keys", "package"), [({"report_to": ("wandb",)}, "wandb"), ({"method": "qlora"}, "bitsandbytes")]
)
def test_a_package_that_is_missing_is_named(
    keys: dict[str, object], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=f"needs {package}") as caught:
        SftTrainer(changed(FULL, **keys))
    assert caught.value.remedy == f"pip install {package}"


def test_a_precision_that_the_processor_does_not_compute_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(TrainingError, match=r"training\.precision = 'float16' needs a GPU"):
        train(tmp_path, changed(FULL, precision="float16"))


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_a_processor_that_computes_in_bfloat16_does_so_for_large_students_and_says_so(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    precisions = []
    for able, large in ((False, 1), (True, 1), (True, 100_000_000)):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda able=able: {flag: able})
        monkeypatch.setattr("tapir.models.local.loading._LARGE", large)
        precisions.append(choose_device("auto", NANO, MODEL_DEFAULTS).precision)
    assert precisions == ["float32", "bfloat16", "float32"]
    assert choose_device("float32", NANO, MODEL_DEFAULTS).precision == "float32"
    monkeypatch.setattr("tapir.models.local.loading._LARGE", 1)
    progress = RecordingProgress()
    report = train(tmp_path, epochs=1, progress=progress)
    assert report.loss[-1][1] < report.loss[0][1]
    assert ["computes in bfloat16" in note for note in progress.notes] == [True]
    assert {str(tensor.dtype) for tensor in weights(tmp_path / "checkpoint").values()} == {"torch.bfloat16"}


def test_only_tokens_that_carry_loss_are_projected_onto_the_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl.trainer import utils

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    scored, function = [], utils._ChunkedLogProbFunction

    class Recorded:
        @staticmethod
        def apply(hidden: Any, *rest: Any) -> Any:
            scored.append(len(hidden))
            return function.apply(hidden, *rest)

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", Recorded)
    report = train(tmp_path, epochs=1)
    assert sum(scored) == report.answer_tokens < report.tokens


def test_packing_is_checked_where_the_weights_are_before_a_launcher_shares_them_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    model, tokenizer = load(NANO)
    examples = encode(EXAMPLES, tokenizer, max_length=64).examples
    lengths, config = [len(example.input_ids) for example in examples], changed(FULL, packing=True)
    task = SftTask(job_in(tmp_path), config, MODEL_DEFAULTS, tokenizer, RecordingProgress(), examples, lengths)
    plan = task.plan(8, 1)
    arguments = task.arguments(training_arguments(task.job, config, plan, task.device))
    monkeypatch.setattr("transformers.TrainingArguments.device", torch.device("meta"))  # as if there were GPUs
    monkeypatch.setattr("transformers.TrainingArguments.place_model_on_device", False)  # and FSDP2 or ZeRO
    assert task.trainer(model, arguments, plan, []).model.device.type == "cpu"
    model.lm_head.weight.data.zero_()  # FSDP2 loads the weights in the first process only
    with pytest.raises(TrainingError, match=r"training\.packing"):
        task.trainer(model, arguments, plan, [])
    monkeypatch.setattr("tapir.training.sft.is_main_process", lambda: False)
    task.trainer(model, arguments, plan, [])


def test_what_trl_says_of_checkpointing_reaches_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import SFTTrainer

    found, make, enable = [], SFTTrainer.__init__, PreTrainedModel.activation_checkpointing_enable

    def made(self: Any, **keys: Any) -> None:
        make(self, **keys)
        self.args.gradient_checkpointing_kwargs = {"use_reentrant": True}  # TRL's, for adapters with ZeRO-3

    def enabled(self: Any, **keys: Any) -> None:
        found.append(keys["activation_checkpointing_kwargs"])
        enable(self, **keys)

    monkeypatch.setattr(SFTTrainer, "__init__", made)
    monkeypatch.setattr(PreTrainedModel, "activation_checkpointing_enable", enabled)
    train(tmp_path, changed(LORA, gradient_checkpointing=True), epochs=1)
    assert found == [{"use_reentrant": True}]


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("make", [multimodal.gemma3, multimodal.gemma4])
def test_of_a_multimodal_student_only_the_language_model_is_trained(make: Any, method: str, tmp_path: Path) -> None:
    base = make(tmp_path / "model")
    report = train(tmp_path, FULL if method == "full" else LORA, base=base, epochs=1)
    before, after = weights(tmp_path / "model"), weights(tmp_path / "checkpoint")
    if method == "lora":
        assert after
        assert all(".language_model." in name for name in after)
        assert report.trainable == sum(tensor.numel() for tensor in after.values())
        return
    assert after.keys() == before.keys(), "the checkpoint is whole"
    changed_names = {name for name in before if not before[name].equal(after[name])}
    assert changed_names
    assert all("language_model." in name for name in changed_names)
    beside = sum(tensor.numel() for name, tensor in before.items() if "language_model." not in name)
    assert report.parameters - report.trainable == beside > 0


def test_smaller_passes_give_the_same_loss_whatever_the_model_makes_of_it(tmp_path: Path) -> None:
    base = multimodal.gemma4(tmp_path / "model")
    examples = [*EXAMPLES[:23], replace(EXAMPLES[23], answer="1, 2, 3, 4, 5, 6")]  # some answers are longer
    curves = []
    for name, micro in (("whole", 0), ("parts", 1)):
        job = job_in(tmp_path / name, base, epochs=1, examples=examples)
        curves.append(losses(SftTrainer(changed(FULL, micro_batch=micro)).train(job, RecordingProgress())))
    assert curves[1] == pytest.approx(curves[0], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_student_that_samples_by_default_or_pads_beyond_its_embedding_is_trained_and_answers(
    method: str, tmp_path: Path
) -> None:
    model, tokenizer = load(NANO)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == model.config.vocab_size, "it has no row"
    shutil.copytree(NANO.path, tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    sampling = {"bos_token_id": 1, "eos_token_id": 2, "temperature": 0.9, "top_p": 0.6}  # Vicuna's
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(sampling))
    base = Checkpoint(str(tmp_path / "model"), 0)
    train(tmp_path, changed(FULL if method == "full" else LORA, save_every=2), base=base, epochs=2)
    merge(tmp_path / "checkpoint", tmp_path / "whole", MODEL_DEFAULTS)
    assert json.loads((tmp_path / "whole" / "generation_config.json").read_text())["do_sample"] is True
    for folder in ("checkpoint", "whole"):
        assert answers(tmp_path / folder) == answers_of_transformers(tmp_path / folder), "greedily, all the same"


@pytest.mark.parametrize(
    ("section", "trainer"),
    [
        ({"method": "lora"}, "SftTrainer"),
        ({"launch": {"kind": "accelerate", "processes": 2}}, "AccelerateTrainer"),
        ({"launch": {"kind": "ray"}}, "RayTrainer"),
        ({"kind": "command", "command": [sys.executable, "{data}{out}"]}, "ExternalTrainer"),
        ({"kind": "custom", "class": "support.counting:CountingTrainer", "options": {"steps": 2}}, "CountingTrainer"),
    ],
)
def test_every_section_builds_its_trainer(
    section: dict[str, object], trainer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    recipe = parse({"training": section})
    context: Any = SimpleNamespace(recipe=recipe, workers=None)
    assert type(build(recipe.training, context)).__name__ == trainer
