"""lm-evaluation-harness as a program of its own, in its own environment: started, followed, and its results read."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir.domain.round import EvalResult
from tapir.errors import DataError, Interrupted, RecipeError, RoleError
from tapir.evaluation.exact import Figures
from tapir.evaluation.statistics import success_rate
from tapir.roles import Watch
from tapir.store.files import disk_errors
from tapir.store.lock import locked
from tapir.students import guard
from tapir.students.checkpoint import base_of

NAME = "harness"
LOG = "harness.log"
_RESULTS = "harness-results"
_LOOK = 0.2  # seconds between two looks at the program
_GRACE = 10.0  # seconds to end in order
_SHOWN = 12  # lines of its log in an error
_TAIL = 20_000  # bytes
_Z = 1.959963984540054
_TRIES = 60.0  # seconds for it to say its version
_PROGRESS = re.compile(rb"Running (\w+) requests:\s+\d+%\|[^|]*\|\s*(\d+)/(\d+)")
_OURS = ("--tasks", "--model", "--model_args", "--output_path", "--use_cache", "--log_samples", "--seed")
_OFFLINE = "OfflineModeIsEnabled|ConnectionError|Couldn't reach|LocalEntryNotFound|Max retries|doesn't exist on the Hub"
_TROUBLE = {
    r"Tasks? (?:were )?not found": "Its own list: `PYTHON -m lm_eval ls tasks`; tasks of yours need --include_path.",
    _OFFLINE: "It loads its data sets from the hub: run it once where the hub can be reached (they stay in the cache), "
    "or give it tasks over local files with `-- --include_path FOLDER`.",
    "No module named|ModuleNotFoundError": "Install what is missing in that environment; `make lm-eval` makes one.",
    "out of memory|OutOfMemoryError": "Lower its batch size: `-- --batch_size 1`.",
    "chat_template is not set|no chat template": "The checkpoint has no chat template: `--no-chat`.",
}


@dataclass(frozen=True, slots=True)
class Harness:
    """One run of the harness.

    Attributes:
        python: of the environment that lm_eval is installed in.
        checkpoint: folder or hub id of the student; an adapter is put on its model.
        tasks: names as the harness knows them.
        options: what else it is told, as on its own command line.
        chat: whether prompts are put in the student's chat template.
        seed: for all its randomness.
    """

    python: str
    checkpoint: str
    tasks: tuple[str, ...]
    options: tuple[str, ...]
    chat: bool
    seed: int

    def check(self) -> str:
        """The version of lm_eval there.

        Raises:
            RecipeError: an option is set twice, or there are no tasks, or the checkpoint cannot be named.
            RoleError: there is no such environment, or lm_eval is not in it.
        """
        if not self.tasks:
            raise RecipeError("--tasks names no task", remedy="For example --tasks ifeval,gsm8k.")
        for option in self.options:
            if option.split("=")[0] in _OURS:
                raise RecipeError(f"{option} is set by tapir", remedy="Leave it out after --.")
        if "," in self.checkpoint:
            raise RecipeError(
                f"{self.checkpoint}: the harness splits names at commas", remedy="Rename or link the folder."
            )
        program = "from importlib.metadata import version; print(version('lm_eval'))"
        remedy = "`make lm-eval` makes an environment for it; name another one with --python."
        try:
            found = subprocess.run(  # noqa: S603 (the user's own interpreter)
                [self.python, "-c", program], capture_output=True, text=True, timeout=_TRIES, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RoleError(f"{self.python} cannot be run: {error}", remedy=remedy) from error
        if found.returncode:
            raise RoleError(f"lm_eval is not installed beside {self.python}", remedy=remedy)
        return found.stdout.strip()

    def command(self, folder: Path) -> list[str]:
        """What is run; answers are kept in `folder`, so that a second try goes on."""
        base = base_of(self.checkpoint)
        model = f"pretrained={base},peft={self.checkpoint}" if base else f"pretrained={self.checkpoint}"
        return [
            self.python,
            *("-m", "lm_eval", "--model", "hf", "--model_args", model, "--tasks", ",".join(self.tasks)),
            *("--output_path", str(folder / _RESULTS), "--log_samples", "--use_cache", str(folder / "harness-answers")),
            *("--seed", str(self.seed)),
            *(["--apply_chat_template"] if self.chat else []),
            *self.options,
        ]

    def run(self, folder: Path, watch: Watch) -> Figures:
        """Run it, unless its results are there already, and read them.

        Raises:
            RoleError: it died, or left no results; the error says what it said last.
            Interrupted: the watch was asked to stop; the answers it has had are kept.
        """
        with locked(folder):
            if not _newest(folder):
                self._follow(folder, watch)
            results = _newest(folder)
            if results is None:
                raise _died(folder / LOG)
            return figures(results)

    def _follow(self, folder: Path, watch: Watch) -> None:
        log = folder / LOG
        with disk_errors(log), log.open("ab") as output:
            begins = output.tell()
            process = subprocess.Popen(  # noqa: S603 (the user's own interpreter)
                [sys.executable, "-I", "-S", str(guard.__file__), str(os.getpid()), *self.command(folder)],
                env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        progress = _Progress(log, begins, watch)
        try:
            while process.poll() is None:
                watch.check()
                progress.look()
                time.sleep(_LOOK)
            progress.look()
            progress.close()
        except Interrupted as error:
            raise Interrupted("stopped; the harness keeps the answers it has had", remedy=error.remedy) from error
        finally:
            _end(process)


class _Progress:
    """Reads the harness's own progress bars from its log."""

    def __init__(self, log: Path, begins: int, watch: Watch) -> None:
        self._log = log
        self._at = begins
        self._watch = watch
        self._bar: tuple[bytes, int] | None = None
        self._done = 0

    def look(self) -> None:
        """Pass on what has been added to the log."""
        with self._log.open("rb") as log:
            log.seek(self._at)
            new = log.read()
        for kind, done, total in _PROGRESS.findall(new):
            if (kind, int(total)) != self._bar:
                self.close()
                self._bar, self._done = (kind, int(total)), 0
                self._watch.start(0, kind.decode(), int(total))
            self._watch.advance(max(0, int(done) - self._done))
            self._done = max(self._done, int(done))
        self._at += max(new.rfind(b"\r"), new.rfind(b"\n")) + 1  # what may be half a bar is read again

    def close(self) -> None:
        """The bar that is shown is complete."""
        if self._bar:
            self._watch.finish()
        self._bar = None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it in order, or else at once; nothing of it is left."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _newest(folder: Path) -> Path | None:
    return max((folder / _RESULTS).rglob("results*.json"), key=lambda file: file.name, default=None)


