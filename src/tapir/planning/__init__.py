"""What a run will do and take, without doing it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tapir import assemble
from tapir.domain.round import Checkpoint
from tapir.errors import RoleError, TapirError
from tapir.learning import LocalStudent, Sft
from tapir.llm.estimate import Bounds
from tapir.llm.switchboard import Switchboard
from tapir.planning.assumed import READING, assumed, guess
from tapir.planning.costs import Cost, cost, sizes
from tapir.planning.earlier import earlier
from tapir.planning.material import Material, material
from tapir.planning.rounds import played
from tapir.planning.steps import Step, steps
from tapir.recipe import Recipe
from tapir.roles import Roles
from tapir.sections import GymCorpus, LlmTeacher
from tapir.session import SilentWatch, disk_needed

if TYPE_CHECKING:
    from tapir.students.speed import Speed

__all__ = ["Bounds", "Cost", "Plan", "StagePlan", "plan"]

_TIMED = 48
_ALIKE = 16
_ASKED_AT_ONCE = 5  # by a teacher that is not asked over a network: nothing depends on it


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One line of the plan.

    Attributes:
        items: what the stage works on.
        cost: of its calls to servers.
        seconds: of working and waiting, or None where the student's share is not known.
    """

    round: int
    stage: str
    who: str
    items: Bounds
    cost: Cost
    seconds: Bounds | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A dry run.

    Attributes:
        disk: bytes at the largest.
        pays: whether any model is called over a network.
        priced: whether any of its endpoints has a price.
        assumed: what the figures rest on, in plain words.
        warnings: what will go otherwise than the recipe's author may think.
        obstacles: what keeps the recipe from running here, each with its remedy.
    """

    stages: tuple[StagePlan, ...]
    disk: int
    pays: bool
    priced: bool
    assumed: tuple[str, ...]
    warnings: tuple[str, ...]
    obstacles: tuple[str, ...]

    @property
    def total(self) -> Cost:
        """Of all stages."""
        return reduce(add, (stage.cost for stage in self.stages), Cost.nothing())

    @property
    def seconds(self) -> Bounds | None:
        """Working and waiting time of all stages; None where that of one is not known."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return reduce(add, known, Bounds()) if len(known) == len(self.stages) else None


def plan(recipe: Recipe, *, measure: bool = True, folder: Path | None = None, reach: bool = False) -> Plan:
    """Count the work of a recipe and check what can be checked; nothing is written or spent.

    Args:
        recipe: what would be run.
        measure: also time the student for a few seconds, where its weights are on this machine.
        folder: of an earlier run whose figures take the place of assumptions.
        reach: also ask every endpoint whether it is there, and read a corpus on the hub.

    Raises:
        RecipeError: the recipe asks for something that does not exist.
        DataError: the corpus cannot be used.
        StoreError: the earlier run is damaged, or there is none.
    """
    labels = assemble.taxonomy(recipe)
    assemble.check_student(recipe)
    missing = list(_missing(recipe))
    people = None if missing and isinstance(recipe.corpus, GymCorpus) else assemble.roles(recipe)
    known = earlier(recipe, folder)
    found = material(recipe, people, labels, network=reach)
    guessed = guess(recipe, known, found, labels)
    at_once = recipe.teacher.new_per_call if isinstance(recipe.teacher, LlmTeacher) else _ASKED_AT_ONCE
    rounds = played(recipe.curriculum, found.size, guessed, labels.target, seed=recipe.seed, at_once=at_once)
    work = list(steps(recipe, found, rounds))
    sized = sizes(recipe, found, labels)
    speed = _speed(recipe, people, found) if measure and people and not missing else None
    stages = tuple(_line(step, cost(recipe, step, sized, known), speed) for step in work)
    result = Plan(
        stages=stages,
        disk=disk_needed(recipe, found.size),
        pays=bool(recipe.endpoints),
        priced=any(one.costs for one in recipe.endpoints.values()),
        assumed=tuple(assumed(recipe, found, known, labels)),
        warnings=(),
        obstacles=(*missing, *_unreachable(people, reach=reach)),
    )
    return replace(result, warnings=tuple(_warnings(recipe, result)))


def _missing(recipe: Recipe) -> Iterator[str]:
    try:
        assemble.check_installed(recipe)
    except TapirError as error:
        yield f"{error}: {error.remedy}"


def _unreachable(people: Roles | None, *, reach: bool) -> Iterator[str]:
    """Keys that are not set and, if the network may be used, endpoints that do not answer."""
    calls = people.calls if people else None
    if not isinstance(calls, Switchboard):
        return
    good = True
    for endpoint in calls.endpoints.values():
        try:
            endpoint.key()
        except RoleError as error:
            good = False
            yield f"{error}: {error.remedy}"
    if good and reach:
        for name, endpoint in calls.endpoints.items():
            with TemporaryDirectory() as folder:
                board = Switchboard({name: endpoint})
                try:
                    board.open(Path(folder), "plan", SilentWatch())
                except RoleError as error:
                    yield f"{error}: {error.remedy}"
                finally:
                    board.close()


def _speed(recipe: Recipe, people: Roles, found: Material) -> Speed | None:
    """Time one batch of answers and one of training; None where the weights would have to be fetched first."""
    if importlib.util.find_spec("torch") is None or not Path(people.base.path).is_dir():
        return None
    if not (isinstance(recipe.student, LocalStudent) and isinstance(recipe.training, Sft)):
        return None  # a server or a program of the user's is not started for a plan
    from tapir.students.speed import measure

    if isinstance(recipe.corpus, GymCorpus):
        prompts = [one.instruction for one in people.benchmarks[0].prompts()]
        some = prompts[:: max(1, len(prompts) // _TIMED)][:_TIMED]
    else:
        ordered = sorted((pair.instruction for pair in found.sample), key=lambda one: len(one.text))
        middle = len(ordered) // 2  # a run answers texts of like length together, so that little is padding
        some = ordered[max(0, middle - _ALIKE // 2) : middle + _ALIKE // 2]
    return measure(people.student, Checkpoint(people.base.path, 0), some, recipe.training.batch_size)


def _line(step: Step, taken: Cost, speed: Speed | None) -> StagePlan:
    seconds: Bounds | None = taken.seconds
    if step.answered.most or step.trained.most or step.read.most:
        seconds = taken.seconds + _working(step, speed) if speed else None
    return StagePlan(step.round, step.stage, step.who, step.items, taken, seconds)


def _working(step: Step, speed: Speed) -> Bounds:
    learnt = step.trained + step.read * Bounds.sure(READING)
    return step.answered * Bounds.sure(1 / speed.answers) + learnt * Bounds.sure(1 / speed.examples)


def _warnings(recipe: Recipe, found: Plan) -> Iterator[str]:
    limit, expected = recipe.calls.max_cost, found.total.money.expected
    if 0 < limit < expected:
        yield (
            f"calls.max_cost = {limit:g} is below the {expected:,.2f} expected: the run will stop there, keep"
            " everything it paid for, and go on with a higher one"
        )
    short = [stage for stage in found.stages if stage.stage == "train" and stage.items.expected < stage.items.most]
    if short:
        least = min(short, key=lambda stage: stage.items.expected)
        yield (
            f"round {least.round} will find about {least.items.expected:,.0f} of the {least.items.most:,.0f} examples"
            " it wants: lower curriculum.size, or bring a larger corpus"
        )
