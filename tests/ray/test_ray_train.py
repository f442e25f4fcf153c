"""Ray Train with two workers, on a cluster of its own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from support.counting import CountingTrainer
from support.recording import RecordingProgress, processes_of
from support.training import LONGER, NOISE, STEPS, kill_rank, longer_job_in, losses_apart, weights_apart
from tapir.config.training import RayLaunchConfig
from tapir.domain.errors import MissingExtra, RecipeError, TrainingError
from tapir.training.ray import RayTrainer
from tapir.training.sft import SftTrainer

with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
TWO = RayLaunchConfig(kind="ray", workers=2)


@with_ray
@pytest.mark.slow
def test_workers_of_which_one_is_killed_have_the_loss_curve_of_one_process(
    tmp_path: Path,
) -> None:
    expected = SftTrainer(LONGER).train(longer_job_in(tmp_path / "alone"), RecordingProgress())
    job = longer_job_in(tmp_path)
    progress = RecordingProgress({25: kill_rank(job, 1)})
    report = RayTrainer(SftTrainer(LONGER), TWO).train(job, progress)
    assert progress.starts == [(1, "train", STEPS, 0)]
    assert (progress.done, progress.finished) == (STEPS, 1)
    assert any("a process of the training was lost; it goes on from step 20" in note for note in progress.notes)
    assert losses_apart(expected, report) < NOISE
    assert weights_apart(tmp_path / "alone", tmp_path) < NOISE
    assert processes_of(tmp_path) == []


@with_ray
@pytest.mark.slow
def test_an_error_of_ours_in_a_worker_is_not_tried_again(tmp_path: Path) -> None:
    job = longer_job_in(tmp_path)
    progress = RecordingProgress()
    with pytest.raises(TrainingError, match=r"^the training loss is nan at step 2$") as caught:
        RayTrainer(CountingTrainer(failing="training"), TWO).train(job, progress)
    assert caught.value.remedy == "Lower training.learning_rate."
    assert len(progress.starts) == 1


def test_a_client_address_is_refused_before_anything_starts(tmp_path: Path) -> None:
    trainer = RayTrainer(CountingTrainer(), TWO, "ray://head:10001")
    with pytest.raises(RecipeError, match=r"ray://head:10001"):
        trainer.train(longer_job_in(tmp_path), RecordingProgress())


def test_ray_is_asked_for_by_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir.domain.errors.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="ray") as caught:
        RayTrainer(CountingTrainer(), TWO).check()
    assert caught.value.remedy == "pip install 'tapir-distill[ray]'"