def _died(log: Path) -> RoleError:
    try:
        text = log.read_bytes()[-_TAIL:].decode(errors="replace")
    except OSError:
        text = ""
    remedy = next(
        (what for sign, what in _TROUBLE.items() if re.search(sign, text, re.IGNORECASE)), f"All it said is in {log}."
    )
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()][-_SHOWN:]
    return RoleError(
        "the harness left no results; it said last:\n  " + "\n  ".join(lines or ["nothing"]), remedy=remedy
    )


def figures(path: Path) -> Figures:
    """Every metric of every task in a results file of the harness.

    A share of n prompts gets Wilson's interval; any other mean the normal interval of the harness's standard error,
    or none where it gives none.

    Raises:
        DataError: the file is none of the harness's, or holds no figure.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        found = {
            f"{task} {name}": result
            for task, metrics in content["results"].items()
            for name, result in _metrics(metrics, int(content["n-samples"].get(task, {}).get("effective", 0)))
        }
        n = sum(int(one["effective"]) for one in content["n-samples"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no results file of lm-evaluation-harness: {error}",
            remedy="Delete it and run the command again.",
        ) from error
    if not found:
        raise DataError(f"{path} holds no figure", remedy=f"Look into {LOG}: the tasks may have no documents.")
    return Figures(NAME, n, found, {}, {})


def _metrics(metrics: Mapping[str, Any], n: int) -> Iterator[tuple[str, EvalResult]]:
    """Name and value of every metric; keys are "metric,filter", and "metric_stderr,filter" for the standard error."""
    for key, value in metrics.items():
        metric, comma, kept = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        name = metric if kept == "none" else f"{metric} ({kept})"
        yield name, _interval(float(value), n, metrics.get(f"{metric}_stderr,{kept}"))


def _interval(value: float, n: int, error: object) -> EvalResult:
    hits = value * n
    if n and 0 <= value <= 1 and math.isclose(hits, round(hits), abs_tol=1e-6):
        return success_rate(round(hits), n)
    if isinstance(error, int | float) and math.isfinite(error) and error > 0:
        return EvalResult(value, n, value - _Z * error, value + _Z * error)
    return EvalResult(value, n, math.nan, math.nan)


def tasks_of(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def facts(job: Harness, version: str, source: Mapping[str, Any]) -> dict[str, Any]:
    """What its results depend on, as JSON."""
    kept = {key: value for key, value in source.items() if key != "answering"}
    return kept | {
        "benchmark": NAME,
        "lm_eval": version,
        "tasks": list(job.tasks),
        "options": list(job.options),
        "chat": job.chat,
        "seed": job.seed,
    }
