"""The labels a tagger learns from: kept, in a fixed order, failures counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from support import fakes
from support.scripted import Watcher
from tapir.config.annotators import TfidfTaggerConfig
from tapir.data.run.rows import TagRow
from tapir.data.run.store import RunStore
from tapir.domain.completion import Failure
from tapir.domain.errors import RoleError
from tapir.domain.instruction import Instruction
from tapir.domain.task import TaskTag
from tapir.models.taggers.tfidf import TfidfTagger
from tapir.stages.base import StageContext
from tapir.stages.tag import FitTagger

INSTRUCTIONS = [fakes.instruction(task, number) for number in range(20) for task in fakes.LABELS]


def source(order: int, *, fails: str = "") -> tuple[list[str], TfidfTagger]:
    asked: list[str] = []

    def label(instructions: Iterable[Instruction]) -> Iterator[tuple[str, TaskTag | Failure]]:
        for one in list(instructions)[::order]:
            asked.append(one.id)
            failed = fails and one.text.endswith(fails)
            yield one.id, Failure("server", "HTTP 500") if failed else TaskTag(one.text.split()[0])

    return asked, TfidfTagger(TfidfTaggerConfig(labelled=40), fakes.Tagger().taxonomy, label, seed=0, chunk=512)


def place(folder: Path) -> StageContext:
    return StageContext(RunStore(folder), Watcher(), 0, 7)


def test_labels_are_asked_for_once_and_learnt_from_in_a_fixed_order(tmp_path: Path) -> None:
    asked, forwards = source(1)
    first = FitTagger(forwards, 16).run(place(tmp_path / "a"), INSTRUCTIONS)
    assert len(asked) == 40
    _, backwards = source(-1)
    assert FitTagger(backwards, 16).run(place(tmp_path / "b"), INSTRUCTIONS) == first
    assert list(forwards.tag(INSTRUCTIONS)) == list(backwards.tag(INSTRUCTIONS))
    again, resumed = source(1)
    assert FitTagger(resumed, 16).run(place(tmp_path / "a"), INSTRUCTIONS) == first
    assert again == []


def test_labels_that_do_not_come_are_kept_with_their_reason_and_told(tmp_path: Path) -> None:
    here = place(tmp_path)
    FitTagger(source(1, fails="7")[1], 16).run(here, INSTRUCTIONS)
    failed = [row for row in here.store.read("round-0/labels", TagRow) if row.task is None]
    assert failed
    assert {row.failure for row in failed} == {"server: HTTP 500"}
    assert isinstance(here.progress, Watcher)
    assert here.progress.notes == [f"{len(failed)} of 40 labels did not come back: server ({len(failed)})"]


def test_no_label_at_all_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    asked, nobody = source(1, fails="")
    nobody.label = lambda instructions: ((one.id, Failure("server", "HTTP 500")) for one in instructions)  # type: ignore[method-assign]
    with pytest.raises(RoleError, match=r"none of the 40 labels .* server \(40\)"):
        FitTagger(nobody, 16).run(place(tmp_path), INSTRUCTIONS)
    assert asked == []
