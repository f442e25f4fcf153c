"""Progress of a run: how far a stage is, on the terminal and in the event log."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tapir.cli.progress import TerminalProgress, attend
from tapir.data.run.reader import RunReader
from tapir.data.run.store import RunStore
from tapir.domain.completion import Spending
from tapir.domain.progress import SilentProgress
from tapir.models.api.session import ApiSession
from tapir.runs import progress as logged
from tapir.runs.progress import EventLog


class Paid(ApiSession):
    """Calls to models of which some were paid for."""

    def __init__(self) -> None:
        super().__init__({})

    def enter(self, number: int, stage: str) -> None:
        self.stage = number, stage

    def spent(self) -> list[Spending]:
        return [Spending(*self.stage, "", calls=33)]


def test_a_run_that_is_killed_in_a_stage_has_logged_how_far_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logged, "_INTERVAL", -1.0)
    monkeypatch.setattr(logged, "_REST", 0.0)
    store = RunStore(tmp_path)
    events = EventLog(SilentProgress(), store, Paid())
    events.start(2, "answer", 200, 64)
    events.advance(32)
    events.advance(1)
    last = list(RunReader(store).events())[-1]
    assert {key: last[key] for key in ("event", "round", "stage", "total", "done")} == {
        "event": "progress",
        "round": 2,
        "stage": "answer",
        "total": 200,
        "done": 97,
    }
    assert [(entry.stage, entry.calls) for entry in RunReader(store).spending()] == [("answer", 33)]


@pytest.mark.parametrize(("takes", "times"), [(0.1, 32), (2.0, 23), (10.0, 5)])
def test_adding_up_what_was_spent_takes_a_small_part_of_the_time(
    takes: float, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, sums = 0.0, 0

    class Slow(Paid):
        def spent(self) -> list[Spending]:
            nonlocal now, sums
            now, sums = now + takes, sums + 1
            return super().spent()

    monkeypatch.setattr("tapir.runs.progress.time.monotonic", lambda: now)
    events = EventLog(SilentProgress(), RunStore(tmp_path), Slow())
    events.start(1, "judge", 10_000)
    while now < 1_000:
        now += 0.25
        events.advance()
    assert sums == times


def test_the_log_of_a_quick_stage_says_no_more_than_that_it_was(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    events = EventLog(SilentProgress(), store)
    events.start(0, "tag", 1_000)
    for _ in range(1_000):
        events.advance()
    events.finish()
    assert [event["event"] for event in RunReader(store).events()] == ["stage", "finished"]


@pytest.mark.parametrize(
    ("advances", "said"),
    [
        ([(130, 1), (145, 5), (260, 54)], ["", "about 5 min 42 s left", "about 2 min 12 s left"]),
        # 80 replies are in the ledger, the others take ten seconds each
        (
            [(11, 80), (31, 2), (51, 2), (71, 2)],
            ["about 6 s left", "about 6 min 20 s left", "about 6 min 0 s left", "about 5 min 40 s left"],
        ),
    ],
)
def test_the_time_left_is_said_once_enough_is_done_to_know_it(
    advances: list[tuple[int, int]], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    file = io.StringIO()
    shown = TerminalProgress(Console(file=file, width=200), 2)
    shown.start(0, "label", 140, 20)
    for seconds, items in advances:
        now[0] = float(seconds)
        shown.advance(items)
    lines = [line.split("/140")[-1].strip() for line in file.getvalue().splitlines()]
    assert lines == said


def test_a_stage_that_starts_again_leaves_no_bar_behind_and_the_cursor_as_it_was() -> None:
    file = io.StringIO()
    shown = TerminalProgress(Console(file=file, width=100, force_terminal=True), 2)
    shown.start(1, "train", 10)
    shown.start(1, "train", 10)  # as training does after it ran out of memory
    shown.close()
    hidden, back = (file.getvalue().count(code) for code in ("\x1b[?25l", "\x1b[?25h"))
    assert hidden == back > 0


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("content", [None, lambda result: result])
def test_a_text_that_the_terminal_cannot_show_does_not_end_the_work(
    encoding: str, content: Callable[[str], str] | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def work(progress: TerminalProgress) -> str:
        progress.note(os.fsdecode(b"runs/caf\xe9 \xe2\x86\x92"))
        return "done"

    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(encoding=encoding)
    attend(tmp_path, work, lambda console, result: console.print(result), content)
    said = "".join(capfd.readouterr())
    assert f"runs/caf? {'?' if encoding == 'ascii' else '→'}" in said
    assert "done" in said
