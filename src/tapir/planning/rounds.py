"""The rounds played through with instructions that are only numbers: what each will have to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tapir.curriculum import CompetenceSchedule, Curriculum
from tapir.domain.mixture import Draw, Mixture, Pool, hard_count, mix, mix_as_found, resample, resample_as_found
from tapir.domain.randomness import seed_for
from tapir.domain.task import TaskDistribution
from tapir.llm.estimate import Bounds


@dataclass(frozen=True, slots=True)
class Guess:
    """What is not known before a run.

    Attributes:
        hard: share of the corpus that is hard for the student; 1 where there is one pool.
        tasks: share of each task in the corpus.
        kept: share of the new instructions that pass every check.
    """

    hard: float
    tasks: Mapping[str, float]
    kept: float


@dataclass(frozen=True, slots=True)
class Round:
    """Items of one round.

    Attributes:
        known: instructions that may be trained on when it begins.
        added: those of them that the round before added.
        requests: calls for new instructions.
        written: new instructions.
        answered: new instructions that pass the checks and need an answer.
        refined: examples that no earlier round had rewritten.
        trained: examples.
    """

    number: int
    known: Bounds
    added: Bounds
    requests: Bounds
    written: Bounds
    answered: Bounds
    refined: Bounds
    trained: Bounds


@dataclass(slots=True)
class _World:
    """Hard and easy instructions of every task; ids are numbers as hexadecimal digits.

    Attributes:
        once: what was trained on is drawn again only in need.
    """

    labels: tuple[str, ...]
    tasks: NDArray[np.int64]
    hard: NDArray[np.bool_]
    once: bool
    refined: set[str] = field(default_factory=set)
    trained: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, size: int, guess: Guess, labels: tuple[str, ...], seed: int, *, once: bool) -> _World:
        dice = np.random.default_rng(seed)
        weights = np.array([guess.tasks.get(label, 0.0) for label in labels])
        tasks = dice.choice(len(labels), size, p=weights / weights.sum())
        return cls(labels, tasks, dice.random(size) < guess.hard, once)

    def pool(self, *, hard: bool) -> Pool:
        places = np.flatnonzero(self.hard == hard)
        last = self.trained if self.once else ()
        return Pool([f"{place:016x}" for place in places], self.tasks[places], self.labels, last)

    def fresh(self) -> Pool:
        """The hard pool as far as it counts for what a round lacks."""
        whole = self.pool(hard=True)
        places = [place for place, name in enumerate(whole.ids) if name not in whole.last]
        return Pool([whole.ids[place] for place in places], whole.tasks[places], whole.labels)

    def train(self, mixture: Mixture) -> None:
        """A round trains on these."""
        self.trained |= {*mixture.hard, *mixture.easy}

    def add(self, shortfall: Mapping[str, int]) -> int:
        """New hard instructions; how many."""
        index = {label: place for place, label in enumerate(self.labels)}
        new = [index[task] for task, count in shortfall.items() for _ in range(count)]
        self.tasks = np.concatenate((self.tasks, np.array(new, np.int64)))
        self.hard = np.concatenate((self.hard, np.ones(len(new), np.bool_)))
        return len(new)

    def refine(self, mixture: Mixture) -> int:
        """How many of these examples were not rewritten before; now they are."""
        fresh = {*mixture.hard, *mixture.easy} - self.refined
        self.refined |= fresh
        return len(fresh)


def played(
    plan: Curriculum, size: int, guess: Guess, target: TaskDistribution, *, seed: int, at_once: int
) -> list[Round]:
    """Every round of a recipe: by the method's own counting as expected, by its limits at most.

    Args:
        plan: the method's settings.
        size: instructions in the corpus.
        guess: what the rounds depend on and nobody knows yet.
        target: P(t); with shares that lean to room for growth it is where they start, with "pool" it is not asked for.
        seed: of the recipe.
        at_once: new instructions asked for in one call.
    """
    alpha, world, rounds = plan.alpha(), _World.of(size, guess, target.labels, seed, once=plan.repeats == "last"), []
    seeds = set(np.unique(world.tasks[world.hard]).tolist())
    known, added = Bounds.sure(size), Bounds()
    balance = target if plan.target.shares != "pool" else None
    for number in range(1, alpha.rounds + 1):
        share, mixing = alpha.share(number), seed_for(seed, "mix", number)
        most = hard_count(plan.size, _highest(plan, share))
        need = _needed(world, plan.size, share, balance, mixing)
        owed = {
            task: count
            for place, task in enumerate(target.labels)
            if plan.expand and place in seeds and (count := need.shortfall.get(task, 0))
        }
        requests, written = _asked(owed, plan.expand_attempts, guess.kept, at_once)
        kept = world.add(owed)
        mixture = _mixed(world, plan.size, share, balance, mixing)
        world.train(mixture)
        worst = most * plan.expand_attempts if plan.expand else 0
        calls = min(most, most // at_once + len(target.labels)) * plan.expand_attempts if plan.expand else 0
        rounds.append(
            Round(
                number=number,
                known=known,
                added=added,
                requests=Bounds(requests, calls),
                written=Bounds(written, worst),
                answered=Bounds(kept, worst),
                refined=Bounds(world.refine(mixture), plan.size) if plan.refine else Bounds(),
                trained=Bounds(mixture.size, plan.size),
            )
        )
        added = Bounds(kept, most if plan.expand else 0)
        known += added
    return rounds


def _highest(plan: Curriculum, share: float) -> float:
    """The largest hard share a round may have; one that follows competence is planned as it starts."""
    schedule = plan.schedule
    if plan.variant == "multi-round" and isinstance(schedule, CompetenceSchedule):
        return max(schedule.start, schedule.end)
    return share


def _needed(world: _World, size: int, share: float, balance: TaskDistribution | None, seed: int) -> Draw:
    hard, easy = world.fresh(), world.pool(hard=False)
    return (
        resample(hard, easy, size, share, balance, seed)
        if balance
        else resample_as_found(hard, easy, size, share, seed)
    )


def _mixed(world: _World, size: int, share: float, balance: TaskDistribution | None, seed: int) -> Mixture:
    hard, easy = world.pool(hard=True), world.pool(hard=False)
    return mix(hard, easy, size, share, balance, seed) if balance else mix_as_found(hard, easy, size, share, seed)


def _asked(owed: Mapping[str, int], attempts: int, kept: float, at_once: int) -> tuple[float, float]:
    """Calls and new instructions until nothing is owed or the attempts are used up."""
    calls = written = 0.0
    for count in owed.values():
        rest = float(count)
        for _ in range(attempts):
            if rest < 0.5:  # noqa: PLR2004 (less than half an instruction is none)
                break
            calls += np.ceil(rest / at_once)
            written += rest
            rest *= 1 - kept
    return float(calls), written
