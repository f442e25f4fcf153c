"""What processes tell each other in a job's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.domain.round import Checkpoint
from tapir.errors import Interrupted, StoreFull, TrainingError
from tapir.roles import Example, Preference, TrainJob, TrainReport
from tapir.training.handover import PROGRESS, JobFolder, Rank, described, restored
from tapir.training.relay import ProgressReader, ProgressWriter
from tapir.training.worker import RankWatch
from tests.launch.heard import Heard
from tests.launch.lesson import settings
from tests.launch.rehearsal import Rehearsal

texts = st.text(st.characters(codec="utf-8"))
examples = st.lists(st.builds(Example, texts, texts, texts))
preferences = st.lists(st.builds(Preference, texts, texts, texts, texts))
RANK = Rank(1, 4711, "here", 0, 1.0)


def job(folder: Path) -> TrainJob:
    return TrainJob(Checkpoint("a/model", 2), [], folder / "out", folder / "work", 3, 1.5, 7)


@given(examples, preferences)
def test_a_job_arrives_as_it_was_offered(given_examples: list[Example], given_pairs: list[Preference]) -> None:
    with TemporaryDirectory() as name:
        folder = JobFolder(Path(name) / "launch")
        offered = replace(job(Path(name)), examples=given_examples, preferences=given_pairs)
        folder.offer(Rehearsal(steps=9), offered)
        assert folder.take() == (Rehearsal(steps=9), offered)


def test_settings_within_settings_arrive_as_they_were() -> None:
    whole = replace(settings(), report_to=("tensorboard",))
    assert restored(json.loads(json.dumps(described(whole)))) == whole


def test_a_report_arrives_with_every_figure(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    assert folder.report() is None
    report = TrainReport(2, ((1, 0.1), (2, 1 / 3)), 10, 5, ("a",), ("b",), 7, 6, 1.5, 2.5, ((1, 0.25),))
    folder.hand_back(report)
    assert folder.report() == report


def test_a_trainer_that_cannot_be_made_again_is_refused() -> None:
    @dataclass
    class Holding:
        watch: object

    with pytest.raises(TypeError, match="cannot hold"):
        described(Holding(object()))
    with pytest.raises(TypeError, match="no dataclass"):
        restored({"class": "builtins:object"})


def test_what_an_earlier_attempt_left_is_gone(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "launch")
    folder.offer(Rehearsal(), job(tmp_path))
    folder.tell(RANK)
    folder.ask_to_stop()
    folder.hand_back(TrainReport(1, (), 1, 1))
    folder.offer(Rehearsal(), job(tmp_path))
    assert (folder.ranks(), folder.must_stop, folder.report()) == ([], False, None)


@pytest.mark.parametrize("kind", [TrainingError, StoreFull])
def test_an_error_of_ours_keeps_its_class_and_its_remedy(kind: type[TrainingError]) -> None:
    error = replace(RANK, state="failed", kind=kind.__name__, message="what", remedy="do").error()
    assert type(error) is kind
    assert (str(error), error.remedy) == ("what", "do")


@pytest.mark.parametrize("kind", ["", "RuntimeError", "annotations", "TapirErrors"])
def test_any_other_error_is_none_of_ours(kind: str) -> None:
    assert replace(RANK, state="failed", kind=kind).error() is None


def test_a_watch_hears_what_the_first_rank_was_told_and_nothing_of_the_others(tmp_path: Path) -> None:
    first, second = RankWatch(JobFolder(tmp_path), 0, 1), RankWatch(JobFolder(tmp_path), 1, 2)
    heard = Heard()
    reader = ProgressReader(tmp_path / PROGRESS, heard)
    reader.hand_on()
    assert not reader.begun
    for watch in (first, second):
        watch.start(2, "train", 9, 4)
        watch.note("a line\u2028of one")
        watch.measure(loss=0.5, step=5)
        watch.advance(3)
        watch.finish()
    reader.hand_on()
    reader.hand_on()
    assert reader.begun
    assert (heard.starts, heard.notes) == ([(2, "train", 9, 4)], ["a line\u2028of one"])
    assert (heard.figures, heard.done, heard.finished) == ([{"loss": 0.5, "step": 5}], 7, 1)


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    heard, path = Heard(), tmp_path / PROGRESS
    reader = ProgressReader(path, heard)
    path.write_text('["start", 1, "train", 9, 0]\n["adva')
    reader.hand_on()
    assert heard.done == 0
    with path.open("a") as file:
        file.write('nce", 1]\n')
    reader.hand_on()
    assert heard.done == 1


def test_steps_that_are_made_again_are_not_counted_again(tmp_path: Path) -> None:
    heard = Heard()
    writer, reader = ProgressWriter(tmp_path / PROGRESS), ProgressReader(tmp_path / PROGRESS, heard)
    writer.write("start", 1, "train", 9, 0)
    writer.write("advance", 5)
    writer.write("start", 1, "train", 9, 2)
    for _ in range(4):
        writer.write("advance", 1)
    reader.hand_on()
    assert (heard.starts, heard.done) == ([(1, "train", 9, 0)], 6)
    assert heard.notes == ["a process of the training was lost; it goes on from step 2"]
    writer.write("finish")
    writer.write("start", 1, "train", 9, 0)
    reader.hand_on()
    assert len(heard.starts) == 2


def test_the_first_rank_sees_the_wish_to_stop_and_remembers_it(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    watch = RankWatch(folder, 0, 1)
    assert not watch.stopping
    folder.ask_to_stop()
    watch.check()  # nobody has agreed to it yet
    assert watch.stopping
    with pytest.raises(Interrupted):
        watch.check()
