"""The configurations that are shipped, on the GPUs of this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from support.recording import RecordingProgress
from support.training import LONGER, changed, longer_job_in, losses_apart, weights_apart
from tapir.config.training import AccelerateLaunchConfig, RayLaunchConfig
from tapir.training.launch import SHIPPED, AccelerateTrainer
from tapir.training.ray import RayTrainer
from tapir.training.sft import SftTrainer

GPUS = torch.cuda.device_count()
NOISE = 1e-3

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.skipif(not GPUS, reason="needs a CUDA device")]


@pytest.mark.parametrize("config", SHIPPED)
def test_every_configuration_computes_what_one_process_does(config: str, tmp_path: Path) -> None:
    if config.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    exact = SftTrainer(changed(LONGER, precision="float32"))
    expected = exact.train(longer_job_in(tmp_path / "alone"), RecordingProgress())
    launch = AccelerateLaunchConfig(
        kind="accelerate", processes=max(n for n in (1, 2, 4, 8) if n <= GPUS), config=config
    )
    found = AccelerateTrainer(exact, launch).train(longer_job_in(tmp_path / "together"), RecordingProgress())
    assert losses_apart(expected, found) < NOISE
    assert weights_apart(tmp_path / "alone", tmp_path / "together") < NOISE


def test_a_worker_of_ray_trains_on_its_gpu(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    exact = SftTrainer(changed(LONGER, precision="float32"))
    expected = exact.train(longer_job_in(tmp_path / "alone"), RecordingProgress())
    found = RayTrainer(exact, RayLaunchConfig(kind="ray", workers=1, gpus=1)).train(
        longer_job_in(tmp_path / "ray"), RecordingProgress()
    )
    assert losses_apart(expected, found) < NOISE
