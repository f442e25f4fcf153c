"""Which labels a tagger learns from, and which it is measured on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tapir.domain.completion import Failure
from tapir.domain.instruction import Instruction
from tapir.domain.randomness import priorities, seed_for
from tapir.domain.task import TaskTag
from tapir.errors import RoleError

Labeller: TypeAlias = Callable[[Iterable[Instruction]], Iterable[tuple[str, TaskTag | Failure]]]
"""Where labels come from."""

Labelled: TypeAlias = Sequence[tuple[Instruction, str]]
"""Instructions with their labels."""

_AT_LEAST = 10


@dataclass(frozen=True, slots=True)
class Parts:
    """Labels to learn from and labels to measure on; no instruction is in both."""

    train: Labelled
    test: Labelled


def draw(instructions: Sequence[Instruction], labelled: int, seed: int) -> list[Instruction]:
    """A random sample to be labelled, in the order that decides what is learnt and what is measured on."""
    order = priorities([one.id for one in instructions], seed_for(seed, "tagger")).argsort(kind="stable")
    return [instructions[place] for place in order[:labelled]]


def cut(labelled: Labelled, known: Collection[str], held_out: float) -> Parts:
    """The first share `held_out` of the labels is measured on, the others are learnt from.

    Args:
        labelled: in the order of `draw`.
        known: labels of the taxonomy; others are left out.
        held_out: 0 to 1.

    Raises:
        RoleError: there are too few labels to learn from.
    """
    usable = [(one, task) for one, task in labelled if task in known]
    place = round(len(usable) * held_out)
    test, train = usable[:place], usable[place:]
    if len(train) < _AT_LEAST or not test or len({task for _, task in train}) < 2:  # noqa: PLR2004
        tasks = len({task for _, task in usable})
        raise RoleError(
            f"{len(usable)} usable labels of {tasks} tasks are too few to train a tagger",
            remedy="Raise tagger.labelled, or bring a larger corpus.",
        )
    return Parts(train, test)
