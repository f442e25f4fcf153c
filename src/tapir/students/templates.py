"""Chat templates that are shipped, and those of the user."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from tapir.errors import RecipeError


def chat_template(name: str) -> str:
    """The Jinja text that student.chat_template stands for; empty where the model's own is meant.

    Args:
        name: empty, the name of a shipped template ("alpaca"), or a file.

    Raises:
        RecipeError: there is no such template.
    """
    if not name:
        return ""
    folder = resources.files("tapir.recipes") / "templates"
    shipped = sorted(file.name.removesuffix(".jinja") for file in folder.iterdir())
    if name in shipped:
        return (folder / f"{name}.jinja").read_text("utf-8")
    try:
        return Path(name).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"student.chat_template = {name!r} is neither a shipped template ({', '.join(shipped)}) nor a readable "
            f"file: {error}",
            remedy="Name a shipped template or a file with a Jinja template; leave it empty to use the model's own.",
        ) from error
