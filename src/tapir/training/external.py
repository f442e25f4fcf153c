"""Fine-tuning by an external program: it reads the examples from a file and leaves a checkpoint in a folder."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tapir.config.training import ExternalTrainingConfig
from tapir.data.files import disk_errors, full, is_disk_full, whole_lines
from tapir.data.formats import FILES, LAYOUTS, preference, write_records
from tapir.domain.completion import after_thought
from tapir.domain.errors import RecipeError, RoleError, TapirError, TrainingError
from tapir.domain.progress import Progress
from tapir.domain.round import Checkpoint
from tapir.domain.training import TrainJob, TrainReport, check_loss
from tapir.models.context import BuildContext
from tapir.models.local.loading import ADAPTER, MODEL_DEFAULTS, ModelSettings, base_of, load_tokenizer
from tapir.models.process import ChildProcess, describe_status
from tapir.training.model import merge

PLACEHOLDERS = ("base", "data", "out", "work", "seed", "epochs", "round", "preferences")
"""What may be in braces in an argument of the command."""

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_STATE = re.compile(r"checkpoint-\d+")
_CONFIG = "config.json"
_POLL = 0.2  # seconds between two looks at the log
_LINES = 20  # of the log, in an error


@dataclass(slots=True)
class ReportedMetrics:
    """Losses and tokens from lines such as {"step": 10, "loss": 1.5, "tokens": 4096}; all other lines are ignored.

    Of a step that is reported twice, as a resumed program does, the later loss counts; of tokens, the last number.
    """

    log: Path
    progress: Progress
    losses: dict[int, float] = field(default_factory=dict)
    tokens: int = 0
    _offset: int = 0

    def update(self) -> None:
        """Read what came since the last time, up to the last whole line."""
        for place, line in whole_lines(self.log, self._offset):
            self._offset = place + len(line)
            if line.lstrip().startswith(b"{"):
                self._read(line)

    def loss_curve(self) -> list[tuple[int, float]]:
        """Return steps and losses in order."""
        points = sorted(self.losses.items())
        if points:
            check_loss(points[-1][1], points[-1][0], "the learning rate in training.command")
        return points

    def _read(self, line: bytes) -> None:
        try:
            content = json.loads(line)
        except ValueError:
            return
        step, loss, tokens = content.get("step"), content.get("loss"), content.get("tokens")
        if isinstance(tokens, int):
            self.tokens = tokens
        if isinstance(step, int) and isinstance(loss, int | float):
            self.losses[step] = float(loss)
            self.progress.measure(step=float(step), loss=float(loss))


@dataclass(frozen=True, slots=True)
class ExternalTrainer:
    """Runs the program of the recipe, `PLACEHOLDERS` filled in, and takes the checkpoint it leaves."""

    config: ExternalTrainingConfig
    settings: ModelSettings = MODEL_DEFAULTS

    def __post_init__(self) -> None:
        names = {name for argument in self.config.command for name in _PLACEHOLDER.findall(argument)}
        for name in sorted(names - {*PLACEHOLDERS}):
            raise RecipeError(
                f"training.command: {{{name}}} has no meaning",
                remedy=f"Use one of {{{'}, {'.join(PLACEHOLDERS)}}}.",
            )
        for name in ("data", "out"):
            if name not in names:
                raise RecipeError(
                    f"training.command does not use {{{name}}}",
                    remedy="The program reads the examples from {data} and leaves the checkpoint in {out}.",
                )
        program = self.config.command[0]
        if not _PLACEHOLDER.search(program) and shutil.which(program) is None:
            raise RecipeError(
                f"training.command: there is no program {program!r}", remedy="Install it, or give its whole path."
            )

    @classmethod
    def build(cls, section: ExternalTrainingConfig, context: BuildContext) -> ExternalTrainer:
        """Return the trainer."""
        return cls(section, ModelSettings.of(context.recipe.student))

    def train(self, job: TrainJob, progress: Progress) -> TrainReport:
        """Run the program to its end and take what it leaves; a program that was stopped is started again."""
        if not job.examples:
            raise TrainingError("the mixture is empty", remedy="Lower curriculum.threshold, or bring a larger corpus.")
        with disk_errors(job.work):
            values = self._write_inputs(job)
        command = [_PLACEHOLDER.sub(lambda match: values[match[1]], argument) for argument in self.config.command]
        log = job.work.resolve() / "command.log"
        progress.start(job.number, "train", 1)
        began = time.monotonic()
        metrics = ReportedMetrics(log, progress)
        with ChildProcess(command, log) as program:
            while (status := program.wait(_POLL)) is None and not progress.stopping:
                metrics.update()
            if status is None:
                status = program.stop()
                progress.check()
        metrics.update()
        if status:
            raise _failure(status, program)
        losses = metrics.loss_curve()
        self._accept(job, _find_checkpoint(Path(values["out"])))
        progress.advance()
        progress.finish()
        return TrainReport(
            steps=max((step for step, _ in losses), default=0),
            loss=losses,
            tokens=metrics.tokens,
            answer_tokens=0,
            seconds=time.monotonic() - began,
        )

    def _write_inputs(self, job: TrainJob) -> Mapping[str, str]:
        layout = self.config.format
        work = job.work.resolve()
        data, out, own = work / f"data{FILES[layout]}", work / "out", work / "own"
        preferences = work / f"preferences{FILES[layout]}"
        own.mkdir(parents=True, exist_ok=True)
        record = LAYOUTS[layout]
        write_records(
            data, (record(each.prompt, after_thought(each.thought, each.answer), each.context) for each in job.examples)
        )
        sides = (
            (pair, after_thought(pair.thought, pair.chosen), after_thought(pair.rejected_thought, pair.rejected))
            for pair in job.preferences
        )
        pairs = (preference(layout, pair.prompt, better, worse, pair.context) for pair, better, worse in sides)
        write_records(preferences, pairs)
        return {
            "base": self._whole_base(job, work / "base"),
            "data": str(data),
            "out": str(out),
            "work": str(own),
            "seed": str(job.seed % 2**31),  # most libraries take no larger one
            "epochs": f"{job.epochs:g}",
            "round": str(job.number),
            "preferences": str(preferences),
        }

    def _whole_base(self, job: TrainJob, merged: Path) -> str:
        """Return the base as any program can load it: an adapter is written out as a whole model, in `merged`."""
        base = Path(job.base.path)
        if base_of(job.base.path) and not merged.exists():
            merge(base, merged, self.settings)
        return str(merged if merged.exists() else base.resolve()) if base.exists() else job.base.path

    def _accept(self, job: TrainJob, out: Path) -> None:
        from safetensors import SafetensorError, safe_open

        weights = [path for pattern in ("*.safetensors", "*.bin") for path in out.glob(pattern)]
        weights = [path for path in weights if path.name != "training_args.bin"]
        if not weights:
            raise _unusable(out, "it holds no weights")
        for path in weights:
            if path.suffix == ".safetensors":
                try:
                    with safe_open(path, "numpy"):
                        pass
                except (SafetensorError, OSError) as error:
                    raise _unusable(out, f"{path.name} is damaged: {error}") from error
        self._complete(job, out)
        with disk_errors(job.out):
            for state in _training_states(out):
                shutil.rmtree(state)
            shutil.rmtree(job.out, ignore_errors=True)
            out.replace(job.out)

    def _complete(self, job: TrainJob, out: Path) -> None:
        """Add the base's tokenizer where there is none; merge an adapter whose base will not outlive the training."""
        if not any((out / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
            load_tokenizer(job.base, self.settings).save_pretrained(str(out))
        try:
            load_tokenizer(Checkpoint(str(out), job.number), self.settings)
        except RoleError as error:
            raise _unusable(out, str(error)) from error
        base = base_of(str(out))
        if base and Path(base).exists() and Path(base).resolve().is_relative_to(job.work.resolve()):
            merged = out.with_name("merged")
            merge(out, merged, self.settings)
            shutil.rmtree(out)
            merged.replace(out)


def _find_checkpoint(out: Path) -> Path:
    """Return the folder with the checkpoint: `out`, or the last training state in it, as ms-swift leaves them."""
    for folder in (out, *reversed(_training_states(out))):
        if any((folder / name).is_file() for name in (_CONFIG, ADAPTER)):
            return folder
    raise _unusable(out, f"it holds neither {_CONFIG} nor {ADAPTER}")


def _training_states(out: Path) -> list[Path]:
    """Return the training states that libraries keep beside the model, in order."""
    states = [path for path in out.glob("checkpoint-*") if _STATE.fullmatch(path.name)]
    return sorted(states, key=lambda path: int(path.name.rpartition("-")[2]))


def _failure(status: int, program: ChildProcess) -> TapirError:
    lines = program.last_lines(_LINES)
    if any(is_disk_full(line) for line in lines):
        return full(program.log.parent)
    shown = "\n".join(f"  {line}" for line in lines) or "  (it printed nothing)"
    return TrainingError(
        f"the training command ended with {describe_status(status)}; its last lines:\n{shown}",
        remedy=f"Everything it printed is in {program.log}. Fix the cause, then `tapir resume` starts it again.",
    )


def _unusable(out: Path, problem: str) -> TrainingError:
    return TrainingError(
        f"the training command left no checkpoint in {out}: {problem}",
        remedy="The program must leave what transformers loads in {out}: a whole model, or an adapter of peft.",
    )
