"""TAPIR: task-aware curriculum planning for distilling instruction following.

>>> import tapir
>>> result = tapir.run("gym", "runs/gym")  # doctest: +SKIP
>>> result.summary.benchmark("in-distribution")[-1].overall.value  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapir.models.memory import limit_threads
from tapir.version import __version__

if TYPE_CHECKING:
    from tapir.config.recipe import Recipe
    from tapir.domain.progress import Progress
    from tapir.domain.roles import Roles
    from tapir.runs.session import RunResult

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # no telemetry, from the libraries of the hub neither
__all__ = ["__version__", "resume", "run"]


def run(
    recipe: Recipe | Mapping[str, Any] | str,
    folder: str | Path,
    progress: Progress | None = None,
    roles: Roles | None = None,
) -> RunResult:
    """Run a recipe (an object, its tables, a TOML file or a shipped name) in `folder`.

    A folder that holds an unfinished run of the same recipe goes on where it was. `roles` puts classes of
    your own in the place of those the recipe names.

    Raises:
        TapirError: what went wrong, with its remedy.
    """
    limit_threads()  # before torch is loaded
    from tapir.runs import session

    return session.run(session.recipe_of(recipe), Path(folder).expanduser(), progress, roles)


def resume(folder: str | Path, progress: Progress | None = None) -> RunResult:
    """Go on with the run in `folder`.

    Raises:
        TapirError: what went wrong, with its remedy.
    """
    limit_threads()
    from tapir.runs import session

    return session.resume(Path(folder).expanduser(), progress)
