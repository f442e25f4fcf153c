"""A training that is killed, stopped, runs out of memory or disk, or saves something else than it trained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.paths import ROOT
from support.recording import RecordingProgress
from support.training import FULL, LORA, changed, files_of_at_most, losses, train, weights
from tapir.config.training import LoraConfig, SftConfig
from tapir.domain.errors import Interrupted, StoreFull, TrainingError
from tapir.domain.training import TrainReport
from tapir.training import checkpoints
from tapir.training.callbacks import loss_curve

pytestmark = pytest.mark.slow

OFTEN = changed(FULL, save_every=2, scheduler="cosine", warmup_share=0.2)
WITH_DROPOUT = changed(LORA, save_every=2, lora=LoraConfig(rank=8, alpha=16, dropout=0.2))
KINDS = {"full": OFTEN, "lora": WITH_DROPOUT}
KILLED = """
import os, signal, sys
from pathlib import Path
from support.recording import RecordingProgress
from support.training import train
from unit.training.test_resume import KINDS

progress = RecordingProgress({5: lambda: os.kill(os.getpid(), signal.SIGKILL)})
train(Path(sys.argv[1]), KINDS[sys.argv[2]], progress=progress)
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that are killed: sums over other numbers of threads round differently."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, TrainReport]]:
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    return {kind: (folders[kind], train(folders[kind], config)) for kind, config in KINDS.items()}


def same_end(folder: Path, report: TrainReport, wanted: tuple[Path, TrainReport]) -> None:
    """The same bytes, and the same curve up to how float sums are split."""
    files, expected = ((run / "checkpoint").glob("*.safetensors") for run in (folder, wanted[0]))
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in expected]
    assert [step for step, _ in report.loss] == [step for step, _ in wanted[1].loss]
    assert losses(report) == pytest.approx(losses(wanted[1]), rel=1e-6)
    assert (report.steps, report.tokens) == (wanted[1].steps, wanted[1].tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_is_killed_goes_on_to_the_same_bytes(
    kind: str, tmp_path: Path, unharmed: dict[str, tuple[Path, TrainReport]]
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), kind],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "checkpoint").exists()
    progress = RecordingProgress()
    report = train(tmp_path, KINDS[kind], progress=progress)
    assert progress.resumes == [(12, 4)]  # in the middle of the second epoch of three steps
    same_end(tmp_path, report, unharmed[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_is_stopped_saves_and_goes_on_to_the_same_bytes(
    kind: str, tmp_path: Path, unharmed: dict[str, tuple[Path, TrainReport]]
) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, KINDS[kind], progress=RecordingProgress(stops_after=5))
    assert not (tmp_path / "checkpoint").exists()
    progress = RecordingProgress()
    report = train(tmp_path, KINDS[kind], progress=progress)
    assert (progress.resumes, progress.steps) == ([(12, 5)], 7)
    same_end(tmp_path, report, unharmed[kind])


def test_a_training_checkpoint_that_was_not_saved_to_its_end_is_not_used(tmp_path: Path) -> None:
    for step, complete in ((2, True), (4, True), (6, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{step}" / "complete").touch()
    assert checkpoints.last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert not (tmp_path / "checkpoint-6").exists()


@pytest.mark.parametrize(
    ("name", "kept", "goes_on"),
    [("optimizer.pt", 0, 2), ("model.safetensors", 100, 2), ("rng_state.pth", 0, 2), ("trainer_state.json", 0, 2)],
)
def test_a_training_checkpoint_that_cannot_be_loaded_is_set_aside_and_the_one_before_is_used(
    name: str, kept: int, goes_on: int, tmp_path: Path, unharmed: dict[str, tuple[Path, TrainReport]]
) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, OFTEN, progress=RecordingProgress(stops_after=4))
    os.truncate(tmp_path / "training" / "checkpoint-4" / name, kept)
    (tmp_path / "training" / "damaged-checkpoint-4" / "of an earlier time").mkdir(parents=True)
    progress = RecordingProgress()
    report = train(tmp_path, OFTEN, progress=progress)
    (note,) = progress.notes
    assert "checkpoint-4 cannot be loaded, is now damaged-checkpoint-4, and is not used" in note
    assert progress.resumes == [(12, 4), (12, goes_on)]
    same_end(tmp_path, report, unharmed["full"])


def test_an_error_that_is_none_of_the_checkpoint_leaves_it_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unharmed: dict[str, tuple[Path, TrainReport]]
) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, OFTEN, progress=RecordingProgress(stops_after=4))

    def unreachable(*_: object, **__: object) -> None:
        raise ValueError("the tracker cannot be reached")

    with monkeypatch.context() as patched:
        patched.setattr("transformers.trainer_callback.CallbackHandler.on_train_begin", unreachable)
        with pytest.raises(ValueError, match="tracker"):
            train(tmp_path, OFTEN, progress=RecordingProgress())
    progress = RecordingProgress()
    report = train(tmp_path, OFTEN, progress=progress)
    assert progress.resumes == [(12, 4)]
    same_end(tmp_path, report, unharmed["full"])


