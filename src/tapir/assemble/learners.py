"""The student, who trains it, and the cluster that may carry both."""

from __future__ import annotations

from functools import partial
from importlib import resources
from pathlib import Path

from tapir.cluster.connection import RayCluster, RaySettings
from tapir.cluster.generating import RayVllmSettings
from tapir.cluster.student import RayStudent
from tapir.cluster.vllm import RayVllmStudent, engine_arguments
from tapir.curriculum import PassRate as PassRateSection
from tapir.domain.round import Checkpoint
from tapir.errors import RecipeError
from tapir.learning import Accelerate, CommandTraining, Dpo, Lora, RayEngine, RayTrain, Sft
from tapir.learning import LocalStudent as LocalStudentSection
from tapir.recipe import Recipe
from tapir.roles import Estimator, Example, Judge, Student, Trainer
from tapir.students.ifd import Ifd, Length
from tapir.students.load import ModelSettings, load_tokenizer
from tapir.students.local import AnswerSettings, LocalStudent
from tapir.students.pass_rate import PassRate
from tapir.students.server import check as check_server
from tapir.students.templates import chat_template
from tapir.students.vllm import VllmSettings, VllmStudent
from tapir.training.command import CommandSettings, CommandTrainer
from tapir.training.dpo import DpoSettings, SftThenDpo
from tapir.training.launched import LaunchedTrainer, LaunchSettings
from tapir.training.mask import coloured
from tapir.training.ray_train import RayLaunchedTrainer, RayLaunchSettings
from tapir.training.settings import LoraSettings, SftSettings
from tapir.training.sft import SftTrainer


def student_path(recipe: Recipe) -> str:
    """Where the student is loaded from: the built-in nano, a folder, or a hub id."""
    if recipe.student.model == "nano":
        return str(resources.files("tapir.gym") / "nano")
    return str(Path(recipe.student.model).expanduser())


def check_student(recipe: Recipe) -> None:
    """Raise `RecipeError` if the student is named by a path that holds no model; a hub id is left to its hub."""
    path = Path(student_path(recipe)).expanduser()
    named_by_path = path.is_absolute() or path.exists() or recipe.student.model.startswith((".", "~"))
    if named_by_path and not (path / "config.json").is_file():
        raise RecipeError(
            f"student.model = {recipe.student.model!r}: there is no config.json in {path}",
            remedy="Name a folder that transformers can load, a hub id, or nano.",
        )


def model_settings(recipe: Recipe) -> ModelSettings:
    """How the student is loaded.

    Raises:
        RecipeError: there is no such chat template.
    """
    return ModelSettings(recipe.student.dtype, chat_template(recipe.student.chat_template), recipe.student.revision)


def cluster(recipe: Recipe) -> RayCluster | None:
    """The cluster that carries the load; None where this machine does.

    Raises:
        RecipeError: its address is none.
    """
    one = recipe.engine
    if not isinstance(one, RayEngine):
        return None
    return RayCluster(RaySettings(one.address, one.workers, one.cpus, one.gpus))


def student(recipe: Recipe, workers: RayCluster | None) -> Student:
    """Who answers."""
    one, model = recipe.student, model_settings(recipe)
    if isinstance(one, LocalStudentSection):
        settings = AnswerSettings(one.max_new_tokens, one.batch_size, one.batch_tokens, one.temperature, recipe.seed)
        make = partial(LocalStudent, settings, model)
        return RayStudent(workers, make) if workers else make()
    if workers:
        return RayVllmStudent(
            workers,
            RayVllmSettings(
                max_new_tokens=one.max_new_tokens,
                temperature=one.temperature,
                seed=recipe.seed,
                engine=engine_arguments(one.options),
                python=one.python if "python" in one.model_fields_set else "",
            ),
            model,
        )
    check_server(one.python, one.options)
    return VllmStudent(
        VllmSettings(
            python=one.python,
            options=one.options,
            start_timeout=one.start_timeout,
            reply_timeout=one.reply_timeout,
            while_training=one.while_training,
            max_new_tokens=one.max_new_tokens,
            temperature=one.temperature,
            seed=recipe.seed,
            adapter_rank=_adapter_rank(recipe),
        ),
        model,
    )


def estimator(kind: str, recipe: Recipe, workers: RayCluster | None, judge: Judge) -> Estimator | None:
    """Who measures difficulty, by the name of the kind; None for MFD, which student and judge measure."""
    wanted = recipe.curriculum.difficulty
    match kind:
        case "ifd":
            return Ifd(model_settings(recipe))
        case "length":
            return Length()
        case "pass-rate":
            chosen = wanted if isinstance(wanted, PassRateSection) else PassRateSection(kind="pass-rate")
            warm = recipe.student.model_copy(update={"temperature": chosen.temperature})
            sampling = student(recipe.model_copy(update={"student": warm}), workers)
            return PassRate(sampling, judge, chosen.samples)
        case _:
            return None


def _adapter_rank(recipe: Recipe) -> int:
    """The rank of the adapters that training makes; 0 where it makes none."""
    training = recipe.training
    return training.lora.rank if isinstance(training, Sft) and training.method != "full" else 0


def trainer(recipe: Recipe) -> Trainer:
    """Who trains the student.

    Raises:
        RecipeError: a command or configuration cannot be used.
        MissingExtra: something it needs is not installed.
    """
    training = recipe.training
    if isinstance(training, CommandTraining):
        return CommandTrainer(CommandSettings(training.command, training.format, model_settings(recipe)))
    sft = SftTrainer(_sft(training, model_settings(recipe)))
    inner = SftThenDpo(sft, _dpo(training.dpo)) if training.dpo else sft
    match training.launch:
        case Accelerate(processes=processes, config=config):
            launched = LaunchedTrainer(inner, LaunchSettings(processes, config))
            launched.check()
            return launched
        case RayTrain(workers=workers, gpus=gpus):
            address = recipe.engine.address if isinstance(recipe.engine, RayEngine) else ""
            spread = RayLaunchedTrainer(inner, RayLaunchSettings(workers, gpus, address))
            spread.check()
            return spread
        case _:
            return inner


def _sft(training: Sft, model: ModelSettings) -> SftSettings:
    return SftSettings(
        learning_rate=training.learning_rate,
        batch_size=training.batch_size,
        scheduler=training.scheduler,
        warmup_share=training.warmup_share,
        weight_decay=training.weight_decay,
        max_length=training.max_length,
        save_every=training.save_every,
        method=training.method,
        lora=_lora(training.lora),
        model=model,
        precision=training.precision,
        micro_batch=training.micro_batch,
        too_long=training.too_long,
        packing=training.packing,
        gradient_checkpointing=training.gradient_checkpointing,
        report_to=training.report_to,
        whole_run=training.span == "run",
    )


def _dpo(one: Dpo) -> DpoSettings:
    return DpoSettings(one.beta, one.learning_rate, one.epochs)


def _lora(one: Lora) -> LoraSettings:
    return LoraSettings(one.rank, one.alpha, one.dropout, one.targets)


def mask(recipe: Recipe, example: Example) -> list[tuple[str, bool]]:
    """An example as the student reads it, in pieces of text, each with whether it is learnt."""
    return coloured(example, load_tokenizer(Checkpoint(student_path(recipe), 0), model_settings(recipe)))
