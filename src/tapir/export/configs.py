"""Ready configurations of other trainers, with the values of the run's recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from tapir.export.texts import environment
from tapir.learning import Lora, Sft
from tapir.recipe import Recipe

Method: TypeAlias = Literal["full", "lora"]

TOOLS = ("llamafactory", "axolotl", "swift")
METHODS: tuple[Method, ...] = ("full", "lora")

DATASETS = {
    "tapir_messages": {
        "file_name": "messages.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    },
    "tapir_alpaca": {
        "file_name": "alpaca.json",
        "columns": {"prompt": "instruction", "query": "input", "response": "output"},
    },
    "tapir_sharegpt": {
        "file_name": "sharegpt.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations"},
    },
}
"""What LLaMA-Factory calls the three files, and how it reads them."""

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_ASSUMED_LORA = Lora()


@dataclass(frozen=True, slots=True)
class Base:
    """The model a configuration trains.

    Attributes:
        name: what to write as its name.
        hub: whether that is an id on the hub, so that it can be found from anywhere.
    """

    name: str
    hub: bool

    @classmethod
    def of(cls, model: str) -> Base:
        """From `student.model`; of a folder only the last part is kept, for paths belong to one machine."""
        path = Path(model).expanduser()
        local = model == "nano" or path.is_absolute() or model.startswith(".") or path.exists()
        if local or not _HUB_ID.fullmatch(model):
            return cls(path.name, hub=False)
        return cls(model, hub=True)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a configuration says, apart from names of keys.

    Attributes:
        sft: the recipe's settings; None where it trains with a program of its own.
        method: what this configuration trains.
        lora: the adapter; the recipe's own only if it trains one.
        steps: optimiser steps over all epochs, on one process.
        seed: the recipe's.
        rows: examples.
    """

    base: Base
    rounds: tuple[int, ...]
    sft: Sft | None
    method: Method
    epochs: float
    seed: int
    rows: int
    revision: str = ""
    chat_template: bool = False
    continues: bool = False

    @property
    def lora(self) -> Lora:
        """The recipe's adapter, or the usual one."""
        return self.sft.lora if self.sft and self.sft.method != "full" else _ASSUMED_LORA

    @property
    def own_lora(self) -> bool:
        """Whether the adapter's values are those of the recipe."""
        return bool(self.sft and self.sft.method != "full")

    @property
    def all_linear(self) -> bool:
        """Whether every linear layer gets an adapter."""
        return tuple(self.lora.targets) == ("all-linear",)

    @property
    def quantised(self) -> bool:
        """Whether the adapter is trained over a base in 4 bits."""
        return bool(self.method == "lora" and self.sft and self.sft.method == "qlora")

    @property
    def micro(self) -> int:
        """Examples in one forward pass."""
        assert self.sft  # noqa: S101 (asked for only where there are settings)
        return min(self.sft.micro_batch or self.sft.batch_size, self.sft.batch_size)

    @property
    def accumulation(self) -> int:
        """Forward passes in a step of one process."""
        assert self.sft  # noqa: S101 (as above)
        return max(1, round(self.sft.batch_size / self.micro))

    @property
    def steps(self) -> int:
        """Steps over all epochs, on one process."""
        assert self.sft  # noqa: S101 (as above)
        return -(-round(self.epochs * self.rows) // self.sft.batch_size)

    @property
    def warmup(self) -> int:
        """Steps in which the learning rate rises; a number of steps means the same in every version of every tool."""
        assert self.sft  # noqa: S101 (as above)
        return round(self.sft.warmup_share * self.steps)


def configs(recipe: Recipe, rounds: Sequence[int], rows: int, base: str = "") -> dict[str, str]:
    """Texts of the configurations, by file name.

    Args:
        recipe: of the run.
        rounds: whose examples they train on.
        rows: how many examples these are.
        base: hub id or folder of the model to train, in place of the recipe's.
    """
    plan = recipe.curriculum
    templates = environment()
    found = {"dataset_info.json": json.dumps(DATASETS, indent=2) + "\n"}
    for method in METHODS:
        tuning = Tuning(
            base=Base(base, hub=True) if base else Base.of(recipe.student.model),
            rounds=tuple(rounds),
            sft=recipe.training if isinstance(recipe.training, Sft) else None,
            method=method,
            epochs=recipe.training.epochs,
            seed=recipe.seed,
            rows=rows,
            revision="" if base else recipe.student.revision,
            chat_template=bool(recipe.student.chat_template),
            continues=len(rounds) == 1 and rounds[0] > 1 and plan.continue_from == "previous",
        )
        for tool in TOOLS:
            name = f"{tool}-{method}.yaml"
            found[name] = templates.get_template(f"{tool}.yaml.j2").render(t=tuning, s=tuning.sft, file=name)
    return found
