"""What a run will do and take, without doing it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from tapir import assemble
from tapir.domain.mixture import hard_count
from tapir.domain.round import Checkpoint
from tapir.errors import TapirError
from tapir.recipe import Recipe
from tapir.session import disk_needed

_SAMPLE = 48


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One line of the plan: at most so many items, and what they cost."""

    round: int
    stage: str
    items: int
    who: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A dry run.

    Attributes:
        disk: bytes at the largest.
        seconds: estimated working time from a short measurement here, or None if it could not be made.
        obstacles: what keeps the recipe from running here, each with its remedy.
    """

    stages: tuple[StagePlan, ...]
    disk: int
    seconds: float | None
    obstacles: tuple[str, ...]


def plan(recipe: Recipe, *, measure: bool = True) -> Plan:
    """Count the work of a recipe and check what can be checked; nothing is written or spent.

    Args:
        recipe: what would be run.
        measure: also time the student for a few seconds to estimate the whole.

    Raises:
        RecipeError: the recipe asks for something that does not exist.
    """
    tasks = len(assemble.skills(recipe))
    assemble.taxonomy(recipe)
    assemble.check_student(recipe)
    obstacles = []
    try:
        assemble.check_installed(recipe)
    except TapirError as error:
        obstacles.append(f"{error}: {error.remedy}")
    seconds = None
    if measure and not obstacles and importlib.util.find_spec("torch"):
        seconds = _seconds(recipe, tasks)
    return Plan(tuple(_stages(recipe, tasks)), disk_needed(recipe), seconds, tuple(obstacles))


def _prompts(recipe: Recipe, tasks: int) -> int:
    evaluation = recipe.evaluation
    unseen = evaluation.unseen_per_task * len(assemble.UNSEEN)
    return tasks * (evaluation.per_task + evaluation.harder_per_task) + unseen


def _stages(recipe: Recipe, tasks: int) -> list[StagePlan]:
    method, known = recipe.curriculum, recipe.corpus.size
    alpha = method.alpha()
    stages = []
    if method.warmup_epochs:
        stages.append(StagePlan(0, "train", known, "trainer"))
    stages += [
        StagePlan(0, "label", min(recipe.tagger.labelled, known), "teacher"),
        StagePlan(0, "tag", known, "tagger"),
        StagePlan(0, "answer", known, "student"),
        StagePlan(0, "judge", known, "judge"),
        StagePlan(0, "evaluate", _prompts(recipe, tasks), "student"),
    ]
    for number in range(1, alpha.rounds + 1):
        hard = hard_count(method.size, alpha.share(number))
        if method.rescoring == "every-round" and number > 1:
            stages += [
                StagePlan(number, "answer", known, "student"),
                StagePlan(number, "judge", known, "judge"),
            ]
        if method.expand:
            stages.append(StagePlan(number, "expand", hard * method.expand_attempts, "teacher"))
            known += hard
        if method.refine:
            stages.append(StagePlan(number, "refine", method.size, "teacher"))
        stages.append(StagePlan(number, "train", method.size, "trainer"))
        stages.append(StagePlan(number, "evaluate", _prompts(recipe, tasks), "student"))
    return stages


def _seconds(recipe: Recipe, tasks: int) -> float:
    """Time one batch of answers and one batch of training, then scale by the counts."""
    from tapir.students.speed import measure

    roles = assemble.roles(recipe)
    prompts = list(roles.benchmarks[0].prompts())[:: max(1, recipe.evaluation.per_task * tasks // _SAMPLE)]
    speed = measure(
        roles.student, Checkpoint(roles.base.path, 0), [one.instruction for one in prompts], recipe.training.batch_size
    )
    answered = sum(one.items for one in _stages(recipe, tasks) if one.who == "student")
    trained = sum(
        one.items * (recipe.curriculum.warmup_epochs if one.round == 0 else recipe.training.epochs)
        for one in _stages(recipe, tasks)
        if one.who == "trainer"
    )
    return answered / speed.answers + trained / speed.examples
