"""TAPIR: task-aware curriculum planning for distilling instruction following.

>>> import tapir
>>> result = tapir.run("gym", "runs/gym")  # doctest: +SKIP
>>> result.summary.benchmark("in-distribution")[-1].overall.value  # doctest: +SKIP
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tapir.recipe import Recipe
    from tapir.roles import Roles, Watch
    from tapir.session import RunResult

__version__ = "0.1.0"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # no telemetry, from the libraries of the hub neither
__all__ = ["__version__", "resume", "run"]


def run(
    recipe: Recipe | Mapping[str, Any] | str,
    folder: str | Path,
    watch: Watch | None = None,
    roles: Roles | None = None,
) -> RunResult:
    """Run a recipe (an object, its tables, a TOML file or a shipped name) in `folder`.

    A folder that holds an unfinished run of the same recipe goes on where it was. `roles` puts classes of
    your own in the place of those the recipe names.

    Raises:
        TapirError: what went wrong, with its remedy.
    """
    from pathlib import Path

    from tapir import session

    return session.run(session.recipe_of(recipe), Path(folder), watch, roles)


def resume(folder: str | Path, watch: Watch | None = None) -> RunResult:
    """Go on with the run in `folder`.

    Raises:
        TapirError: what went wrong, with its remedy.
    """
    from pathlib import Path

    from tapir import session

    return session.resume(Path(folder), watch)
