"""The encoder tagger: what it learns, keeps, hands back and refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from support import encoders, fakes
from support.encoders import INSTRUCTIONS, LABELS
from support.scripted import Watcher
from tapir.data.corpus import conversation
from tapir.data.run.store import RunStore
from tapir.domain.completion import Failure
from tapir.domain.errors import Interrupted, RoleError
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.roles import Tagger
from tapir.domain.task import TaskTag
from tapir.models.taggers import classifier, encoder
from tapir.models.taggers.encoder import EncoderTagger
from tapir.stages.base import StageContext
from tapir.stages.tag import FitTagger, Tag


def confidences(tagger: Tagger) -> dict[str, float]:
    return {name: tag.confidence for name, tag in tagger.tag(INSTRUCTIONS) if isinstance(tag, TaskTag)}


@pytest.mark.parametrize("make", [encoders.tagger, encoders.embedding_tagger])
@pytest.mark.parametrize("kind", encoders.KINDS)
def test_a_tagger_learns_the_tasks_and_says_how_well(
    bare: dict[str, Path], kind: str, make: Callable[[Path], Tagger]
) -> None:
    tagger = make(bare[kind])
    measured = fakes.taught(tagger, INSTRUCTIONS)
    assert measured is not None
    assert (measured.trained_on, measured.n, measured.abstained) == (45, 15, 0)
    assert measured.accuracy > 0.8
    assert fmean(measured.f1.values()) > 0.8
    assert measured.by_task.keys() == measured.f1.keys() == set(LABELS)
    assert measured.calibration_error is not None
    right = [isinstance(tag, TaskTag) and tag.task == one.text.split()[0] for one, (_, tag) in both(tagger)]
    assert sum(right) / len(right) > 0.8


def both(tagger: Tagger) -> Iterator[tuple[Instruction, tuple[str, TaskTag | Failure]]]:
    return zip(INSTRUCTIONS, tagger.tag(INSTRUCTIONS), strict=True)


def test_confidences_are_calibrated_where_there_are_labels_enough(
    bare: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def surest(calibrate_on: int) -> tuple[float, list[TaskTag | Failure]]:
        monkeypatch.setattr(encoder, "_CALIBRATE_ON", calibrate_on)
        tagger = encoders.tagger(bare["modernbert"], labelled=200, epochs=2)
        measured = fakes.taught(tagger, INSTRUCTIONS)
        assert measured is not None
        assert measured.trained_on == 150
        assert tagger._classifier is not None
        return tagger._classifier.temperature, [tag for _, tag in tagger.tag(INSTRUCTIONS)]

    calibrated, tags = surest(20)
    plain, untouched = surest(1000)
    assert plain == 1.0
    assert calibrated != 1.0
    assert tags != untouched


def test_what_confidences_are_calibrated_on_shares_no_conversation_with_what_is_learnt(
    bare: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[str] = []

    def remember(section: Any, labels: Any, examples: Any, *rest: Any) -> Any:
        learnt.extend(text for text, _ in examples)
        return finetune(section, labels, examples, *rest)

    finetune = classifier.finetune
    monkeypatch.setattr(encoder, "finetune", remember)
    monkeypatch.setattr(encoder, "_CALIBRATE_ON", 10)
    sources = [f"corpus.jsonl:{number // 2} turn {number % 2 + 1}" for number in range(len(INSTRUCTIONS))]
    ours = [
        replace(one, origin=Origin("corpus", source=source)) for one, source in zip(INSTRUCTIONS, sources, strict=True)
    ]
    place = {one.text: conversation(one.origin.source) for one in ours}
    tagger = encoders.tagger(bare["modernbert"], labelled=200, epochs=1)
    sample = tagger.sample(ours, 7)
    measured = tagger.fit([(one, one.text.split()[0]) for one in sample])
    assert measured is not None
    train = tagger._split([(one, one.text.split()[0]) for one in sample]).train
    calibrated = [one.text for one, _ in train[: round(0.15 * len(train))]]
    assert len(calibrated) + len(learnt) == measured.trained_on < len(train)
    assert {place[text] for text in calibrated}.isdisjoint(place[text] for text in learnt)


def test_another_seed_learns_something_else(bare: dict[str, Path]) -> None:
    found = []
    for seed in (7, 7, 8):
        tagger = EncoderTagger(
            encoders.tagger(bare["modernbert"])._section, encoders.TAXONOMY, encoders.truth, seed, 25
        )
        fakes.taught(tagger, INSTRUCTIONS)
        found.append(confidences(tagger))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_a_run_that_goes_on_loads_what_it_fitted_and_tags_the_same(
    bare: dict[str, Path], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    afresh = encoders.tagger(bare["modernbert"])
    measured = fakes.taught(afresh, INSTRUCTIONS)
    monkeypatch.setattr(encoder, "finetune", None)
    resumed = encoders.tagger(bare["modernbert"])
    resumed.open(run, Watcher())
    assert fakes.taught(resumed, INSTRUCTIONS) == measured
    published = encoders.tagger(run / "tagger", labelled=0)
    assert fakes.taught(published, INSTRUCTIONS) is None
    assert list(resumed.tag(INSTRUCTIONS)) == list(afresh.tag(INSTRUCTIONS)) == list(published.tag(INSTRUCTIONS))


@pytest.mark.parametrize("changed", [{"epochs": 2}, {"labelled": 50}, {"learning_rate": 0.02}])
def test_other_labels_or_settings_are_fitted_again(
    bare: dict[str, Path], run: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, float]
) -> None:
    monkeypatch.setattr(encoder, "finetune", None)
    tagger = encoders.tagger(bare["modernbert"], **changed)
    tagger.open(run, Watcher())
    with pytest.raises(TypeError):
        fakes.taught(tagger, INSTRUCTIONS)


@pytest.mark.parametrize("damaged", ["model.safetensors", "fitted.json", "tokenizer.json"])
def test_what_is_damaged_on_disk_is_fitted_again_and_told(
    bare: dict[str, Path], run: Path, tmp_path: Path, damaged: str
) -> None:
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "tagger" / damaged
    file.write_bytes(file.read_bytes()[:60])
    progress = Watcher()
    tagger = encoders.tagger(bare["modernbert"])
    tagger.open(tmp_path, progress)
    assert fakes.taught(tagger, INSTRUCTIONS) is not None
    assert "fitted again" in progress.notes[0]
    whole = encoders.tagger(run / "tagger", labelled=0)
    whole.fit([])
    assert list(tagger.tag(INSTRUCTIONS)) == list(whole.tag(INSTRUCTIONS))


def test_a_half_written_classifier_is_not_taken_for_one(bare: dict[str, Path], run: Path, tmp_path: Path) -> None:
    (tmp_path / ".tagger.draft").mkdir()
    (tmp_path / ".tagger.draft" / "fitted.json").write_bytes((run / "tagger" / "fitted.json").read_bytes())
    tagger = encoders.tagger(bare["modernbert"])
    tagger.open(tmp_path, Watcher())
    fakes.taught(tagger, INSTRUCTIONS)
    assert [one.name for one in tmp_path.iterdir()] == ["tagger"]
    assert (tmp_path / "tagger" / "model.safetensors").exists()


def test_what_it_is_too_unsure_of_has_no_label_and_is_counted(bare: dict[str, Path]) -> None:
    tagger = encoders.tagger(bare["modernbert"], abstain_below=1.0)
    measured = fakes.taught(tagger, INSTRUCTIONS)
    assert measured is not None
    assert (measured.accuracy, measured.abstained) == (0, 15)
    for _, tag in tagger.tag(INSTRUCTIONS):
        assert isinstance(tag, Failure)
        assert tag.kind == "abstained"
        assert any(f"best guess {label} with probability 0." in tag.message for label in LABELS)


def test_instructions_are_taken_a_chunk_at_a_time(run: Path) -> None:
    tagger = encoders.tagger(run / "tagger", labelled=0)
    tagger.fit([])
    taken: list[Instruction] = []

    def source() -> Iterator[Instruction]:
        for one in INSTRUCTIONS:
            taken.append(one)
            yield one

    replies = tagger.tag(source())
    assert taken == []
    next(replies)
    assert len(taken) == 25


def test_a_run_that_is_stopped_while_tagging_ends_with_the_same_table(run: Path, tmp_path: Path) -> None:
    tables = []
    for name, stops in (("whole", [None]), ("cut", [30, 60, None])):
        for stop in stops:
            progress = Watcher(stop_after=stop)
            tagger = encoders.tagger(run / "tagger", labelled=0)
            tagger.open(tmp_path / name, progress)
            place = StageContext(RunStore(tmp_path / name), progress, 0, 7)
            assert FitTagger(tagger, 25).run(place, INSTRUCTIONS) is None
            if stop is None:
                tables.append(Tag(tagger, 25).run(place, INSTRUCTIONS))
            else:
                with pytest.raises(Interrupted):
                    Tag(tagger, 25).run(place, INSTRUCTIONS)
                assert progress.advanced % 25 == 0
    assert tables[0] == tables[1]
    assert (tmp_path / "whole/round-0/tags.parquet").read_bytes() == (
        tmp_path / "cut/round-0/tags.parquet"
    ).read_bytes()


def test_only_the_beginning_of_a_long_instruction_is_read(run: Path) -> None:
    tagger = encoders.tagger(run / "tagger", labelled=0, max_length=8)
    tagger.fit([])
    long = [Instruction.of(f"add number 3 {'please ' * number}", INSTRUCTIONS[0].origin) for number in (50, 5000)]
    ((_, first),), ((_, second),) = (tagger.tag([instruction]) for instruction in long)
    assert first == second


def test_resting_and_going_on_changes_nothing_and_closing_ends_it(run: Path) -> None:
    tagger = encoders.tagger(run / "tagger", labelled=0)
    tagger.rest()
    tagger.fit([])
    before = list(tagger.tag(INSTRUCTIONS))
    tagger.rest()
    assert list(tagger.tag(INSTRUCTIONS)) == before
    tagger.close()
    tagger.close()
    with pytest.raises(RoleError, match="before it was fitted"):
        next(tagger.tag(INSTRUCTIONS))


@pytest.mark.gpu
def test_an_accelerator_gives_the_same_labels_and_is_empty_after_a_rest(run: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    before = torch.cuda.memory_allocated()
    tagger = encoders.tagger(run / "tagger", labelled=0)
    tagger.fit([])
    found = [isinstance(tag, TaskTag) and tag.task == one.text.split()[0] for one, (_, tag) in both(tagger)]
    assert sum(found) / len(found) > 0.8
    assert torch.cuda.memory_allocated() > before
    tagger.rest()
    assert torch.cuda.memory_allocated() == before
