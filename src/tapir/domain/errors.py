"""Errors that users can meet, each with its remedy and its exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec


class TapirError(Exception):
    """A failure; `exit_code` is what the command line exits with."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        """Take the message (what is wrong, with values, and where) and the remedy (how to fix it, a sentence)."""
        super().__init__(message)
        self.remedy = remedy


class RecipeError(TapirError):
    """The recipe cannot be read or asks for something impossible."""

    exit_code = 2


class DataError(TapirError):
    """A corpus or evaluation file cannot be used."""


class StoreError(TapirError):
    """The run directory cannot be used."""


class RunExists(StoreError):
    """The folder holds something that is no run."""


class RunLocked(StoreError):
    """Another process is writing to the run directory."""


class RunMismatch(StoreError):
    """The run directory belongs to a different recipe."""


class TableCorrupt(StoreError):
    """A table on disk is not what was written."""


class StoreFull(StoreError):
    """The disk is full or not writable."""


class RoleError(TapirError):
    """A role fails for every item, not for one."""


class GymError(RoleError):
    """The embedded world was asked for something it does not know."""


class MissingExtra(RoleError):
    """An optional dependency is not installed."""


def require(extra: str, *modules: str) -> None:
    """Raise `MissingExtra` unless these modules, which an extra of this package brings, are installed."""
    if missing := [name for name in modules if find_spec(name) is None]:
        raise MissingExtra(f"{', '.join(missing)}: not installed", remedy=f"pip install 'tapir-distill[{extra}]'")


class TrainingError(RoleError):
    """Training cannot start, or produced nothing usable."""


class Interrupted(TapirError):
    """The user asked to stop; everything finished is on disk."""

    exit_code = 130


class CostLimit(Interrupted):
    """The next call might pass the money the recipe allows; everything finished is on disk."""

    exit_code = 3


class Waiting(Interrupted):
    """The rest is in batches that the provider has not finished; everything that came is on disk."""

    exit_code = 75


def commonest(reasons: Iterable[str]) -> str:
    """Return the five commonest reasons with their numbers."""
    return ", ".join(f"{reason} ({count})" for reason, count in Counter(reasons).most_common(5))


def changed_keys(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return the keys whose values differ, in order, as "key: before -> now"."""
    return [
        f"{key}: {before.get(key, 'not set')} -> {now.get(key, 'not set')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def require_same(folder: object, what: str, differing: Sequence[str], *, remedy: str) -> None:
    """Raise `RunMismatch` with a line for each difference, if there is one; `what` a folder holds instead."""
    if differing:
        raise RunMismatch(f"{folder} holds {what}:\n  " + "\n  ".join(differing), remedy=remedy)
