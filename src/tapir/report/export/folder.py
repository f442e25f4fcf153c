"""Folder of an export, written whole or not at all, and its upload to the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Literal, TypeAlias

from tapir.data.files import disk_errors, read_json, replacing_folder, sha256, share, write_json
from tapir.data.run.reader import RunReader
from tapir.domain.errors import StoreError, StoreFull, TapirError, require

Kind: TypeAlias = Literal["model", "dataset", "mixture"]

MARKER = "tapir-export.json"
"""The file that tells an export from any other folder."""

_STALE = ["*.safetensors", "*.safetensors.index.json", "data/*.parquet"]
_LOGIN = (
    "Log in with `hf auth login`, or set HF_TOKEN to a token that may write (https://huggingface.co/settings/tokens)."
)
_ELSEWHERE = "Choose another folder with --out, or move this one away."


@dataclass(frozen=True, slots=True)
class Mark:
    """Kind of an export, the id of its run ("" for none), and the rounds it was made from."""

    kind: Kind
    run: str
    rounds: tuple[int, ...]

    @classmethod
    def of(cls, run: RunReader, kind: Kind, rounds: Sequence[int]) -> Mark:
        """Return the mark of an export from a run."""
        return cls(kind, str(run.manifest.get("run", "")), tuple(rounds))


def read_mark(folder: Path) -> Mark:
    """Read what kind of export a folder holds, which is an error where it holds none."""
    if not (folder / MARKER).is_file():
        raise StoreError(
            f"{folder} is no export: there is no {MARKER}", remedy="Make one with `tapir export RUN --out FOLDER`."
        )
    content = read_json(folder / MARKER, _ELSEWHERE)
    try:
        return Mark(content["kind"], content["run"], tuple(content["rounds"]))
    except (LookupError, TypeError) as error:
        raise StoreError(f"{folder / MARKER} is damaged: {error}", remedy=_ELSEWHERE) from error


@contextmanager
def draft_folder(out: Path, mark: Mark) -> Iterator[Path]:
    """Yield a path that is not there yet; the folder made at it takes the place of `out` when the block ends well.

    `out` may hold nothing but an unchanged earlier export of the same kind from the same run.
    """
    out = out.expanduser().absolute()
    with disk_errors(out):
        _check_place(out, mark)
    try:
        with replacing_folder(out) as draft:
            draft.rmdir()  # whoever fills it makes it
            yield draft
            write_json(draft / MARKER, asdict(mark) | {"files": {name: sha256(draft / name) for name in _files(draft)}})
            share(draft)
    except StoreFull as error:
        raise StoreFull(str(error), remedy="Free some space and export again.") from error


def _check_place(out: Path, mark: Mark) -> None:
    """Refuse to overwrite what this export did not write, and what cannot be replaced."""
    if out.is_mount():
        raise StoreError(f"{out} is a mount point", remedy=f"Name a folder in it: --out {out / 'export'}")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / MARKER).is_file():
        raise StoreError(f"{out} holds something that is no export of tapir", remedy=_ELSEWHERE)
    known = read_mark(out)
    if (known.kind, known.run) != (mark.kind, mark.run):
        what = "of another run" if known.kind == mark.kind else f"of a {known.kind}, not of a {mark.kind}"
        raise StoreError(f"{out} holds an export {what}", remedy=_ELSEWHERE)
    written: dict[str, str] = json.loads((out / MARKER).read_text("utf-8")).get("files", {})
    changed = [name for name in _files(out) if name != MARKER and sha256(out / name) != written.get(name)]
    if changed:
        names = ", ".join(sorted(changed)[:3])
        raise StoreError(
            f"{out} holds {len(changed)} files that were added or changed since it was exported: {names}",
            remedy=_ELSEWHERE,
        )


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def push(folder: Path, repo_id: str, *, private: bool = True, message: str = "") -> list[str]:
    """Upload a model to a model repository, other exports to one of data sets; return remarks, and last the address.

    A repository that does not exist is made, private or not; that of an existing one stays as it is. In one that does,
    the files of the export take the place of those with the same names; weights and tables of an earlier push that are
    no part of this one are deleted, all else stays. The token comes from the environment or from the login of the hub's
    own tools, and from nowhere else.
    """
    mark = read_mark(folder)
    require("train", "huggingface_hub")
    import huggingface_hub

    if not huggingface_hub.get_token():
        raise TapirError(f"there is no token to push {folder} with", remedy=_LOGIN)
    kind = "model" if mark.kind == "model" else "dataset"
    api = huggingface_hub.HfApi()
    notes = []
    with _hub_errors(repo_id, api.endpoint):
        try:
            made = api.create_repo(repo_id, repo_type=kind, private=private)
        except huggingface_hub.errors.HfHubHTTPError:
            made = api.create_repo(repo_id, repo_type=kind, exist_ok=True)  # raises what the first call met, if it must
            notes.append(f"{made.repo_id} was there already; who may see it was not changed")
        api.upload_folder(
            repo_id=made.repo_id,
            repo_type=kind,
            folder_path=folder,
            commit_message=message or f"Export of a TAPIR {mark.kind}",
            delete_patterns=_STALE,
        )
    card = (folder / "README.md").read_text("utf-8").split("---")
    if not any(line.startswith("license:") for line in "".join(card[1:2]).splitlines()):
        notes.append("its card names no licence: nobody may use it until it does")
    return [*notes, str(made)]


@contextmanager
def _hub_errors(repo_id: str, endpoint: str) -> Iterator[None]:
    """Turn the errors of the hub's library into ours."""
    from huggingface_hub import errors

    unreachable = vars(errors)["HTTPError"]  # of the HTTP library, which is another one from version to version
    try:
        yield
    except errors.HFValidationError as error:
        raise TapirError(f"{repo_id!r} is no name of a repository: {error}", remedy='Write "owner/name".') from error
    except errors.OfflineModeIsEnabled as error:
        raise TapirError(
            f"{repo_id} was not pushed: HF_HUB_OFFLINE keeps the hub's library offline",
            remedy="Unset it and push again.",
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise TapirError(
                f"{endpoint} does not let this token write to {repo_id} ({status})", remedy=_LOGIN
            ) from error
        raise TapirError(
            f"{endpoint} refused {repo_id} ({status}): {error.server_message or error}",
            remedy="Fix what it says and push again; nothing was changed here.",
        ) from error
    except (unreachable, OSError) as error:
        raise TapirError(
            f"{endpoint} cannot be reached: {error}",
            remedy="Check the network and push again; the export stays as it is.",
        ) from error
