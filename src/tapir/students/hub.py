"""Where a model's files are: in a folder, on the hub, or among what was downloaded from it before."""

from __future__ import annotations

from pathlib import Path

from tapir.errors import RoleError

_PATIENCE = 10.0  # seconds for the hub to say anything; transformers itself would try for a minute, for every file


def located(name: str, revision: str = "") -> str:
    """The model as `from_pretrained` can load it now: a folder, or its id on a hub that answers.

    Args:
        name: folder, or id on the hub.
        revision: of a model on the hub; empty means the newest.

    Raises:
        RoleError: the hub does not answer, and the model was not downloaded before.
    """
    if Path(name).is_dir() or _answers(name):
        return name
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    described = ["config.json", "adapter_config.json"]  # only some files of a model are ever downloaded
    try:
        return snapshot_download(name, revision=revision or None, allow_patterns=described, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise RoleError(
            f"student.model = {name} is no folder, was not downloaded before, and the hub cannot be reached",
            remedy=f"Correct student.model, or download it where there is a network: `hf download {name}`.",
        ) from error


def _answers(name: str) -> bool:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as NetworkError  # type: ignore[attr-defined]  # whatever client it has

    try:
        HfApi().model_info(name, timeout=_PATIENCE)
    except (HfHubHTTPError, HFValidationError):
        return True  # what is wrong with the name is told when the files are asked for
    except (NetworkError, OfflineModeIsEnabled):
        return False
    return True
