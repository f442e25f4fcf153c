"""The student and who trains it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from tapir.errors import RecipeError
from tapir.learning import Sft
from tapir.recipe import Recipe
from tapir.training.sft import SftSettings, SftTrainer


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


def trainer(recipe: Recipe) -> SftTrainer:
    """Who trains the student."""
    training = recipe.training
    assert isinstance(training, Sft)
    return SftTrainer(
        SftSettings(
            learning_rate=training.learning_rate,
            batch_size=training.batch_size,
            scheduler=training.scheduler,
            warmup_share=training.warmup_share,
            weight_decay=training.weight_decay,
            max_length=training.max_length,
            save_every=training.save_every,
        )
    )
