"""Dry run of a recipe: calls, tokens, money and time, and everything that can be checked before."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tapir.config.annotators import LlmTeacherConfig
from tapir.config.corpus import GymCorpusConfig
from tapir.config.evaluation import HarnessConfig
from tapir.config.recipe import Recipe
from tapir.config.student import LocalEngineConfig, LocalStudentConfig
from tapir.config.training import SftConfig
from tapir.domain.errors import DataError, MissingExtra, TapirError
from tapir.domain.instruction import Instruction
from tapir.domain.progress import SilentProgress
from tapir.domain.roles import Resource, Roles, Student
from tapir.domain.round import Checkpoint
from tapir.evaluation.lm_eval import without_hub
from tapir.models.api.connection import read_key
from tapir.models.api.session import ApiSession
from tapir.models.memory import OutOfMemory, free_memory
from tapir.runs.build import build_roles, check_installed, check_student, locate_student
from tapir.runs.corpus import taxonomy
from tapir.runs.plan.assumptions import READING, assume, read_measurements
from tapir.runs.plan.corpus import CorpusStats, read_stats
from tapir.runs.plan.costs import CallCost, call_cost, request_sizes
from tapir.runs.plan.rounds import expected_rounds
from tapir.runs.plan.steps import Step, steps
from tapir.runs.plan.tokens import Bounds
from tapir.runs.session import disk_needed

_TIMED = 48
_ALIKE = 16
_NEW_PER_CALL = 5  # of a teacher that makes no calls: nothing depends on it


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of the plan; its seconds of working and waiting are None where the student's share is not known."""

    round: int
    stage: str
    who: str
    items: Bounds
    cost: CallCost
    seconds: Bounds | None


