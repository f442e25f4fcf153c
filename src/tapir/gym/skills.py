"""Skills of the embedded world: generators of reasoning-gym at four levels of difficulty (skills.toml)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TypeAlias

Config: TypeAlias = Mapping[str, object]

TRAIN_LEVELS = (1, 2, 3)
HARDER_LEVEL = 4


@dataclass(frozen=True, slots=True)
class Skill:
    """One generator with its settings by level; `levels[0]` is level 1."""

    name: str
    family: str
    levels: tuple[Config, ...]


_CONTENT = tomllib.loads((resources.files("tapir.gym") / "skills.toml").read_text("utf-8"))


def _skills(kind: str) -> tuple[Skill, ...]:
    return tuple(
        Skill(name, table["family"], tuple(table.get("settings", {}) | level for level in table["levels"]))
        for name, table in _CONTENT[kind].items()
    )


TRAINED, UNSEEN = _skills("trained"), _skills("unseen")
BY_FREQUENCY: Sequence[str] = _CONTENT["by_frequency"]
"""The trained ones, from what public corpora are full of to what they hardly have."""
SKILLS: Mapping[str, Skill] = {skill.name: skill for skill in (*TRAINED, *UNSEEN)}
