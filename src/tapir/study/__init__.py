"""Grids of variants and seeds at the same budget, and what they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from tapir import session
from tapir.errors import RecipeError, RoleError, RunExists, RunMismatch, TapirError
from tapir.store.files import disk_errors, read_json, write_json, write_text
from tapir.store.lock import locked
from tapir.study.figure import draw
from tapir.study.grid import Job, Study, jobs, leaves, read, shipped
from tapir.study.results import StudyResult, results
from tapir.study.runs import carry_out, finished
from tapir.study.words import as_json, markdown

__all__ = ["Job", "Study", "StudyResult", "check", "compare", "jobs", "read", "results", "shipped", "write"]

_FILE = "study.json"


def compare(
    study: Study,
    folder: Path,
    wanted: Sequence[Job],
    *,
    at_once: int,
    threads: int,
    say: Callable[[str], None],
) -> StudyResult:
    """Carry out the wanted runs of a study in a folder, then say what all finished ones show.

    Args:
        study: the grid.
        folder: of the study; what is finished there is not done again.
        wanted: its runs, or a part of them.
        at_once: runs beside each other.
        threads: CPU threads of each.
        say: is told a line for each run that ends.

    Raises:
        RunExists: the folder holds something else.
        RunMismatch: it holds another study, or a run of another recipe.
        RecipeError: a variant cannot be run, or is not measured with the study's benchmark.
        RunLocked: another process works there.
        RoleError: no run could be finished.
        Interrupted: it was stopped; the same command goes on.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        check(study, [job for job in wanted if not finished(job, folder)])
        _claim(study, folder)
        failed = carry_out(wanted, folder, known=jobs(study), at_once=at_once, threads=threads, say=say)
        found = results(study, jobs(study), folder)
        if failed and not found.variants[0].seeds:
            raise RoleError(
                f"none of the {len(wanted)} runs could be finished; the first: {failed[0][1]}",
                remedy="Mend the cause and run the same command again.",
            )
        found = replace(found, failed=[(job.variant, job.seed, why) for job, why in failed])
        write(found, folder)
    return found


def check(study: Study, wanted: Sequence[Job]) -> None:
    """Check all that can be checked before the first run begins, once for each variant.

    Raises:
        TapirError: what keeps a variant from running.
        RecipeError: `benchmark` is none that the runs are measured with.
    """
    for job in {job.variant: job for job in wanted}.values():
        try:
            names = [one.name for one in session.preflight(job.recipe).benchmarks]
        except TapirError as error:
            raise type(error)(f"variants.{job.variant}: {error}", remedy=error.remedy) from error
        if study.benchmark not in names:
            raise RecipeError(
                f"benchmark = {study.benchmark!r}: the runs are measured with {', '.join(names)}",
                remedy="Name one of these in the study.",
            )


def write(found: StudyResult, folder: Path) -> None:
    """Write results.json, results.md and, where the chart library is installed, figure.svg and figure.png."""
    write_json(folder / "results.json", as_json(found))
    write_text(folder / "results.md", markdown(found))
    if find_spec("altair") and find_spec("vl_convert"):
        draw(found, folder / "figure.svg")


def _claim(study: Study, folder: Path) -> None:
    """Make the folder this study's; a study may grow by variants and seeds, what it has must stay."""
    path, ours = folder / _FILE, study.model_dump(mode="json")
    if path.exists():
        theirs = read_json(path)
        facts = [
            {key: one.get(key) for key in ("name", "recipe", "benchmark")} | dict(leaves(one.get("set", {}), "set."))
            for one in (theirs, ours)
        ]
        differing = [
            f"{key}: {facts[0].get(key, 'not set')} -> {facts[1].get(key, 'not set')}"
            for key in sorted(facts[0].keys() | facts[1].keys())
            if facts[0].get(key) != facts[1].get(key)
        ]
        if differing:
            raise RunMismatch(
                f"{folder} holds another study:\n  " + "\n  ".join(differing),
                remedy="Choose another folder with --dir.",
            )
    elif any(one.name not in {".lock", "log.txt"} for one in folder.iterdir()):
        raise RunExists(f"{folder} is not empty and holds no study", remedy="Choose another folder with --dir.")
    write_json(path, ours)
