"""Recipes for tests: one with every role behind a server, and what an error says about a wrong one."""

from __future__ import annotations

from typing import Any

import pytest

from tapir.config.toml import load, parse
from tapir.domain.errors import RecipeError


def api(**changed: object) -> dict[str, Any]:
    """Tables of a recipe whose corpus is a file and whose teacher, judge and labels come from one endpoint."""
    return {
        "corpus": {"kind": "file", "path": "rows.jsonl"},
        "teacher": {"kind": "llm", "endpoints": ["gpt"]},
        "judge": {"kind": "llm", "endpoints": ["gpt"]},
        "tagger": {"endpoints": ["gpt"]},
        "evaluation": {"kind": "judged"},
        "endpoints": {"gpt": endpoint()},
        **changed,
    }


def endpoint(**changed: object) -> dict[str, Any]:
    """The table of an endpoint."""
    return {"base_url": "https://api.example.org/v1", "model": "large", **changed}


def refusal(content: dict[str, Any]) -> str:
    """What the error says about these tables."""
    with pytest.raises(RecipeError) as caught:
        parse(content)
    assert caught.value.remedy
    return str(caught.value)


def refusal_of(source: str, *changes: str) -> str:
    """What the error says about this recipe with these changes."""
    with pytest.raises(RecipeError) as caught:
        load(source, changes)
    assert caught.value.remedy
    return str(caught.value)
