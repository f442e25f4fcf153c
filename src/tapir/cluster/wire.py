"""What this process and its Ray driver say to each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tapir.errors import TapirError


@dataclass(frozen=True, slots=True)
class Order:
    """Where to work, and with what.

    Attributes:
        address: of a running cluster: "auto" or "HOST:PORT".
        workers: that work beside each other, at most.
        cpus: cores of each.
        gpus: GPUs of each.
        patience: seconds to wait for a place for the first worker.
    """

    address: str
    workers: int
    cpus: float
    gpus: float
    patience: float


@dataclass(frozen=True, slots=True)
class Room:
    """What the cluster has for an order.

    Attributes:
        workers: that fit beside each other.
        nodes: machines of the cluster that are alive.
    """

    order: Order
    workers: int
    nodes: int


@dataclass(frozen=True, slots=True)
class Started:
    """A cluster of ours runs at this address."""

    address: str


@dataclass(frozen=True, slots=True)
class Result:
    """What became of the block at a place, pickled by whoever did the work."""

    place: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A fact worth a line."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing more will come."""

    error: TapirError


@dataclass(frozen=True, slots=True)
class Broken:
    """Nothing more will come, for a reason nobody foresaw; the log has all of it."""

    why: str


@dataclass(frozen=True, slots=True)
class Done:
    """Everything came."""


class Flow(Protocol):
    """How blocks of work become results on a cluster. It travels to the driver, so it can be pickled."""

    @property
    def light(self) -> bool:
        """Whether a worker only waits for others, so that it takes no core and no GPU."""

    def results(self, blocks: Iterator[bytes], room: Room) -> Iterator[Result | Note]:
        """Carry out the work; called in the driver, connected to Ray.

        Raises:
            TapirError: a worker met trouble that concerns all work.
        """
