"""Supervised fine-tuning with the real trainer and the real student."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from support.recording import RecordingProgress
from support.training import EXAMPLES, FULL, LONG, NANO, answers, changed, job_in, template, train, weights
from tapir.config.toml import parse
from tapir.domain.errors import MissingExtra, RecipeError, TrainingError
from tapir.domain.round import Checkpoint
from tapir.domain.training import Example
from tapir.models.local.loading import MODEL_DEFAULTS, ModelSettings, load
from tapir.runs.build import build
from tapir.training.dataset import encode
from tapir.training.model import choose_device
from tapir.training.sft import SftTrainer


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
