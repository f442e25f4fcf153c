"""Ray Train with two workers, on a cluster of its own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tapir.errors import MissingExtra, RecipeError, TrainingError
from tapir.roles import TrainReport
from tapir.training.ray_train import RayLaunchedTrainer, RayLaunchSettings
from tapir.training.sft import SftTrainer
from tests.launch.heard import Heard, processes_of
from tests.launch.lesson import NOISE, STEPS, job_in, kill_rank, losses_apart, settings, weights_apart
from tests.launch.rehearsal import Rehearsal

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
TWO = RayLaunchSettings(2)


@with_ray
@pytest.mark.slow
def test_workers_of_which_one_is_killed_have_the_loss_curve_of_one_process(
    alone: tuple[Path, TrainReport], tmp_path: Path
) -> None:
    job = job_in(tmp_path)
    heard = Heard({25: kill_rank(job, 1)})
    report = RayLaunchedTrainer(SftTrainer(settings()), TWO).train(job, heard)
    assert heard.starts == [(1, "train", STEPS, 0)]
    assert (heard.done, heard.finished) == (STEPS, 1)
    assert any("a process of the training was lost; it goes on from step 20" in note for note in heard.notes)
    assert losses_apart(alone[1], report) < NOISE
    assert weights_apart(alone[0], tmp_path) < NOISE
    assert processes_of(tmp_path) == []


@with_ray
@pytest.mark.slow
def test_an_error_of_ours_in_a_worker_is_not_tried_again(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    heard = Heard()
    with pytest.raises(TrainingError, match=r"^the training loss is nan at step 2$") as caught:
        RayLaunchedTrainer(Rehearsal(failing="training"), TWO).train(job, heard)
    assert caught.value.remedy == "Lower training.learning_rate."
    assert len(heard.starts) == 1


def test_a_client_address_is_refused_before_anything_starts(tmp_path: Path) -> None:
    trainer = RayLaunchedTrainer(Rehearsal(), RayLaunchSettings(2, address="ray://head:10001"))
    with pytest.raises(RecipeError, match=r"ray://head:10001"):
        trainer.train(job_in(tmp_path), Heard())


def test_ray_is_asked_for_by_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="Ray") as caught:
        RayLaunchedTrainer(Rehearsal(), TWO).check()
    assert caught.value.remedy == "pip install 'tapir-distill[ray]'"
