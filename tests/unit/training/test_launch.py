"""Training in several processes: with a trainer that only counts, and with the real one on the CPU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from support.counting import CountingTrainer, steps_made
from support.recording import RecordingProgress, processes_of
from support.training import LONGER, NOISE, STEPS, kill_rank, longer_job_in, losses_apart, weights_apart
from tapir.config.training import AccelerateLaunchConfig, DpoConfig
from tapir.domain.errors import Interrupted, MissingExtra, RecipeError, TrainingError
from tapir.domain.round import Checkpoint
from tapir.domain.training import Example, Preference, TrainJob, TrainReport
from tapir.training import launch
from tapir.training.job_folder import JobFolder
from tapir.training.launch import FOLDER, LOG, SCRIPT, AccelerateTrainer, LaunchedTraining
from tapir.training.sft import SftTrainer

EXAMPLES = [Example("a" * 16, "Say\u2028hello.", "Hello.\n")]
PREFERENCES = [Preference("b" * 16, "Say hello.", "Hello.", "No.")]
CONFIGS = resources.files("tapir.training") / "configs"


def accelerate(config: str = "ddp", processes: int = 2) -> AccelerateLaunchConfig:
    return AccelerateLaunchConfig(kind="accelerate", processes=processes, config=config)


def counting(steps: int = 3, pause: float = 0.0, failing: str = "") -> AccelerateTrainer:
    return AccelerateTrainer(CountingTrainer(steps, pause, failing=failing), accelerate())


@pytest.fixture
def job(tmp_path: Path) -> Iterator[TrainJob]:
    work = tmp_path / "training"
    work.mkdir()
    yield TrainJob(Checkpoint("none", 0), EXAMPLES, tmp_path / "checkpoint", work, 1, 1.0, 3, PREFERENCES)
    assert processes_of(tmp_path) == []


def states(job: TrainJob) -> list[str]:
    return [rank.state for rank in JobFolder(job.work / FOLDER).ranks()]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.slow
def test_a_stop_ends_all_ranks_after_the_same_step(job: TrainJob) -> None:
    progress = RecordingProgress()
    progress.at[3] = progress.stop
    with pytest.raises(Interrupted):
        counting(steps=60, pause=0.05).train(job, progress)
    assert 3 <= steps_made(job.work) < 60
    assert states(job) == ["stopped", "stopped"]


def test_a_stop_before_the_first_step_does_not_wait_for_one(job: TrainJob) -> None:
    class Hasty(RecordingProgress):
        """Stops as soon as the processes are starting."""

        @property
        def stopping(self) -> bool:
            return (job.work / LOG).exists()

    with pytest.raises(Interrupted):
        counting(steps=10_000, pause=0.05).train(job, Hasty())
    assert steps_made(job.work) == 0


@pytest.mark.slow
def test_a_rank_that_is_terminated_stops_all_of_them_in_order(job: TrainJob) -> None:
    def terminate() -> None:
        os.kill(JobFolder(job.work / FOLDER).ranks()[1].pid, signal.SIGTERM)

    with pytest.raises(Interrupted, match="from outside"):
        counting(steps=10_000, pause=0.05).train(job, RecordingProgress({3: terminate}))
    assert states(job) == ["stopped", "stopped"]


@pytest.mark.slow
def test_an_error_in_one_rank_arrives_as_what_it_was_or_with_its_rank_and_where_it_was_raised(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_PATIENCE", 0.5)  # so that we kill the rank that waits in vain
    with pytest.raises(TrainingError, match=r"^the training loss is nan at step 2$") as caught:
        counting(failing="training").train(job, RecordingProgress())
    assert caught.value.remedy == "Lower training.learning_rate."
    with pytest.raises(TrainingError, match=r"rank 1 ended with RuntimeError: something nobody foresaw") as caught:
        counting(failing="surprise").train(job, RecordingProgress())
    assert "in _fail" in str(caught.value)
    assert str(job.work / LOG) in str(caught.value)
    assert "tapir resume" in caught.value.remedy


@pytest.mark.slow
def test_a_second_machine_joins_with_the_command_that_the_first_has_written(job: TrainJob, tmp_path: Path) -> None:
    config = tmp_path / "two-machines.yaml"
    address = f"main_process_ip: 127.0.0.1\nmain_process_port: {free_port()}\nsame_network: true\n"
    config.write_text((CONFIGS / "ddp.yaml").read_text().replace("num_machines: 1", "num_machines: 2") + address)
    other: list[subprocess.Popen[bytes]] = []

    class Joining(RecordingProgress):
        """Starts the second machine once the first has begun to wait for it."""

        @property
        def stopping(self) -> bool:
            if not other and (job.work / SCRIPT).exists():
                environment = {**os.environ, "MACHINE_RANK": "1"}
                other.append(subprocess.Popen(["sh", str(job.work / SCRIPT)], env=environment))
            return False

    progress = Joining()
    AccelerateTrainer(CountingTrainer(), accelerate(str(config))).train(job, progress)
    assert progress.notes == ["1 examples, 1 preferences, 2 processes"]
    assert other[0].wait(30) == 0


@pytest.mark.parametrize(
    ("config", "content", "message"),
    [
        ("fsdp3", "", r"training\.launch\.config = 'fsdp3' .*; did you mean 'fsdp2'\?"),
        ("no/such.yaml", "", r"training\.launch\.config = 'no/such\.yaml' is neither one of ddp, fsdp2, zero2, zero3"),
        ("", "", "is no configuration of accelerate"),
        ("", "- not\n- a table\n", "is no configuration of accelerate"),
        ("", "distributed_type: [\n", "is no configuration of accelerate"),
        ("", "colour: blue\n", "is no configuration of accelerate"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_an_error_in_the_recipe(
    config: str, content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        AccelerateTrainer(CountingTrainer(), accelerate(config or str(path))).check()


def test_a_configuration_in_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text((CONFIGS / "ddp.yaml").read_text("utf-8"), encoding="utf-8")
    assert AccelerateTrainer(CountingTrainer(), accelerate("~/mine.yaml")).check() == 1


def test_gpus_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(RecipeError, match=r"training\.launch\.config = 'fsdp2' shares a model between GPUs"):
        AccelerateTrainer(CountingTrainer(), accelerate("fsdp2")).check()
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    AccelerateTrainer(CountingTrainer(), accelerate("fsdp2", 4)).check()
    with pytest.raises(RecipeError, match=r"training\.launch\.processes = 8, but there are 4 GPUs"):
        AccelerateTrainer(CountingTrainer(), accelerate(processes=8)).check()


def test_preferences_with_an_adapter_are_refused_where_fsdp_would_share_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    adapter = LONGER.model_copy(update={"method": "lora", "dpo": DpoConfig()})
    with pytest.raises(
        RecipeError, match=r"\[training\.dpo\] with training\.method = 'lora' cannot be .* 'fsdp2'"
    ) as caught:
        AccelerateTrainer(SftTrainer(adapter), accelerate("fsdp2")).check()
    assert all(way in caught.value.remedy for way in ('"zero3"', '"full"'))
    AccelerateTrainer(SftTrainer(adapter), accelerate("ddp")).check()
    AccelerateTrainer(SftTrainer(adapter.model_copy(update={"method": "full"})), accelerate("fsdp2")).check()


def test_a_missing_deepspeed_is_an_error_before_anything_starts(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "deepspeed" else object())
    with pytest.raises(MissingExtra, match="DeepSpeed") as caught:
        AccelerateTrainer(CountingTrainer(), accelerate("zero3")).train(job, RecordingProgress())
    assert caught.value.remedy == "pip install deepspeed"
    assert list(job.work.iterdir()) == []


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    folder = tmp_path_factory.mktemp("together")
    progress = RecordingProgress()
    report = AccelerateTrainer(SftTrainer(LONGER), accelerate()).train(longer_job_in(folder), progress)
    assert (progress.starts, progress.done, progress.finished) == ([(1, "train", STEPS, 0)], STEPS, 1)
    assert progress.metrics
    return folder, report


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_and_the_weights_of_one(
    alone: tuple[Path, TrainReport], together: tuple[Path, TrainReport]
) -> None:
    assert together[1].steps == STEPS
    assert together[1].tokens == alone[1].tokens
    assert together[1].loss[-1][1] < together[1].loss[0][1] / 2
    assert losses_apart(alone[1], together[1]) < NOISE
    assert weights_apart(alone[0], together[0]) < NOISE


@pytest.mark.slow
def test_a_training_that_lost_a_rank_goes_on_to_the_same_loss(
    together: tuple[Path, TrainReport], tmp_path: Path
) -> None:
    trainer, job = AccelerateTrainer(SftTrainer(LONGER), accelerate()), longer_job_in(tmp_path)
    with pytest.raises(TrainingError, match=r"rank 1 \(process \d+ on .*\) was killed"):
        trainer.train(job, RecordingProgress({25: kill_rank(job, 1)}))
    assert not job.out.exists()
    assert processes_of(tmp_path) == []
    progress = RecordingProgress()
    report = trainer.train(job, progress)
    assert 20 <= progress.starts[0][3] < STEPS
    assert losses_apart(together[1], report) < NOISE
    assert weights_apart(together[0], tmp_path) < NOISE


def train_in_shards(job: TrainJob, progress: RecordingProgress) -> TrainReport:
    training = LaunchedTraining(SftTrainer(LONGER), job, progress, "in shards")
    options = ["--config_file", str(CONFIGS / "fsdp2.yaml"), "--num_processes", "2", "--main_process_port", "0"]
    rank = ["-m", "support.sharded", str(training.folder.path)]
    return training.run(["accelerate.commands.launch", *options, *rank])


@pytest.mark.slow
def test_a_sharded_model_is_trained_like_a_whole_one_and_goes_on_from_its_shards(
    alone: tuple[Path, TrainReport], tmp_path: Path
) -> None:
    job, progress = longer_job_in(tmp_path), RecordingProgress()
    progress.at[5] = progress.stop
    with pytest.raises(Interrupted):
        train_in_shards(job, progress)
    assert list(job.work.glob("checkpoint-*/pytorch_model_fsdp_0/*.distcp"))
    report = train_in_shards(job, RecordingProgress())
    assert losses_apart(alone[1], report) < NOISE
    assert weights_apart(alone[0], tmp_path) < NOISE
