"""What parent and worker processes exchange in the folder of a job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from support.counting import CountingTrainer
from support.recording import RecordingProgress
from support.training import FULL, job_in
from tapir.domain.errors import Interrupted, StoreError, StoreFull, TrainingError
from tapir.domain.progress import Progress
from tapir.domain.training import Preference, TrainJob, TrainReport
from tapir.training.job_folder import PROGRESS, JobFolder, ProgressReader, Rank
from tapir.training.sft import SftTrainer
from tapir.training.worker import RankProgress, train_rank

RANK = Rank(1, 4711, "here", 0, 1.0)


@dataclass(frozen=True, slots=True)
class FailingTrainer:
    error: Exception

    def train(self, job: TrainJob, progress: Progress) -> TrainReport:  # noqa: ARG002
        raise self.error


def test_a_trainer_and_its_job_arrive_as_they_were_written(tmp_path: Path) -> None:
    folder, trainer = JobFolder(tmp_path / "launch"), SftTrainer(FULL.model_copy(update={"packing": True}))
    job = replace(job_in(tmp_path), preferences=[Preference("b" * 16, "Say\u2028hello.", "Hello.\n", "\ud800")])
    folder.write_job(trainer, job)
    assert folder.read_job() == (trainer, job)


def test_what_an_earlier_attempt_left_is_gone(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "launch")
    folder.write_job(CountingTrainer(), job_in(tmp_path))
    folder.write_rank(RANK)
    folder.request_stop()
    folder.write_report(TrainReport(1, (), 1, 1))
    assert (folder.ranks(), folder.stop_requested, folder.report()) == ([RANK], True, TrainReport(1, (), 1, 1))
    folder.write_job(CountingTrainer(), job_in(tmp_path))
    assert (folder.ranks(), folder.stop_requested, folder.report()) == ([], False, None)


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_a_job_that_is_damaged_or_not_there_is_an_error_of_ours(tmp_path: Path, kept: int) -> None:
    folder, path = JobFolder(tmp_path / "launch"), tmp_path / "launch" / "job.pickle"
    with pytest.raises(StoreError, match="No such file"):
        folder.read_job()
    folder.write_job(SftTrainer(FULL), job_in(tmp_path))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StoreError, match=r"job\.pickle cannot be read") as caught:
        folder.read_job()
    assert "tapir resume" in caught.value.remedy


@pytest.mark.parametrize("error", [TrainingError("what", remedy="do"), StoreFull("what", remedy="do"), KeyError("x")])
def test_an_error_of_ours_arrives_with_its_class_and_remedy_and_any_other_as_text(
    error: Exception, tmp_path: Path
) -> None:
    folder = JobFolder(tmp_path / "launch")
    folder.write_job(FailingTrainer(error), job_in(tmp_path))
    assert not train_rank(folder.path)
    (rank,) = folder.ranks()
    assert (rank.state, rank.cause) == ("failed", f"{type(error).__name__}: {error}")
    assert "raise self.error" in rank.trace
    if isinstance(error, KeyError):
        assert rank.error is None
    else:
        assert type(rank.error) is type(error)
        assert (str(rank.error), getattr(rank.error, "remedy", "")) == ("what", "do")


def test_the_parent_sees_the_progress_of_the_first_rank_only(tmp_path: Path) -> None:
    first, second = RankProgress(JobFolder(tmp_path), 0, 1), RankProgress(JobFolder(tmp_path), 1, 2)
    heard = RecordingProgress()
    reader = ProgressReader(tmp_path / PROGRESS, heard)
    reader.pass_on()
    assert not reader.begun
    for progress in (first, second):
        progress.start(2, "train", 9, 4)
        progress.note("a line\u2028of one")
        progress.measure(loss=0.5, step=5)
        progress.advance(3)
        progress.finish()
    reader.pass_on()
    reader.pass_on()
    assert reader.begun
    assert (heard.starts, heard.notes) == ([(2, "train", 9, 4)], ["a line\u2028of one"])
    assert (heard.metrics, heard.done, heard.finished) == ([{"loss": 0.5, "step": 5}], 7, 1)


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    heard, path = RecordingProgress(), tmp_path / PROGRESS
    reader = ProgressReader(path, heard)
    path.write_text('["start", 1, "train", 9, 0]\n["adva')
    reader.pass_on()
    assert heard.done == 0
    with path.open("a") as file:
        file.write('nce", 1]\n')
    reader.pass_on()
    assert heard.done == 1


def test_steps_that_are_made_again_are_not_counted_again(tmp_path: Path) -> None:
    heard = RecordingProgress()
    write, reader = JobFolder(tmp_path).write_event, ProgressReader(tmp_path / PROGRESS, heard)
    write("start", 1, "train", 9, 0)
    write("advance", 5)
    write("start", 1, "train", 9, 2)
    for _ in range(4):
        write("advance", 1)
    reader.pass_on()
    assert (heard.starts, heard.done) == ([(1, "train", 9, 0)], 6)
    assert heard.notes == ["a process of the training was lost; it goes on from step 2"]
    write("finish")
    write("start", 1, "train", 9, 0)
    reader.pass_on()
    assert len(heard.starts) == 2


def test_the_first_rank_reads_the_request_to_stop_and_keeps_to_it(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    progress = RankProgress(folder, 0, 1)
    assert not progress.stopping
    folder.request_stop()
    progress.check()  # the ranks have not agreed to it yet
    assert progress.stopping
    with pytest.raises(Interrupted):
        progress.check()
