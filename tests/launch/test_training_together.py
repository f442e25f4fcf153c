"""The real trainer in two processes on the CPU: what one process computes, whatever happens on the way."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from tapir.errors import Interrupted, TrainingError
from tapir.roles import TrainJob, TrainReport
from tapir.training.attempt import Attempt, Command
from tapir.training.launched import LaunchedTrainer, LaunchSettings
from tapir.training.sft import SftTrainer
from tests.launch.heard import Heard, processes_of
from tests.launch.lesson import NOISE, STEPS, job_in, kill_rank, losses_apart, settings, weights_apart

pytestmark = pytest.mark.slow

TWO = LaunchSettings(2)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    folder = tmp_path_factory.mktemp("together")
    heard = Heard()
    report = LaunchedTrainer(SftTrainer(settings()), TWO).train(job_in(folder), heard)
    assert (heard.starts, heard.done, heard.finished) == ([(1, "train", STEPS, 0)], STEPS, 1)
    assert heard.figures
    return folder, report


def test_two_processes_have_the_loss_curve_and_the_weights_of_one(
    alone: tuple[Path, TrainReport], together: tuple[Path, TrainReport]
) -> None:
    assert together[1].steps == STEPS
    assert together[1].tokens == alone[1].tokens
    assert together[1].loss[-1][1] < together[1].loss[0][1] / 2
    assert losses_apart(alone[1], together[1]) < NOISE
    assert weights_apart(alone[0], together[0]) < NOISE


def test_a_training_that_lost_a_rank_goes_on_to_the_same_loss(
    together: tuple[Path, TrainReport], tmp_path: Path
) -> None:
    trainer, job = LaunchedTrainer(SftTrainer(settings()), TWO), job_in(tmp_path)
    with pytest.raises(TrainingError, match=r"rank 1 \(process \d+ on .*\) was killed"):
        trainer.train(job, Heard({25: kill_rank(job, 1)}))
    assert not job.out.exists()
    assert processes_of(tmp_path) == []
    heard = Heard()
    report = trainer.train(job, heard)
    assert 20 <= heard.starts[0][3] < STEPS
    assert losses_apart(together[1], report) < NOISE
    assert weights_apart(together[0], tmp_path) < NOISE


def sharded(job: TrainJob, trainer: SftTrainer, heard: Heard) -> TrainReport:
    attempt = Attempt(job, heard)
    attempt.offer(trainer)
    config = resources.files("tapir.training") / "configs" / "fsdp2.yaml"
    options = ["--config_file", str(config), "--num_processes", "2", "--main_process_port", "0"]
    rank = ["-m", "tests.launch.sharded", str(attempt.folder.path)]
    return attempt.run(Command(["accelerate.commands.launch", *options, *rank], "in shards", restarts=False))


def test_a_sharded_model_is_trained_like_a_whole_one_and_goes_on_from_its_shards(
    alone: tuple[Path, TrainReport], tmp_path: Path
) -> None:
    job, heard = job_in(tmp_path), Heard()
    heard.at[5] = heard.stop
    with pytest.raises(Interrupted):
        sharded(job, SftTrainer(settings()), heard)
    assert list(job.work.glob("checkpoint-*/pytorch_model_fsdp_0/*.distcp"))
    report = sharded(job, SftTrainer(settings()), Heard())
    assert losses_apart(alone[1], report) < NOISE
    assert weights_apart(alone[0], tmp_path) < NOISE


def test_a_loss_that_is_not_a_number_arrives_from_the_ranks_as_what_it_is(tmp_path: Path) -> None:
    trainer = LaunchedTrainer(SftTrainer(settings(learning_rate=1e30)), TWO)
    with pytest.raises(TrainingError, match=r"the training loss is") as caught:
        trainer.train(job_in(tmp_path), Heard())
    assert "training.learning_rate" in caught.value.remedy
    assert not (tmp_path / "checkpoint").exists()
