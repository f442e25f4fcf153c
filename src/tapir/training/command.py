"""Any program as the trainer: it takes files and leaves a checkpoint."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tapir.domain.round import Checkpoint
from tapir.errors import RecipeError, RoleError, TapirError, TrainingError
from tapir.roles import TrainJob, TrainReport, Watch
from tapir.store.files import disk_errors, full
from tapir.students.checkpoint import ADAPTER, base_of
from tapir.students.load import AS_IT_IS, ModelSettings, load_tokenizer
from tapir.training.formats import FILES, LAYOUTS, preference, write_records
from tapir.training.program import Program
from tapir.training.said import Said

PLACES = ("base", "data", "out", "work", "seed", "epochs", "round", "preferences")
"""What may stand in braces in an argument of the command."""

_PLACE = re.compile(r"\{([a-z_]+)\}")
_NEEDED = ("data", "out")
_STATE = re.compile(r"checkpoint-\d+")
_CONFIG = "config.json"
_WEIGHTS = ("*.safetensors", "*.bin")
_SHOWN = 20  # last lines of the log
_FULL = "No space left on device"


@dataclass(frozen=True, slots=True)
class CommandSettings:
    """What is run.

    Attributes:
        command: the program and its arguments; `PLACES` in braces are filled in, everything else stays.
        format: layout of the data: messages, alpaca or sharegpt.
        model: how the checkpoint will be loaded as a student.
    """

    command: tuple[str, ...]
    format: str
    model: ModelSettings = AS_IT_IS


class CommandTrainer:
    """Hands the examples to a program and takes the checkpoint it leaves."""

    def __init__(self, settings: CommandSettings) -> None:
        """Check the command before anything is spent.

        Raises:
            RecipeError: it is empty, there is no such program or layout, or something in braces has no meaning.
        """
        self._settings = settings
        if not settings.command:
            raise RecipeError("training.command is empty", remedy="Name the program and its arguments.")
        if settings.format not in LAYOUTS:
            raise RecipeError(
                f"training.format = {settings.format!r} is no layout", remedy=f"Choose one of {', '.join(LAYOUTS)}."
            )
        named = {name for argument in settings.command for name in _PLACE.findall(argument)}
        for name in sorted(named - {*PLACES}):
            raise RecipeError(
                f"training.command: {{{name}}} has no meaning", remedy=f"There are {{{'}, {'.join(PLACES)}}}."
            )
        for name in _NEEDED:
            if name not in named:
                raise RecipeError(
                    f"training.command does not use {{{name}}}",
                    remedy="The program reads the examples from {data} and leaves the checkpoint in {out}.",
                )
        program = settings.command[0]
        if not _PLACE.search(program) and shutil.which(program) is None:
            raise RecipeError(
                f"training.command: there is no program {program!r}", remedy="Install it, or give its whole path."
            )

    def train(self, job: TrainJob, watch: Watch) -> TrainReport:
        """Run the program to its end and take what it leaves; a program that was stopped is started again.

        Raises:
            TrainingError: it fails, or leaves no checkpoint that can be used.
            Interrupted: the watch was asked to stop; the program was stopped in order.
            StoreFull: the disk filled up.
        """
        if not job.examples:
            raise TrainingError("the mixture is empty", remedy="Lower curriculum.threshold, or bring a larger corpus.")
        with disk_errors(job.work):
            places = self._prepared(job)
        arguments = [_filled(argument, places) for argument in self._settings.command]
        log = job.work.resolve() / "command.log"
        watch.start(job.number, "train", 1)
        began = time.monotonic()
        said = Said(log, watch)
        status = Program(tuple(arguments), log, look=said.listen).run(watch)
        if status is None:
            watch.check()
        if status != 0:
            raise _failed(status, log)
        losses = said.curve()
        self._accept(job, _left_in(Path(places["out"])))
        watch.advance()
        watch.finish()
        return TrainReport(
            steps=max((step for step, _ in losses), default=0),
            loss=losses,
            tokens=said.tokens,
            answer_tokens=0,
            seconds=time.monotonic() - began,
        )

    def _prepared(self, job: TrainJob) -> Mapping[str, str]:
        """Write the files; returns what the placeholders stand for."""
        layout = self._settings.format
        work = job.work.resolve()
        data, out, own = work / f"data{FILES[layout]}", work / "out", work / "own"
        preferences = work / f"preferences{FILES[layout]}"
        own.mkdir(parents=True, exist_ok=True)
        record = LAYOUTS[layout]
        write_records(data, (record(one.prompt, one.answer) for one in job.examples))
        pairs = (preference(layout, one.prompt, one.chosen, one.rejected) for one in job.preferences)
        write_records(preferences, pairs)
        return {
            "base": job.base.path,
            "data": str(data),
            "out": str(out),
            "work": str(own),
            "seed": str(job.seed % 2**31),  # most libraries take no larger one
            "epochs": f"{job.epochs:g}",
            "round": str(job.number),
            "preferences": str(preferences),
        }

    def _accept(self, job: TrainJob, out: Path) -> None:
        """Check what the program left, complete it and move it into its place."""
        weights = [file for pattern in _WEIGHTS for file in out.glob(pattern) if file.name != "training_args.bin"]
        if not weights:
            raise _unusable(out, "it holds no weights")
        for file in weights:
            _check_whole(file)
        self._complete(job, out)
        with disk_errors(job.out):
            for state in _states(out):
                shutil.rmtree(state)
            shutil.rmtree(job.out, ignore_errors=True)
            out.replace(job.out)

    def _complete(self, job: TrainJob, out: Path) -> None:
        """Add the base's tokenizer where there is none; merge an adapter whose base will not outlive the training."""
        if not any((out / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
            load_tokenizer(job.base, self._settings.model).save_pretrained(str(out))
        try:
            load_tokenizer(Checkpoint(str(out), job.number), self._settings.model)
        except RoleError as error:
            raise _unusable(out, str(error)) from error
        base = base_of(str(out))
        if base and Path(base).exists() and Path(base).resolve().is_relative_to(job.work.resolve()):
            from tapir.training.merge import merge

            merged = out.with_name("merged")
            merge(out, merged, self._settings.model)
            shutil.rmtree(out)
            merged.replace(out)


def _filled(argument: str, places: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda found: places[found.group(1)], argument)


def _left_in(out: Path) -> Path:
    """The folder with the checkpoint: `out`, or the last of the training states in it, as ms-swift leaves them.

    Raises:
        TrainingError: there is none.
    """
    for folder in (out, *reversed(_states(out))):
        if any((folder / name).is_file() for name in (_CONFIG, ADAPTER)):
            return folder
    raise _unusable(out, f"it holds neither {_CONFIG} nor {ADAPTER}")


def _states(out: Path) -> list[Path]:
    """Training states that libraries keep beside the model, in order."""
    found = [(int(one.name.rpartition("-")[2]), one) for one in out.glob("checkpoint-*") if _STATE.fullmatch(one.name)]
    return [one for _, one in sorted(found)]


def _check_whole(weights: Path) -> None:
    """See that a file of weights was written to its end."""
    from safetensors import SafetensorError, safe_open

    if weights.suffix != ".safetensors":
        return
    try:
        with safe_open(weights, "numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise _unusable(weights.parent, f"{weights.name} is damaged: {error}") from error


def _failed(status: int | None, log: Path) -> TapirError:
    """What to say of a program that did not end well."""
    last = _last_lines(log)
    if any(_FULL in line for line in last):
        return full(log.parent)
    how = "was stopped" if status is None else f"ended with exit status {status}"
    if status is not None and status < 0:
        how = f"was ended by {signal.Signals(-status).name}"
    said = "\n".join(f"  {line}" for line in last) or "  (nothing)"
    return TrainingError(
        f"the training command {how}; the last it said:\n{said}",
        remedy=f"Everything it said is in {log}. Mend the cause, then `tapir resume` starts it again.",
    )


def _last_lines(log: Path) -> list[str]:
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    return [line.rstrip() for line in lines if line.strip()][-_SHOWN:]


def _unusable(out: Path, why: str) -> TrainingError:
    return TrainingError(
        f"the training command left no checkpoint in {out}: {why}",
        remedy="The program must leave what transformers loads in {out}: a whole model, or an adapter of peft.",
    )
