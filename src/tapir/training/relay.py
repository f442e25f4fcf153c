"""Progress of a training in other processes: what their watch is told comes to the watch of this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tapir.roles import Watch


class ProgressWriter:
    """One line for each thing that happens; the lines of earlier attempts stay."""

    def __init__(self, path: Path) -> None:
        """Write to the end of `path`."""
        self._path = path

    def write(self, what: str, *values: object) -> None:
        """Add a line; it is in the file when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([what, *values], ensure_ascii=False) + "\n")


class ProgressReader:
    """Hands new lines to a watch; `begun` once a first step may have been made.

    A training that begins again after a process was lost (some launchers see to that themselves) starts further
    back than the watch was told before; the watch hears nothing of the steps that it has seen.
    """

    def __init__(self, path: Path, watch: Watch) -> None:
        """Begin at the start of `path`, which need not exist yet."""
        self._path = path
        self._watch = watch
        self._place = 0
        self._stage: list[Any] | None = None
        self._at = self._shown = 0
        self.begun = False

    def hand_on(self) -> None:
        """Tell the watch what is new; a line that is not complete yet waits."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._place)
                new = file.read()
        except FileNotFoundError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._place += len(whole)
        for line in whole.splitlines():
            what, *values = json.loads(line)
            self._tell(what, values)

    def _tell(self, what: str, values: list[Any]) -> None:
        watch = self._watch
        if what == "start":
            self._start(values)
        elif what == "advance":
            self._at += values[0]
            if self._at > self._shown:
                watch.advance(self._at - self._shown)
                self._shown = self._at
        elif what == "note":
            watch.note(values[0])
        elif what == "measure":
            measure = getattr(watch, "measure", None)
            if measure:
                measure(**values[0])
        elif what == "finish":
            self._stage = None
            watch.finish()

    def _start(self, values: list[Any]) -> None:
        number, stage, total, done = values
        again = self._stage == [number, stage, total]
        self._stage = [number, stage, total]
        self._at = done
        self.begun = True
        if again:
            self._watch.note(f"a process of the training was lost; it goes on from step {done}")
        else:
            self._shown = done
            self._watch.start(number, stage, total, done)
