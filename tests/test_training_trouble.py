"""A training that is killed, stopped, runs out of memory or disk, or saves something else than it trained."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapir.errors import Interrupted, StoreFull, TrainingError
from tapir.roles import TrainReport
from tapir.training import saving
from tapir.training.progress import curve
from tapir.training.sft import LoraSettings, SftSettings
from tests.tuning import LORA, SETTINGS, Heard, train, weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
OFTEN = replace(SETTINGS, save_every=2, scheduler="cosine", warmup_share=0.2)
WITH_DICE = replace(LORA, save_every=2, lora=LoraSettings(8, 16, 0.2, ("all-linear",)))
KINDS = {"full": OFTEN, "lora": WITH_DICE}
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.test_training_trouble import KINDS
from tests.tuning import Heard, train

class Killer(Heard):
    def advance(self, items=1):
        super().advance(items)
        if self.steps == 5:
            os.kill(os.getpid(), signal.SIGKILL)

train(Path(sys.argv[1]), KINDS[sys.argv[2]], watch=Killer())
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
    found = {}
    for name, settings in KINDS.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = (folder, train(folder, settings))
    return found


def same_end(folder: Path, report: TrainReport, wanted: tuple[Path, TrainReport]) -> None:
    """The same bytes, and the same curve up to how float sums are split."""
    one, other = ((where / "checkpoint").glob("*.safetensors") for where in (folder, wanted[0]))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]
    assert [step for step, _ in report.loss] == [step for step, _ in wanted[1].loss]
    assert [loss for _, loss in report.loss] == pytest.approx([loss for _, loss in wanted[1].loss], rel=1e-6)
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
    watch = Heard()
    report = train(tmp_path, KINDS[kind], watch=watch)
    assert watch.starts == [(12, 4)]  # in the middle of the second epoch of three steps
    same_end(tmp_path, report, unharmed[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_is_stopped_saves_and_goes_on_to_the_same_bytes(
    kind: str, tmp_path: Path, unharmed: dict[str, tuple[Path, TrainReport]]
) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, KINDS[kind], watch=Heard(stops_after=5))
    assert not (tmp_path / "checkpoint").exists()
    watch = Heard()
    report = train(tmp_path, KINDS[kind], watch=watch)
    assert (watch.starts, watch.steps) == ([(12, 5)], 7)
    same_end(tmp_path, report, unharmed[kind])


def test_a_training_checkpoint_that_was_not_saved_to_its_end_is_not_used(tmp_path: Path) -> None:
    for step, complete in ((2, True), (4, True), (6, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{step}" / "complete").touch()
    assert saving.last_complete(tmp_path) == tmp_path / "checkpoint-4"
    assert not (tmp_path / "checkpoint-6").exists()


def test_the_loss_curve_is_the_same_however_often_it_was_interrupted() -> None:
    whole = [
        {"step": 4, "loss": 2.5},
        {"step": 8, "loss": 1.5},
        {"step": 9, "loss": 1.0},
        {"train_loss": 3.0, "step": 9},
    ]
    parts = [{"step": 3, "loss": 2.0}, {"step": 4, "loss": 4.0}, *whole[1:]]
    assert curve(whole, 4, 9) == curve(parts, 4, 9) == [(4, 2.5), (8, 1.5), (9, 1.0)]


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
    watch = Heard()
    report = train(tmp_path, OFTEN, watch=watch)
    assert watch.notes == ["out of memory with 8 examples in a pass: going on with training.micro_batch = 4"]
    assert watch.starts == [(12, 0), (12, 4)]
    assert [loss for _, loss in report.loss] == pytest.approx([loss for _, loss in unharmed["full"][1].loss], rel=1e-3)


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
    watch = Heard()
    train(tmp_path, replace(OFTEN, micro_batch=1), watch=watch)
    assert watch.starts == [(12, 4)]


def test_a_training_that_has_ended_holds_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = greedy(monkeypatch, 8, no_memory)
    train(tmp_path)
    assert models
    assert [model() for model in models] == [None] * len(models)


def test_an_error_that_is_not_about_memory_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy(monkeypatch, 0, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    watch = Heard()
    with pytest.raises(RuntimeError, match="shapes"):
        train(tmp_path, OFTEN, watch=watch)
    assert watch.notes == []


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
    plain = saving.save

    def full(*what: Any) -> None:
        with files_of_at_most(2**18):
            plain(*what)

    with monkeypatch.context() as narrow:
        narrow.setattr(saving, "save", full)
        with pytest.raises(StoreFull):
            train(tmp_path, KINDS[kind])
    assert [path.name for path in tmp_path.iterdir()] == ["training"]
    watch = Heard()
    same_end(tmp_path, train(tmp_path, KINDS[kind], watch=watch), unharmed[kind])
    assert (watch.starts, watch.steps) == ([(12, 12)], 0)


def lost(folder: Path) -> None:
    """A weight is not there."""
    rewrite(folder, lambda found: found.pop("model.layers.2.mlp.up_proj.weight"))


def zeroed(folder: Path) -> None:
    """A weight is there, but empty."""
    rewrite(folder, lambda found: found["model.layers.2.mlp.up_proj.weight"].zero_())


def untied(folder: Path) -> None:
    """The output no longer shares the embedding's weights."""
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"tie_word_embeddings": False}))


def torn(folder: Path) -> None:
    """The file ends in the middle."""
    os.truncate(folder / "model.safetensors", 4_000_000)


def scaled(folder: Path) -> None:
    """The adapter counts for half."""
    described = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(described | {"lora_alpha": 8}))


def emptied(folder: Path) -> None:
    """One layer's update is gone."""
    rewrite(folder, lambda found: found["base_model.model.model.layers.2.mlp.up_proj.lora_B.weight"].zero_())


def alone(folder: Path) -> None:
    """The weights are gone."""
    (folder / "adapter_model.safetensors").unlink()


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    from safetensors.torch import save_file

    found = weights(folder)
    change(found)
    (file,) = folder.glob("*.safetensors")
    save_file(found, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("settings", "harm"),
    [
        (SETTINGS, lost),
        (SETTINGS, zeroed),
        (SETTINGS, untied),
        (SETTINGS, torn),
        (LORA, scaled),
        (LORA, emptied),
        (LORA, alone),
    ],
)
def test_a_checkpoint_that_is_not_what_was_trained_is_an_error_and_is_saved_again_by_a_resume(
    settings: SftSettings, harm: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = saving.save

    def harmful(trainer: Any, tokenizer: Any, draft: Path, dtype: Any) -> None:
        plain(trainer, tokenizer, draft, dtype)
        harm(draft)

    with monkeypatch.context() as narrow:
        narrow.setattr(saving, "save", harmful)
        with pytest.raises(TrainingError, match="is not the model that was trained"):
            train(tmp_path, settings, epochs=2)
    assert [path.name for path in tmp_path.iterdir()] == ["training"]
    watch = Heard()
    train(tmp_path, settings, epochs=2, watch=watch)
    assert watch.starts == [(6, 6)]
    assert (tmp_path / "checkpoint").exists()
    shutil.rmtree(tmp_path)
