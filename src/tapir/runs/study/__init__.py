"""Studies: grids of variants and seeds at the same budget, and their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from tapir.config.base import leaves
from tapir.data.files import locked, read_json, write_json, write_text
from tapir.data.run.store import claim_folder
from tapir.domain.errors import RecipeError, RoleError, TapirError, changed_keys, require_same
from tapir.runs import session
from tapir.runs.study.format import markdown, to_json
from tapir.runs.study.grid import StudyConfig, StudyRun, read, runs_of
from tapir.runs.study.results import StudyResult, results
from tapir.runs.study.run import execute_all, is_finished

__all__ = ["StudyConfig", "StudyResult", "StudyRun", "check", "execute", "read", "results", "runs_of", "write"]

_FILE = "study.json"


def execute(
    study: StudyConfig,
    folder: Path,
    runs: Sequence[StudyRun],
    *,
    parallel: int,
    threads: int,
    report: Callable[[str], None],
) -> StudyResult:
    """Execute runs of a study in a folder, then return the results of all finished ones.

    Args:
        study: the grid.
        folder: of the study; what is finished there is not done again.
        runs: all runs of the study, or a part of them.
        parallel: number of runs in parallel.
        threads: CPU threads of each.
        report: called with a line for each run that ends.
    """
    claim_folder(folder, _FILE, "holds no study")
    with locked(folder):
        check(study, [run for run in runs if not is_finished(run, folder)])
        _claim(study, folder)
        everything = runs_of(study)
        failed = execute_all(runs, folder, known=everything, parallel=parallel, threads=threads, report=report)
        result = results(study, everything, folder)
        if failed and not result.variants[0].seeds:
            raise RoleError(
                f"none of the {len(runs)} runs could be finished; the first: {failed[0][1]}",
                remedy="Fix the cause and run the same command again.",
            )
        result = replace(result, failed=[(run.variant, run.seed, why) for run, why in failed])
        write(result, folder)
    return result


def check(study: StudyConfig, runs: Sequence[StudyRun]) -> None:
    """Check all that can be checked before the first run begins, once for each variant."""
    for run in {run.variant: run for run in runs}.values():
        try:
            names = [benchmark.name for benchmark in session.preflight(run.recipe).benchmarks]
        except TapirError as error:
            raise type(error)(f"variants.{run.variant}: {error}", remedy=error.remedy) from error
        if study.benchmark not in names:
            measured = f"benchmark = {study.benchmark!r}: the runs are measured with {', '.join(names)}"
            raise RecipeError(measured, remedy="Name one of these in the study.")


def write(result: StudyResult, folder: Path) -> None:
    """Write results.json, results.md and, where the chart library is installed, figure.svg and figure.png."""
    write_json(folder / "results.json", to_json(result))
    write_text(folder / "results.md", markdown(result))
    if find_spec("altair") and find_spec("vl_convert"):
        from tapir.runs.study.figure import draw

        draw(result, folder / "figure.svg")


def _claim(study: StudyConfig, folder: Path) -> None:
    """Make the folder this study's; a study may grow by variants and seeds, what it has must stay."""
    path, ours = folder / _FILE, study.model_dump(mode="json")
    if path.exists():
        keys = ("name", "recipe", "benchmark")
        old, new = (
            {key: content.get(key) for key in keys} | dict(leaves(content.get("set", {}), "set."))
            for content in (read_json(path), ours)
        )
        require_same(folder, "another study", changed_keys(old, new), remedy="Choose another folder with --out.")
    write_json(path, ours)
