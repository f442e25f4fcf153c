"""Recipe to objects: the only file that names concrete backends."""

from __future__ import annotations

import difflib
import importlib.util
from importlib import resources
from pathlib import Path

from tapir.domain.round import Checkpoint
from tapir.domain.task import TaskDistribution, Taxonomy
from tapir.errors import MissingExtra, RecipeError
from tapir.gym.benchmarks import benchmarks
from tapir.gym.corpus import corpus
from tapir.gym.judge import GymJudge
from tapir.gym.skills import TRAINED, UNSEEN
from tapir.gym.tagger import TfidfTagger
from tapir.gym.teacher import GymTeacher
from tapir.recipe import Recipe
from tapir.roles import Roles
from tapir.students.local import LocalStudent
from tapir.training.sft import SftSettings, SftTrainer

__all__ = ["UNSEEN", "check_installed", "check_student", "roles", "skills", "student_path", "taxonomy"]

_NEEDED = {
    "gym": ("reasoning_gym", "sklearn", "torch", "transformers", "trl", "datasets", "accelerate", "scipy"),
}


def check_installed(recipe: Recipe) -> None:
    """Raise `MissingExtra` unless everything this recipe runs on is installed."""
    extra = recipe.corpus.kind
    missing = [name for name in _NEEDED[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"the recipe {recipe.name!r} needs {', '.join(missing)}",
            remedy=f"pip install 'tapir-distill[{extra}]'",
        )


def skills(recipe: Recipe) -> list[str]:
    """The skills of the recipe's corpus.

    Raises:
        RecipeError: one of them does not exist or may not be trained on.
    """
    known = [skill.name for skill in TRAINED]
    for name in recipe.corpus.skills:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise RecipeError(f"corpus.skills: no skill {name!r}; {hint}", remedy="Mend the name in the recipe.")
    if len(recipe.corpus.skills) == 1:
        raise RecipeError(
            f"corpus.skills = {list(recipe.corpus.skills)}: task balance and the tagger need at least two skills",
            remedy="Add a skill, or leave the key out to use all.",
        )
    return [name for name in known if not recipe.corpus.skills or name in recipe.corpus.skills]


def taxonomy(recipe: Recipe) -> Taxonomy:
    """The recipe's taxonomy, limited to the skills in play where it is the gym's.

    Raises:
        RecipeError: there is no such taxonomy, or its shares are not a distribution.
    """
    name = recipe.curriculum.target.taxonomy
    shipped = resources.files("tapir.recipes") / "taxonomies" / f"{name}.toml"
    try:
        text = shipped.read_text("utf-8") if shipped.is_file() else Path(name).read_text("utf-8")
        found = Taxonomy.from_toml(text)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"curriculum.target.taxonomy = {name!r}: {error}",
            remedy="Name a shipped taxonomy (gym, paper) or a TOML file with name, version and [shares].",
        ) from error
    missing = [skill for skill in skills(recipe) if skill not in found.labels]
    if missing:
        raise RecipeError(
            f"curriculum.target.taxonomy = {name!r} has no share for {', '.join(missing)}",
            remedy="The gym's tasks are its skills: use the taxonomy gym, or add the missing labels to yours.",
        )
    try:
        target = TaskDistribution.of({skill: found.target.shares[skill] for skill in skills(recipe)})
    except ValueError as error:
        raise RecipeError(
            f"curriculum.target.taxonomy = {name!r}: {error}", remedy="Give the skills in play a share above 0."
        ) from error
    if recipe.curriculum.target.minimum * len(target.labels) > 1:
        raise RecipeError(
            f"curriculum.target.minimum = {recipe.curriculum.target.minimum} for {len(target.labels)} tasks"
            " is more than everything",
            remedy=f"Use at most {1 / len(target.labels):.3f}.",
        )
    return Taxonomy(found.name, found.version, target)


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


def roles(recipe: Recipe) -> Roles:
    """Everyone who takes part, ready to work; nothing heavy is loaded before it is used.

    Raises:
        RecipeError: a skill, taxonomy or model folder it names does not exist.
    """
    check_student(recipe)
    names = skills(recipe)
    teacher = GymTeacher()
    training, evaluation = recipe.training, recipe.evaluation
    return Roles(
        teacher=teacher,
        student=LocalStudent(
            max_new_tokens=recipe.student.max_new_tokens,
            batch_size=recipe.student.batch_size,
            temperature=recipe.student.temperature,
            seed=recipe.seed,
        ),
        judge=GymJudge(),
        tagger=TfidfTagger(
            taxonomy(recipe), teacher.label, labelled=recipe.tagger.labelled, held_out=recipe.tagger.held_out
        ),
        trainer=SftTrainer(
            SftSettings(
                learning_rate=training.learning_rate,
                batch_size=training.batch_size,
                scheduler=training.scheduler,
                warmup_share=training.warmup_share,
                weight_decay=training.weight_decay,
                max_length=training.max_length,
                save_every=training.save_every,
            )
        ),
        benchmarks=benchmarks(
            names,
            per_task=evaluation.per_task,
            harder=evaluation.harder_per_task,
            unseen=evaluation.unseen_per_task,
        ),
        base=Checkpoint(student_path(recipe), 0),
        corpus=lambda: corpus(names, size=recipe.corpus.size, skew=recipe.corpus.skew, seed=recipe.seed),
    )
