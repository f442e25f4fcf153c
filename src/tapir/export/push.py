"""Put an export on the Hugging Face hub. Nothing else in this project ever does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from tapir.errors import MissingExtra, TapirError
from tapir.export.folder import mark_of

_STALE = ["*.safetensors", "*.safetensors.index.json", "data/*.parquet"]
_LOGIN = (
    "Log in with `hf auth login`, or set HF_TOKEN to a token that may write (https://huggingface.co/settings/tokens)."
)


@dataclass(frozen=True, slots=True)
class Pushed:
    """Where the export lies now, and what its owner should know."""

    url: str
    notes: tuple[str, ...] = ()


def push(folder: Path, repo_id: str, *, private: bool = True, message: str = "") -> Pushed:
    """Upload an export: a model to a model repository, a data set or a mixture to a data set repository.

    A repository that does not exist is made. In one that does, the files of the export take the place of those with
    the same names; weights and tables of an earlier push that are no part of this one are deleted, all else stays.
    The token comes from the environment or from the login of the hub's own tools, and from nowhere else.

    Args:
        folder: an export.
        repo_id: "owner/name", or "name" for one's own.
        private: whether a new repository is private; that of an existing one is left as it is.
        message: of the commit.

    Raises:
        StoreError: the folder is no export.
        MissingExtra: huggingface_hub is not installed.
        TapirError: there is no token, the hub cannot be reached, or it refuses.
    """
    mark = mark_of(folder)
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtra("huggingface_hub is not installed", remedy="pip install 'tapir-distill[train]'") from error
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
    if not _has_licence(folder):
        notes.append("its card names no licence: nobody may use it until it does")
    return Pushed(str(made), tuple(notes))


def _has_licence(folder: Path) -> bool:
    card = (folder / "README.md").read_text("utf-8").split("---")
    return any(line.startswith("license:") for line in card[1].splitlines()) if len(card) > 1 else False


@contextmanager
def _hub_errors(repo_id: str, endpoint: str) -> Iterator[None]:
    """Say in one line what the hub's library raises."""
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
            remedy="Mend what it says and push again; nothing was changed here.",
        ) from error
    except (unreachable, OSError) as error:
        raise TapirError(
            f"{endpoint} cannot be reached: {error}",
            remedy="Check the network and push again; the export stays as it is.",
        ) from error
