"""The configurations that are shipped, on the GPUs of this machine."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tapir.training.launched import SHIPPED, LaunchedTrainer, LaunchSettings
from tapir.training.ray_train import RayLaunchedTrainer, RayLaunchSettings
from tapir.training.sft import SftTrainer
from tests.launch.heard import Heard
from tests.launch.lesson import job_in, losses_apart, settings, weights_apart

GPUS = torch.cuda.device_count()
NOISE = 1e-3

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.skipif(not GPUS, reason="needs a CUDA device")]


@pytest.mark.parametrize("config", SHIPPED)
def test_every_configuration_computes_what_one_process_does(config: str, tmp_path: Path) -> None:
    if config.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    exact = SftTrainer(replace(settings(), precision="float32"))
    expected = exact.train(job_in(tmp_path / "alone"), Heard())
    launch = LaunchSettings(max(n for n in (1, 2, 4, 8) if n <= GPUS), config)
    found = LaunchedTrainer(exact, launch).train(job_in(tmp_path / "together"), Heard())
    assert losses_apart(expected, found) < NOISE
    assert weights_apart(tmp_path / "alone", tmp_path / "together") < NOISE


def test_a_worker_of_ray_trains_on_its_gpu(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    exact = SftTrainer(replace(settings(), precision="float32"))
    expected = exact.train(job_in(tmp_path / "alone"), Heard())
    found = RayLaunchedTrainer(exact, RayLaunchSettings(1, gpus=1)).train(job_in(tmp_path / "ray"), Heard())
    assert losses_apart(expected, found) < NOISE
