"""An evaluation of its own: a folder, benchmarks, and whose answers are measured.

The folder of an evaluation is made like that of a run: what it depends on is in `evaluation.json`, calls are in a
ledger, answers and grades are kept chunk by chunk, and the same command goes on where it was.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tapir import __version__
from tapir.at_work import connected, opened, recorded
from tapir.domain.round import Checkpoint, Evaluation
from tapir.errors import RunExists, RunMismatch
from tapir.roles import Benchmark, Calls, Resource, Student, Watch
from tapir.stages.evaluate import Evaluate
from tapir.store.files import disk_errors, read_json, write_json
from tapir.store.keep import Place
from tapir.store.lock import locked
from tapir.store.rows import EvaluationRow
from tapir.store.run import RunStore
from tapir.watching import Diary

TABLE = "round-0/evaluation"
_FACTS = "evaluation.json"
_BEGUN = {".lock", "log.txt", "manifest.json", f".{_FACTS}.draft", ".manifest.json.draft"}


@dataclass(frozen=True, slots=True)
class Examinee:
    """Whose answers are measured.

    Attributes:
        student: who answers; answers that were recorded elsewhere are a student too.
        checkpoint: what it is asked with.
        resources: roles that hold memory or servers.
        calls: None where nobody calls a model over the network.
    """

    student: Student
    checkpoint: Checkpoint
    resources: Sequence[Resource] = ()
    calls: Calls | None = None


def claim(folder: Path, facts: Mapping[str, Any]) -> None:
    """Make the folder this evaluation's, or see that it is.

    Args:
        folder: of the evaluation.
        facts: everything its results depend on, as JSON: model, settings, digests of files and prompts.

    Raises:
        RunExists: it holds something that is no evaluation.
        RunMismatch: it holds an evaluation of something else; what differs is named.
    """
    with disk_errors(folder):
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        folder.mkdir(parents=True, exist_ok=True)
    if _FACTS not in names and names - _BEGUN:
        raise RunExists(f"{folder} is not empty and is no evaluation", remedy="Choose another folder with --dir.")
    with locked(folder):
        wanted = json.loads(json.dumps(facts))
        if _FACTS not in names:
            write_json(folder / "manifest.json", {"run": uuid.uuid4().hex, "tapir": __version__})
            write_json(folder / _FACTS, wanted)  # last: it makes the folder an evaluation
        there = read_json(folder / _FACTS)
        differing = [
            f"{key}: {there.get(key, 'not set')} -> {wanted.get(key, 'not set')}"
            for key in sorted(there.keys() | wanted.keys())
            if there.get(key) != wanted.get(key)
        ]
    if differing:
        raise RunMismatch(
            f"{folder} holds another evaluation:\n  " + "\n  ".join(differing),
            remedy="Choose another folder with --dir.",
        )


def measure(
    folder: Path, who: Examinee, benchmarks: Sequence[Benchmark], *, chunk: int, seed: int, watch: Watch
) -> list[Evaluation]:
    """Answer and grade every prompt of the benchmarks in a claimed folder; finished work is not done again.

    Returns:
        One evaluation for each benchmark, in order; every answer with its grade is in the table `TABLE`.

    Raises:
        RoleError: a benchmark gave no grade at all.
        RunLocked: another process works there.
        Interrupted: the watch was asked to stop.
    """
    with locked(folder):
        store = RunStore(folder)
        store.verify()
        diary = Diary(watch, store, who.calls)
        with recorded(store), opened(who.resources, store, diary), connected(who.calls, store, diary):
            place = Place(store, diary, 0, seed)
            found = Evaluate(who.student, benchmarks, chunk).run(place, who.checkpoint)
        write_json(folder / "metrics.json", [asdict(one) for one in found])
    return found


def graded(folder: Path) -> list[EvaluationRow]:
    """Every answer of a finished evaluation, with its grade."""
    return RunStore(folder).read(TABLE, EvaluationRow)
