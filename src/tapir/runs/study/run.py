"""Runs of a study: child processes in parallel; the prelude that runs of one seed share is computed once.

Where variants differ only from round 1 on, corpus, tags, the untuned student's answers with their scores, and its
evaluation are the same bytes in each of them, so a run may begin with the tables of another.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tapir.config.recipe import Recipe
from tapir.data.files import disk_errors, read_json, replacing, sha256
from tapir.data.run.rows import JUDGED_TABLES, PRELUDE_TABLES
from tapir.data.run.store import CHECKSUMS, RunStore, is_run
from tapir.domain.errors import Interrupted, TapirError, require_same
from tapir.domain.progress import duration
from tapir.models.process import ChildProcess, describe_status
from tapir.runs import session
from tapir.runs.study.grid import StudyRun

_SECTIONS = ("seed", "chunk", "corpus", "teacher", "judge", "tagger", "student", "evaluation", "endpoints", "engine")
_MANIFEST = ("tapir", "target", "inputs", "models", "python", "packages")
_FILES = ("round-0/tagger.json", "round-0/metrics.json")


def prelude_key(recipe: Recipe) -> str:
    """Return a text that is equal for recipes whose runs begin with the same tables."""
    resolved, plan = recipe.resolved(), recipe.curriculum
    facts = {name: resolved.get(name) for name in _SECTIONS}
    facts |= {"warmup_epochs": plan.warmup_epochs, "taxonomy": plan.target.taxonomy}
    facts["novelty"] = plan.novelty.model_dump(mode="json")  # what the corpus may not repeat, expansion or not
    if plan.warmup_epochs:
        facts["training"] = resolved["training"]
    return json.dumps(facts, sort_keys=True)


def copy_prelude(recipe: Recipe, folder: Path, others: Sequence[Path]) -> Path | None:
    """Copy the prelude of another run, the most complete of `others`, into a claimed folder that has none yet.

    Return the run it came from; None where there was none, or work was done in `folder`.
    """
    if recipe.curriculum.warmup_epochs or (folder / CHECKSUMS).exists():
        return None  # a warm-up leaves a checkpoint too, which is not worth copying
    preludes = {other: _prelude(recipe, folder, other) for other in others}
    source = max(preludes, key=lambda other: len(preludes[other]), default=folder)
    tables = preludes.get(source)
    if not tables:
        return None
    with disk_errors(folder):
        (folder / "round-0").mkdir(parents=True, exist_ok=True)
        for name, digest in tables.items():
            shutil.copyfile(source / name, folder / name)
            if sha256(folder / name) != digest:
                (folder / name).unlink()
                return None  # what is damaged there is made anew here
        RunStore(folder).write_checksums(tables)
        for name in _FILES:  # last: without their tables they would be believed
            with replacing(folder / name) as draft:
                shutil.copyfile(source / name, draft)
    return source


def _prelude(recipe: Recipe, folder: Path, other: Path) -> dict[str, str]:
    """Return the tables of another run to copy, with their digests; none where its prelude is unfinished or differs."""
    if not all((other / name).exists() for name in (*_FILES, CHECKSUMS, "recipe.json", "manifest.json")):
        return {}
    try:
        theirs = session.stored_recipe(other)
    except TapirError:
        return {}  # of another version of the program
    manifests = [read_json(path / "manifest.json") for path in (folder, other)]
    if prelude_key(theirs) != prelude_key(recipe) or any(
        manifests[0].get(key) != manifests[1].get(key) for key in _MANIFEST
    ):
        return {}
    ours = recipe.curriculum.difficulty
    compared = {*recipe.curriculum.compare} & {*theirs.curriculum.compare}
    tables = [*PRELUDE_TABLES, *(f"round-0/compared-{name}" for name in compared - {"pass-rate"})]  # may be set apart
    if ours == theirs.curriculum.difficulty:
        tables += JUDGED_TABLES if ours.kind == "mfd" else ["round-0/estimates"]
    wanted = {f"{name}.parquet" for name in tables}
    return {name: digest for name, digest in RunStore(other).checksums().items() if name in wanted}


LOG = "study.log"
_POLL = 0.2  # seconds between two looks at the processes
_ORPHAN_GRACE = 60  # seconds that a run has to stop in order when the study is gone
_LINES = 20  # of a log in which its error is looked for
_STOPPED = {Interrupted.exit_code, -signal.SIGTERM, -signal.SIGKILL}


def is_finished(run: StudyRun, study: Path) -> bool:
    """Return whether this run is complete, of this very recipe."""
    folder = run.folder(study)
    rounds = run.recipe.curriculum.alpha().rounds
    if not (folder / f"round-{rounds}" / "metrics.json").exists():
        return False
    return not dated(run, study).differences(session.stored_tables(folder))


def dated(run: StudyRun, study: Path, known: Sequence[StudyRun] = ()) -> Recipe:
    """Return the recipe of a run with its date, else that of runs of the study that have begun, else today's."""
    folders = [each.folder(study) for each in (run, *known)]
    return session.dated(run.recipe, next(filter(is_run, folders), folders[0]))


