"""Processes that train together: what they are told, what they tell, and how they end. The trainer only counts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir.domain.round import Checkpoint
from tapir.errors import Interrupted, MissingExtra, RecipeError, TrainingError
from tapir.roles import Example, Preference, TrainJob
from tapir.training import launched
from tapir.training.attempt import FOLDER, LOG
from tapir.training.handover import JobFolder
from tapir.training.launched import SCRIPT, LaunchedTrainer, LaunchSettings
from tests.launch.heard import Heard, processes_of
from tests.launch.rehearsal import Rehearsal, steps_made

EXAMPLES = [Example("a" * 16, "Say\u2028hello.", "Hello.\n")]
PREFERENCES = [Preference("b" * 16, "Say hello.", "Hello.", "No.")]
TWO = LaunchSettings(2)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[TrainJob]:
    work = tmp_path / "training"
    work.mkdir()
    yield TrainJob(Checkpoint("none", 0), EXAMPLES, tmp_path / "checkpoint", work, 1, 1.0, 3, PREFERENCES)
    assert processes_of(tmp_path) == []


def send(job: TrainJob, number: int, what: signal.Signals) -> None:
    os.kill(JobFolder(job.work / FOLDER).ranks()[number].pid, what)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_the_watch_and_the_report_come_from_the_first_of_two_processes(job: TrainJob) -> None:
    heard = Heard()
    report = LaunchedTrainer(Rehearsal(steps=4), TWO).train(job, heard)
    assert (report.steps, report.loss[-1]) == (4, (4, 0.25))
    assert heard.starts == [(1, "train", 4, 0)]
    assert heard.notes == ["1 examples, 1 preferences, 2 processes"]
    assert heard.figures == [{"loss": 1.0}, {"loss": 1 / 2}, {"loss": 1 / 3}, {"loss": 1 / 4}]
    assert (heard.done, heard.finished) == (4, 1)


def test_a_stop_ends_all_ranks_after_the_same_step(job: TrainJob) -> None:
    trainer = LaunchedTrainer(Rehearsal(steps=60, pause=0.05), TWO)
    heard = Heard()
    heard.at[3] = heard.stop
    with pytest.raises(Interrupted):
        trainer.train(job, heard)
    assert 3 <= steps_made(job.work) < 60
    assert [rank.state for rank in JobFolder(job.work / FOLDER).ranks()] == ["stopped", "stopped"]


def test_a_stop_before_the_first_step_does_not_wait_for_one(job: TrainJob) -> None:
    class Hasty(Heard):
        """Stops as soon as the processes are starting."""

        @property
        def stopping(self) -> bool:
            return (job.work / LOG).exists()

    with pytest.raises(Interrupted):
        LaunchedTrainer(Rehearsal(steps=10_000, pause=0.05), TWO).train(job, Hasty())
    assert steps_made(job.work) == 0


def test_a_rank_that_is_terminated_stops_all_of_them_in_order(job: TrainJob) -> None:
    trainer = LaunchedTrainer(Rehearsal(steps=10_000, pause=0.05), TWO)
    with pytest.raises(Interrupted, match="from outside"):
        trainer.train(job, Heard({3: lambda: send(job, 1, signal.SIGTERM)}))
    assert [rank.state for rank in JobFolder(job.work / FOLDER).ranks()] == ["stopped", "stopped"]


def test_an_error_of_ours_in_one_rank_arrives_as_what_it_was_with_its_remedy(job: TrainJob) -> None:
    trainer = LaunchedTrainer(Rehearsal(failing="training"), TWO)
    with pytest.raises(TrainingError, match=r"^the training loss is nan at step 2$") as caught:
        trainer.train(job, Heard())
    assert caught.value.remedy == "Lower training.learning_rate."


def test_an_error_that_nobody_foresaw_is_told_with_its_rank_and_where_it_was_raised(job: TrainJob) -> None:
    trainer = LaunchedTrainer(Rehearsal(failing="surprise"), TWO)
    with pytest.raises(TrainingError, match=r"rank 1 ended with RuntimeError: something nobody foresaw") as caught:
        trainer.train(job, Heard())
    assert "in _fail" in str(caught.value)
    assert str(job.work / LOG) in str(caught.value)
    assert "tapir resume" in caught.value.remedy


def test_a_killed_rank_ends_the_others(job: TrainJob) -> None:
    trainer = LaunchedTrainer(Rehearsal(steps=400, pause=0.02), TWO)
    with pytest.raises(TrainingError, match=r"rank 1 \(process \d+ on .*\) was killed, or its machine ran out"):
        trainer.train(job, Heard({5: lambda: send(job, 1, signal.SIGKILL)}))
    assert 5 <= steps_made(job.work) < 400
    assert processes_of(job.work) == []


def test_the_processes_do_not_outlive_the_one_that_started_them(job: TrainJob) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from tapir.domain.round import Checkpoint; from tapir.roles import TrainJob\n"
        "from tapir.training.launched import LaunchedTrainer, LaunchSettings\n"
        "from tests.launch.heard import Heard; from tests.launch.rehearsal import Rehearsal\n"
        "folder = Path(sys.argv[1])\n"
        "job = TrainJob(Checkpoint('none', 0), [], folder / 'checkpoint', folder / 'training', 1, 1.0, 3)\n"
        "LaunchedTrainer(Rehearsal(steps=10_000, pause=0.05), LaunchSettings(2)).train(job, Heard())\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", script, str(job.work.parent)], cwd=root) as parent:
        while parent.poll() is None and steps_made(job.work) < 2:
            time.sleep(0.05)
        assert len(processes_of(job.work)) >= 3
        parent.kill()
    deadline = time.monotonic() + 30
    while processes_of(job.work) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(job.work) == []


def test_a_second_machine_joins_with_the_command_that_the_first_has_written(job: TrainJob, tmp_path: Path) -> None:
    config = tmp_path / "two-machines.yaml"
    shipped = (Path(launched.__file__).parent / "configs" / "ddp.yaml").read_text()
    here = f"main_process_ip: 127.0.0.1\nmain_process_port: {free_port()}\nsame_network: true\n"
    config.write_text(shipped.replace("num_machines: 1", "num_machines: 2") + here)
    other: list[subprocess.Popen[bytes]] = []

    class Joining(Heard):
        """Starts the second machine once the first has begun to wait for it."""

        @property
        def stopping(self) -> bool:
            if not other and (job.work / SCRIPT).exists():
                environment = {**os.environ, "MACHINE_RANK": "1"}
                other.append(subprocess.Popen(["sh", str(job.work / SCRIPT)], env=environment))
            return False

    heard = Joining()
    LaunchedTrainer(Rehearsal(), LaunchSettings(2, str(config))).train(job, heard)
    assert heard.notes == ["1 examples, 1 preferences, 2 processes"]
    assert other[0].wait(30) == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("fsdp3", r"training\.launch\.config = 'fsdp3' .*; did you mean 'fsdp2'\?"),
        ("no/such.yaml", r"training\.launch\.config = 'no/such\.yaml' is neither one of ddp, fsdp2, zero2, zero3 nor"),
    ],
)
def test_a_configuration_that_is_not_there_is_a_mistake_in_the_recipe(config: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        LaunchedTrainer(Rehearsal(), LaunchSettings(2, config)).check()


@pytest.mark.parametrize("content", ["- not\n- a table\n", "distributed_type: [\n", "colour: blue\n", ""])
def test_a_file_that_accelerate_cannot_read_is_a_mistake_in_the_recipe(content: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(RecipeError, match="is no configuration of accelerate"):
        LaunchedTrainer(Rehearsal(), LaunchSettings(2, str(file))).check()


def test_a_configuration_for_gpus_is_refused_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(RecipeError, match=r"training\.launch\.config = 'fsdp2' shares a model between GPUs"):
        LaunchedTrainer(Rehearsal(), LaunchSettings(2, "fsdp2")).check()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    LaunchedTrainer(Rehearsal(), LaunchSettings(4, "fsdp2")).check()
    with pytest.raises(RecipeError, match=r"training\.launch\.processes = 8, but there are 4 GPUs"):
        LaunchedTrainer(Rehearsal(), LaunchSettings(8)).check()


def test_deepspeed_is_asked_for_by_its_command_before_anything_starts(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "deepspeed" else object())
    with pytest.raises(MissingExtra, match="DeepSpeed") as caught:
        LaunchedTrainer(Rehearsal(), LaunchSettings(2, "zero3")).train(job, Heard())
    assert caught.value.remedy == "pip install deepspeed"
    assert list(job.work.iterdir()) == []