def test_without_a_training_checkpoint_that_can_be_loaded_it_begins_again(
    tmp_path: Path, unharmed: dict[str, tuple[Path, TrainReport]]
) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, OFTEN, progress=RecordingProgress(stops_after=4))
    for step in (2, 4):
        (tmp_path / "training" / f"checkpoint-{step}" / "scheduler.pt").write_bytes(b"")
    progress = RecordingProgress()
    same_end(tmp_path, train(tmp_path, OFTEN, progress=progress), unharmed["full"])
    assert progress.resumes == [(12, 4), (12, 2), (12, 0)]


def test_an_error_of_the_first_step_sets_no_training_checkpoint_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, OFTEN, progress=RecordingProgress(stops_after=6))
    greedy(monkeypatch, 0, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        train(tmp_path, OFTEN)
    assert (tmp_path / "training" / "checkpoint-6").is_dir()


def test_the_loss_curve_is_the_same_however_often_it_was_interrupted() -> None:
    whole = [
        {"step": 4, "loss": 2.5},
        {"step": 8, "loss": 1.5},
        {"step": 9, "loss": 1.0},
        {"train_loss": 3.0, "step": 9},
    ]
    parts = [{"step": 3, "loss": 2.0}, {"step": 4, "loss": 4.0}, *whole[1:]]
    assert loss_curve(whole, 4, 9) == loss_curve(parts, 4, 9) == [(4, 2.5), (8, 1.5), (9, 1.0)]


def greedy(monkeypatch: pytest.MonkeyPatch, most: int, error: Callable[[], Exception]) -> list[weakref.ref[Any]]:
    """Let a pass over more than `most` examples fail from the sixth step on; returns the models that were trained."""
    import trl

    models: list[weakref.ref[Any]] = []
    plain = trl.SFTTrainer.training_step

    def step(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        models.append(weakref.ref(self.model))
        if len(inputs["input_ids"]) > most and self.state.global_step >= 5:
            raise error()
        return plain(self, model, inputs, *rest)

    monkeypatch.setattr(trl.SFTTrainer, "training_step", step)
    return models


def no_memory() -> Exception:
    """As torch says it about the machine's memory."""
    import torch

    try:
        torch.empty(2**60)
    except RuntimeError as error:
        return error
    raise AssertionError("there is a lot of memory here")


def no_memory_of_a_gpu() -> Exception:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 80 GiB.")


@pytest.mark.parametrize("error", [no_memory, no_memory_of_a_gpu])
def test_out_of_memory_halves_the_pass_once_says_so_and_goes_on_from_the_last_checkpoint(
    error: Callable[[], Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unharmed: dict[str, tuple[Path, TrainReport]],
) -> None:
    greedy(monkeypatch, 4, error)
    progress = RecordingProgress()
    report = train(tmp_path, OFTEN, progress=progress)
    assert progress.notes == ["out of memory with 8 examples in a pass: going on with training.micro_batch = 4"]
    assert progress.resumes == [(12, 0), (12, 4)]
    assert losses(report) == pytest.approx(losses(unharmed["full"][1]), rel=1e-3)


def test_out_of_memory_twice_is_an_error_with_remedies_that_frees_the_memory_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as narrow:
        models = greedy(narrow, 1, no_memory_of_a_gpu)
        with pytest.raises(
            TrainingError, match="out of memory with 4 examples in a pass: CUDA out of memory"
        ) as caught:
            train(tmp_path, OFTEN)
    assert all(word in caught.value.remedy for word in ("micro_batch", "gradient_checkpointing", '"lora"'))
    assert not (tmp_path / "checkpoint").exists()
    assert [model() for model in models] == [None] * len(models)
    progress = RecordingProgress()
    train(tmp_path, changed(OFTEN, micro_batch=1), progress=progress)
    assert progress.resumes == [(12, 4)]


def test_a_training_that_has_ended_holds_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = greedy(monkeypatch, 8, no_memory)
    train(tmp_path)
    assert models
    assert [model() for model in models] == [None] * len(models)


def test_an_error_that_is_not_about_memory_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy(monkeypatch, 0, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    progress = RecordingProgress()
    with pytest.raises(RuntimeError, match="shapes"):
        train(tmp_path, OFTEN, progress=progress)
    assert progress.notes == []


@pytest.mark.parametrize(("kind", "size"), [("full", 2**20), ("full", 9 * 2**20), ("lora", 2**18), ("lora", 600_000)])
def test_a_disk_that_fills_up_while_the_training_is_saved_loses_nothing(
    kind: str, size: int, tmp_path: Path, unharmed: dict[str, tuple[Path, TrainReport]]
) -> None:
    with files_of_at_most(size), pytest.raises(StoreFull):
        train(tmp_path, KINDS[kind])
    assert not (tmp_path / "checkpoint").exists()
    same_end(tmp_path, train(tmp_path, KINDS[kind]), unharmed[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_fills_up_while_the_checkpoint_is_saved_loses_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unharmed: dict[str, tuple[Path, TrainReport]]
) -> None:
    plain = checkpoints.save

    def full(*what: Any) -> checkpoints.Logits:
        with files_of_at_most(2**18):
            return plain(*what)

    with monkeypatch.context() as narrow:
        narrow.setattr(checkpoints, "save", full)
        with pytest.raises(StoreFull):
            train(tmp_path, KINDS[kind])
    assert [path.name for path in tmp_path.iterdir()] == ["training"]
    progress = RecordingProgress()
    same_end(tmp_path, train(tmp_path, KINDS[kind], progress=progress), unharmed[kind])
    assert (progress.resumes, progress.steps) == ([(12, 12)], 0)


def edit_weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    from safetensors.torch import save_file

    tensors = weights(folder)
    change(tensors)
    (file,) = folder.glob("*.safetensors")
    save_file(tensors, file, metadata={"format": "pt"})


def edit_config(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


UP = "model.layers.2.mlp.up_proj"
HARM: dict[str, tuple[SftConfig, Callable[[Path], None]]] = {
    "a weight is missing": (FULL, lambda draft: edit_weights(draft, lambda found: found.pop(f"{UP}.weight"))),
    "a weight is zero": (FULL, lambda draft: edit_weights(draft, lambda found: found[f"{UP}.weight"].zero_())),
    "the output is not tied": (FULL, lambda draft: edit_config(draft / "config.json", tie_word_embeddings=False)),
    "the file is cut": (FULL, lambda draft: os.truncate(draft / "model.safetensors", 4_000_000)),
    "the adapter is scaled": (LORA, lambda draft: edit_config(draft / "adapter_config.json", lora_alpha=8)),
    "an update is zero": (
        LORA,
        lambda draft: edit_weights(draft, lambda found: found[f"base_model.model.{UP}.lora_B.weight"].zero_()),
    ),
    "the adapter's weights are gone": (LORA, lambda draft: (draft / "adapter_model.safetensors").unlink()),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_checkpoint_that_is_not_what_was_trained_is_an_error_and_is_saved_again_by_a_resume(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, change = HARM[harm]
    save = checkpoints.save

    def save_harmed(trainer: Any, tokenizer: Any, draft: Path, *rest: Any) -> checkpoints.Logits:
        trained = save(trainer, tokenizer, draft, *rest)
        change(draft)
        return trained

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", save_harmed)
        with pytest.raises(TrainingError, match="is not the model that was trained"):
            train(tmp_path, config, epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["training"]
    progress = RecordingProgress()
    train(tmp_path, config, epochs=1, progress=progress)
    assert progress.resumes == [(3, 3)]
    assert (tmp_path / "checkpoint").exists()
