"""Keep the folders of this machine out of what leaves it."""

from __future__ import annotations

import re
from typing import Any

_PART = r"[^\s\"',\\/]+"
_WHOLE = re.compile(r"(?:~|[A-Za-z]:)?[\\/](?:[^\r\n\\/]+[\\/])*([^\r\n\\/]+)[\\/]?")
_WITHIN = re.compile(rf"(^|[\s\"'=,:(\[])(?:~|[A-Za-z]:)?[\\/](?:{_PART}[\\/])+({_PART})")


def without_paths(text: str) -> str:
    """A text in which every absolute path is its last part only.

    Within a longer text a path has at least two parts, so that "4 /5" stays as it is.
    """
    whole = _WHOLE.fullmatch(text)
    return whole.group(1) if whole else _WITHIN.sub(r"\1\2", text)


def cleaned(value: Any) -> Any:
    """The same for every text in something that came from JSON."""
    if isinstance(value, str):
        return without_paths(value)
    if isinstance(value, list):
        return [cleaned(one) for one in value]
    if isinstance(value, dict):
        return {key: cleaned(one) for key, one in value.items()}
    return value
