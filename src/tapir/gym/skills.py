"""Skills of the embedded world: generators of reasoning-gym at four levels of difficulty (skills.toml)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
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

    def config(self, level: int) -> Config:
        """Return the generator's settings at `level` (1 to 4)."""
        return self.levels[level - 1]


def _skills(kind: str) -> tuple[Skill, ...]:
    content = tomllib.loads((resources.files("tapir.gym") / "skills.toml").read_text("utf-8"))
    return tuple(
        Skill(name, table["family"], tuple(table.get("settings", {}) | level for level in table["levels"]))
        for name, table in content[kind].items()
    )


TRAINED, UNSEEN = _skills("trained"), _skills("unseen")
SKILLS: Mapping[str, Skill] = {skill.name: skill for skill in (*TRAINED, *UNSEEN)}
