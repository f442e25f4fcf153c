"""Templates of the texts that go with an export."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> Environment:
    """Jinja over the templates beside this file; `yaml` writes a value so that YAML reads it back."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("tapir", "export"),
        autoescape=False,  # noqa: S701 (YAML and Markdown: `yaml` and `cell` quote what is quoted)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {"yaml": _yaml, "cell": cell, "number": "{:,}".format, "percent": percent}
    return found


def cell(text: object) -> str:
    """A text that cannot end its cell of a Markdown table, nor become markup."""
    flat = " ".join(str(text).split())
    for sign in "\\`*_{}[]<>|#":
        flat = flat.replace(sign, f"\\{sign}")
    return flat


def percent(share: float) -> str:
    """A share as percent with one digit."""
    return f"{100 * share:.1f} %"


def _yaml(value: object) -> str:
    """JSON, which is YAML; but YAML 1.1 takes 2e-05 for text, as it has no point."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("e", ".0e") if isinstance(value, float) and "." not in text else text
