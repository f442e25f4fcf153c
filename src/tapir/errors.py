"""Every error a user can meet.

TapirError                  what went wrong, and the remedy; `exit_code` for the shell
├── RecipeError             the recipe cannot be read or asks for something impossible
├── DataError               a corpus or evaluation file cannot be used
├── StoreError              the run directory
│   ├── RunExists           the folder holds something that is no run
│   ├── RunLocked           another process writes there
│   ├── RunMismatch         a resume with another recipe
│   ├── TableCorrupt        a table is not what was written
│   └── StoreFull           the disk is full or not writable
├── RoleError               a teacher, student, judge, tagger or trainer fails for every item
│   ├── GymError            the embedded world was asked for something it does not know
│   ├── MissingExtra        an optional dependency is not installed
│   └── TrainingError       training cannot start or produced nothing usable
└── Interrupted             the user asked to stop; everything finished is on disk
    ├── CostLimit           the next call might pass the money the recipe allows
    └── Waiting             the rest is in batches that the provider has not finished
"""

from __future__ import annotations


class TapirError(Exception):
    """A failure with its remedy.

    Attributes:
        remedy: what the user can do about it, as a sentence.
        exit_code: what the command line exits with.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        """Keep the message (what happened, with values) and the remedy apart."""
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
