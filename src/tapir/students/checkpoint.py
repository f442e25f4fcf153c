"""What a checkpoint's folder holds, found without loading it."""

from __future__ import annotations

import json
from pathlib import Path

from tapir.errors import RoleError

ADAPTER = "adapter_config.json"
"""The file that tells an adapter from a whole model."""


def base_of(path: str) -> str | None:
    """The model that an adapter was trained on, as it was named in training; None for a whole model.

    Raises:
        RoleError: the adapter's description is damaged.
    """
    file = Path(path) / ADAPTER
    if not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text("utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, LookupError) as error:
        raise RoleError(
            f"{file} does not name the model it belongs to: {error}",
            remedy="Delete the checkpoint's folder; `tapir resume` trains it again.",
        ) from error