@dataclass(slots=True)
class _Active:
    run: StudyRun
    process: ChildProcess
    began: float
    terminated: bool = False


@dataclass(slots=True)
class RunQueue:
    """Runs of a study: pending, in progress and ended; `signals` counts Ctrl-C and SIGTERM."""

    folder: Path
    known: Sequence[StudyRun]
    threads: int
    report: Callable[[str], None]
    total: int
    pending: list[StudyRun]
    signals: int = 0
    began: float = field(default_factory=time.monotonic)
    active: list[_Active] = field(default_factory=list)
    failed: list[tuple[StudyRun, str]] = field(default_factory=list)
    earlier: int = field(init=False)
    done: int = field(init=False)

    def __post_init__(self) -> None:
        self.done = self.earlier = self.total - len(self.pending)

    def start_next(self) -> None:
        """Start the next pending run; one that cannot be started has failed."""
        run = self.pending.pop(0)
        try:
            process = self._start(run)
        except TapirError as error:
            self._fail(run, str(error))
        else:
            self.active.append(_Active(run, process, time.monotonic()))

    def _start(self, run: StudyRun) -> ChildProcess:
        folder = run.folder(self.folder)
        recipe = dated(run, self.folder, self.known)
        session.claim(recipe, folder, session.preflight(recipe, folder))
        others = [other.folder(self.folder) for other in self.known if other != run and other.seed == run.seed]
        copy_prelude(recipe, folder, others)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.threads))
        return ChildProcess(
            [sys.executable, "-m", "tapir.cli.main", "resume", str(folder)],
            folder / LOG,
            environment={**os.environ, **threads, "NO_COLOR": "1"},
            orphan_grace=_ORPHAN_GRACE,
        )

    def stop_active(self) -> None:
        """Stop every run in order, or with everything it started if asked again."""
        for entry in self.active:
            if self.signals > 1:
                entry.process.kill()
            elif not entry.terminated:
                entry.process.terminate()
                entry.terminated = True

    def collect(self) -> None:
        """Report the runs that have ended."""
        for entry in [entry for entry in self.active if not entry.process.alive]:
            self.active.remove(entry)
            entry.process.kill()  # nothing is left of it
            status = entry.process.status or 0
            if self.signals and status in _STOPPED:
                self.report(self._line(entry.run, "stopped"))
            elif status:
                lines = entry.process.last_lines(_LINES) or ["no output"]
                error = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])
                cause = f"{describe_status(status)}; {entry.process.log}"
                self._fail(entry.run, f"{error.removeprefix('error: ')} ({cause})")
            else:
                self.done += 1
                minutes = f"{(time.monotonic() - entry.began) / 60:.1f} min"
                self.report(self._line(entry.run, minutes + self._time_left()))

    def _fail(self, run: StudyRun, why: str) -> None:
        self.failed.append((run, why))
        self.report(self._line(run, f"FAILED: {why}{self._time_left()}"))

    def _line(self, run: StudyRun, result: str) -> str:
        return f"[{self.done}/{self.total}] {run.variant}, seed {run.seed}: {result}"

    def _time_left(self) -> str:
        new, left = self.done - self.earlier, self.total - self.done - len(self.failed)
        seconds = (time.monotonic() - self.began) / max(1, new) * left
        return f", about {duration(seconds)} left" if new and left else ""


def execute_all(
    runs: Sequence[StudyRun],
    folder: Path,
    *,
    known: Sequence[StudyRun] = (),
    parallel: int,
    threads: int,
    report: Callable[[str], None],
) -> list[tuple[StudyRun, str]]:
    """Execute every run that is not finished, in order; return those that failed, each with its error.

    A run that fails is reported and does not stop the others. The prelude of `known` runs of the study is copied where
    it is the same; the other arguments are those of `tapir.runs.study.execute`.
    """
    for run in runs:
        path = run.folder(folder)
        differing = dated(run, folder).differences(session.stored_tables(path)) if is_run(path) else []
        remedy = "Give the changed variant another name, remove that folder, or choose another with --out."
        require_same(path, "a run of another recipe", differing, remedy=remedy)
    pending = [run for run in runs if not is_finished(run, folder)]
    known = [*runs, *(run for run in known if run not in runs)]
    queue = RunQueue(folder, known, threads, report, len(runs), pending)
    if queue.done:
        report(f"{queue.done} of {queue.total} runs are there from before")
    with _counting_signals(queue):
        while queue.pending or queue.active:
            while queue.pending and len(queue.active) < parallel and not queue.signals:
                queue.start_next()
            if queue.signals:
                queue.stop_active()
            queue.collect()
            if queue.signals and not queue.active:
                raise Interrupted("stopped; every run keeps what it has finished")
            if queue.active:
                time.sleep(_POLL)
    return queue.failed


@contextmanager
def _counting_signals(queue: RunQueue) -> Iterator[None]:
    """Count Ctrl-C and SIGTERM while inside; whatever else ends it ends every run."""

    def on_signal(_number: int, _frame: object) -> None:
        queue.signals += 1

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for entry in queue.active:
            entry.process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)