@dataclass(frozen=True, slots=True)
class Plan:
    """The result of a dry run."""

    stages: tuple[StagePlan, ...]
    disk: int  # bytes at the largest
    pays: bool  # whether any model is called over a network
    priced: bool  # whether any endpoint has a price
    assumed: tuple[str, ...]  # what the numbers rest on
    warnings: tuple[str, ...]  # where the run will go otherwise than the recipe asks
    obstacles: tuple[str, ...]  # what keeps the recipe from running here, each with its remedy

    @property
    def total(self) -> CallCost:
        """Cost of all stages."""
        return sum((stage.cost for stage in self.stages), start=CallCost())

    @property
    def seconds(self) -> Bounds | None:
        """Working and waiting time of all stages; None where that of a stage is not known."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known, start=Bounds()) if len(known) == len(self.stages) else None


@dataclass(frozen=True, slots=True)
class Speed:
    """Items that a student answers and is trained on in a second."""

    answers: float
    examples: float


def plan(recipe: Recipe, *, measure: bool = True, folder: Path | None = None, reach: bool = False) -> Plan:
    """Count the work of a recipe and check what can be checked; spend nothing, write only what a GGUF file becomes.

    Also, with `measure`, time the student for a few seconds where its weights are on this machine; with `reach`, ask
    every endpoint whether it is there, and read a corpus on the hub. Measurements in the `folder` of an earlier run
    replace assumptions.
    """
    labels = taxonomy(recipe)
    check_student(recipe)
    missing = [error] if (error := _error(partial(check_installed, recipe))) else []
    roles, uncounted = _roles(recipe, lacking=bool(missing), reach=reach)
    known = read_measurements(recipe, folder)
    corpus = read_stats(recipe, roles, labels, network=reach)
    unfit = _error(partial(roles.format.check, corpus.sample)) if roles and roles.format else ""
    assumed, lines = assume(recipe, known, corpus, labels)
    at_once = recipe.teacher.new_per_call if isinstance(recipe.teacher, LlmTeacherConfig) else _NEW_PER_CALL
    rounds = expected_rounds(recipe.curriculum, corpus.size, assumed, labels.target, at_once=at_once)
    sizes = request_sizes(recipe, corpus, labels)
    speed, untimed = _time(recipe, roles, corpus) if measure and roles and not missing else (None, [])
    stages = tuple(_stage(step, call_cost(recipe, step, sizes, known), speed) for step in steps(recipe, corpus, rounds))
    return Plan(
        stages,
        disk=disk_needed(recipe, corpus.size),
        pays=bool(recipe.endpoints),
        priced=any(endpoint.costs for endpoint in recipe.endpoints.values()),
        assumed=(*lines, *untimed, *(roles.notes if roles else ())),
        warnings=(*uncounted, *_warnings(recipe, stages)),
        obstacles=(*missing, *filter(None, [unfit]), *_unreachable(roles, reach=reach)),
    )


def _roles(recipe: Recipe, *, lacking: bool, reach: bool) -> tuple[Roles | None, list[str]]:
    """Return the roles, None where the gym lacks a library, and why evaluations are left out of the plan."""
    if lacking and isinstance(recipe.corpus, GymCorpusConfig):
        return None, []
    encoded = not lacking and (reach or bool(recipe.student.gguf) or Path(locate_student(recipe)).is_dir())
    if not isinstance(recipe.evaluation, HarnessConfig):
        return build_roles(recipe, encoded=encoded), []
    why = "something is not installed"
    try:
        if not lacking:
            with nullcontext() if reach else without_hub():
                return build_roles(recipe, encoded=encoded), []
    except (DataError, MissingExtra) as error:
        why = f"{error}: {error.remedy}{'' if reach else ' With --reach the plan asks the hub.'}"
    return build_roles(recipe, evaluated=False, encoded=encoded), [f"evaluations are not in this plan: {why}"]


def _unreachable(roles: Roles | None, *, reach: bool) -> Iterator[str]:
    """Yield keys that are not set and, if the network may be used, endpoints that do not answer."""
    endpoints = roles.calls.endpoints if roles and isinstance(roles.calls, ApiSession) else {}
    errors = [error for item in endpoints.items() if (error := _error(partial(read_key, *item)))]
    yield from errors
    for name, endpoint in endpoints.items() if reach and not errors else ():
        with TemporaryDirectory() as folder, closing(ApiSession({name: endpoint})) as session:
            if error := _error(partial(session.open, Path(folder), "plan", SilentProgress())):
                yield error


def _error(check: Callable[[], object]) -> str:
    """Return how a check fails, with the remedy; empty where it does not."""
    try:
        check()
    except TapirError as error:
        return f"{error}: {error.remedy}"
    return ""


def _time(recipe: Recipe, roles: Roles, corpus: CorpusStats) -> tuple[Speed | None, list[str]]:
    """Return what `_speed` does, and why it is not known where memory ran out."""
    with OutOfMemory():
        return _speed(recipe, roles, corpus), []
    if isinstance(roles.student, Resource):
        roles.student.rest()
    free_memory()
    return None, ["the time is not known: memory ran out while the student was timed"]


def _speed(recipe: Recipe, roles: Roles, corpus: CorpusStats) -> Speed | None:
    """Time one batch of answers and one of training; None where the weights would have to be fetched first."""
    if importlib.util.find_spec("torch") is None or not Path(roles.base.path).is_dir():
        return None
    if not (isinstance(recipe.student, LocalStudentConfig) and isinstance(recipe.training, SftConfig)):
        return None  # a server or a program of the user's is not started for a plan
    if not isinstance(recipe.engine, LocalEngineConfig):
        return None  # nor is a cluster
    if isinstance(recipe.corpus, GymCorpusConfig):
        if not roles.benchmarks:
            return None  # there is nothing to answer
        prompts = [prompt.instruction for prompt in roles.benchmarks[0].prompts()]
        timed = prompts[:: max(1, len(prompts) // _TIMED)][:_TIMED]
    else:
        ordered = sorted(
            (pair.instruction for pair in corpus.sample), key=lambda instruction: len(instruction.transcript)
        )
        middle = len(ordered) // 2  # a run answers texts of like length together, so that little is padding
        timed = ordered[max(0, middle - _ALIKE // 2) : middle + _ALIKE // 2]
    return measure_speed(roles.student, Checkpoint(roles.base.path, 0), timed, recipe.training.batch_size)


def measure_speed(student: Student, checkpoint: Checkpoint, items: Sequence[Instruction], batch_size: int) -> Speed:
    """Time one batch of answers, and forward and backward passes over `batch_size` prompts with their answers."""
    import torch

    from tapir.models.local.generate import LocalStudent
    from tapir.models.local.loading import MODEL_DEFAULTS, load

    list(student.answer(checkpoint, items[:2]))
    began = time.monotonic()
    replies = dict(student.answer(checkpoint, items))
    answers = len(replies) / (time.monotonic() - began)
    if isinstance(student, Resource):
        student.rest()  # the memory may not hold two of it
    model, tokenizer = load(checkpoint, student.model if isinstance(student, LocalStudent) else MODEL_DEFAULTS)
    texts = [item.text + str(getattr(replies[item.id], "text", "")) for item in items[:batch_size]]
    batch = tokenizer(texts, return_tensors="pt", padding=True).to(model.device)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    passes = []
    for _ in range(3):
        began = time.monotonic()
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        passes.append(time.monotonic() - began)
    return Speed(answers, len(texts) / min(passes))


def _stage(step: Step, cost: CallCost, speed: Speed | None) -> StagePlan:
    works = step.answered.most or step.trained.most or step.read.most
    seconds = cost.seconds + working_time(step, speed) if speed else None if works else cost.seconds
    return StagePlan(step.round, step.stage, step.who, step.items, cost, seconds)


def working_time(step: Step, speed: Speed) -> Bounds:
    """Return the seconds of a stage in which the student works."""
    return step.answered * (1 / speed.answers) + (step.trained + step.read * READING) * (1 / speed.examples)


def _warnings(recipe: Recipe, stages: Sequence[StagePlan]) -> Iterator[str]:
    limit, expected = recipe.calls.max_cost, sum(stage.cost.money.expected for stage in stages)
    if 0 < limit < expected:
        yield (
            f"calls.max_cost = {limit:g} is below the {expected:,.2f} expected: the run will stop there, keep"
            " everything it paid for, and go on with a higher limit"
        )
    if free := [name for name, endpoint in recipe.endpoints.items() if limit and not endpoint.costs]:
        yield f"calls.max_cost = {limit:g} counts no call to {', '.join(free)}: set price_input and price_output there"
    short = [stage for stage in stages if stage.stage == "train" and stage.items.expected < stage.items.most]
    if short:
        least = min(short, key=lambda stage: stage.items.expected)
        yield (
            f"round {least.round} will find about {least.items.expected:,.0f} of the {least.items.most:,.0f} examples"
            " it wants: lower curriculum.size, or bring a larger corpus"
        )
