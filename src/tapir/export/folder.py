"""The folder of an export: whole or not there, and never in the place of something else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from tapir.errors import StoreError, StoreFull
from tapir.store.files import disk_errors, read_json, write_json
from tapir.store.run import RunStore

Kind: TypeAlias = Literal["model", "dataset", "mixture"]

MARKER = "tapir-export.json"
"""The file that tells an export from any other folder."""

_ELSEWHERE = "Choose another folder with --out, or move this one away."


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and what its reader should know."""

    folder: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """What an export says of itself.

    Attributes:
        run: id of the run, "" where the run has none.
        rounds: those it was made from.
    """

    kind: Kind
    run: str
    rounds: tuple[int, ...]


def mark_of(folder: Path) -> Mark:
    """What kind of export a folder holds.

    Raises:
        StoreError: it holds none.
    """
    if not (folder / MARKER).is_file():
        raise StoreError(
            f"{folder} is no export: there is no {MARKER}", remedy="Make one with `tapir export RUN --out FOLDER`."
        )
    found = read_json(folder / MARKER, _ELSEWHERE)
    try:
        return Mark(found["kind"], found["run"], tuple(found["rounds"]))
    except (LookupError, TypeError) as error:
        raise StoreError(f"{folder / MARKER} is damaged: {error}", remedy=_ELSEWHERE) from error


def run_id(store: RunStore) -> str:
    """The run's own id."""
    manifest = read_json(store.folder / "manifest.json", "Name the folder of a run, e.g. runs/gym.")
    return str(manifest.get("run", ""))


@contextmanager
def drafted(out: Path, mark: Mark) -> Iterator[Path]:
    """Yield a path that is not there yet; the folder made at it takes the place of `out` when the block ends well.

    Raises:
        StoreError: `out` holds something that is not an earlier export of the same kind from the same run, or that
            was changed since.
        StoreFull: the disk filled up.
    """
    out = out.expanduser().absolute()
    with disk_errors(out):
        _check_place(out, mark)
        draft = out.with_name(f".{out.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with disk_errors(out):
            yield draft
            write_json(draft / MARKER, _content(draft, mark))
            _move(draft, out)
    except StoreFull as error:
        raise StoreFull(str(error), remedy="Free some space and export again.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _content(draft: Path, mark: Mark) -> dict[str, object]:
    files = {name: _sha256(draft / name) for name in _files(draft)}
    return {
        "kind": mark.kind,
        "run": mark.run,
        "rounds": list(mark.rounds),
        "files": files,
    }


def _move(draft: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    draft.replace(out)
    shutil.rmtree(old, ignore_errors=True)


def _check_place(out: Path, mark: Mark) -> None:
    """Refuse to overwrite what this export did not write."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / MARKER).is_file():
        raise StoreError(f"{out} holds something that is no export of tapir", remedy=_ELSEWHERE)
    found = mark_of(out)
    if (found.kind, found.run) != (mark.kind, mark.run):
        what = "of another run" if found.kind == mark.kind else f"of a {found.kind}, not of a {mark.kind}"
        raise StoreError(f"{out} holds an export {what}", remedy=_ELSEWHERE)
    written: dict[str, str] = json.loads((out / MARKER).read_text("utf-8")).get("files", {})
    changed = [name for name in _files(out) if name != MARKER and _sha256(out / name) != written.get(name)]
    if changed:
        some = ", ".join(sorted(changed)[:3])
        raise StoreError(
            f"{out} holds {len(changed)} files that were added or changed since it was exported: {some}",
            remedy=_ELSEWHERE,
        )


def _files(folder: Path) -> list[str]:
    return sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        os.fsync(content.fileno())
        return hashlib.file_digest(content, "sha256").hexdigest()
