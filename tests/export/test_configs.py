"""Configurations of other trainers hold the values of the recipe."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tapir.export.configs import METHODS, TOOLS, configs
from tapir.recipe import Recipe
from tapir.recipe_file import parse

yaml: Any = importlib.import_module("yaml")

HUB = "Qwen/Qwen2.5-0.5B-Instruct"
COMMAND = {"kind": "command", "command": ["python", "{data}", "{out}"], "epochs": 2.0}


def recipe(training: dict[str, object] | None = None, **student: object) -> Recipe:
    return parse({"seed": 11, "student": {"model": HUB} | student, "training": training or {}})


def written(one: Recipe, name: str, *, rounds: tuple[int, ...] = (1,), rows: int = 100, base: str = "") -> Any:
    return yaml.safe_load(configs(one, rounds, rows, base)[name])


def comments(one: Recipe, name: str, rounds: tuple[int, ...] = (1,)) -> str:
    return "\n".join(line for line in configs(one, rounds, 100)[name].splitlines() if line.startswith("#"))


def every(method: str) -> list[str]:
    return [f"{tool}-{method}.yaml" for tool in TOOLS]


SETTINGS: dict[str, object] = {
    "epochs": 3.0,
    "learning_rate": 2e-5,
    "batch_size": 8,
    "micro_batch": 2,
    "scheduler": "linear",
    "warmup_share": 0.1,
    "weight_decay": 0.05,
    "max_length": 2048,
}


@pytest.mark.parametrize("method", METHODS)
def test_llamafactory_gets_the_recipe(method: str) -> None:
    found = written(recipe(SETTINGS), f"llamafactory-{method}.yaml")
    expected = {
        "model_name_or_path": HUB,
        "stage": "sft",
        "finetuning_type": method,
        "cutoff_len": 2048,
        "learning_rate": 2e-5,
        "num_train_epochs": 3.0,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "lr_scheduler_type": "linear",
        "warmup_steps": 4,  # a tenth of 300 examples in steps of 8
        "weight_decay": 0.05,
        "seed": 11,
        "train_on_prompt": False,
    }
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("method", METHODS)
def test_axolotl_gets_the_recipe(method: str) -> None:
    found = written(recipe(SETTINGS), f"axolotl-{method}.yaml")
    expected = {
        "base_model": HUB,
        "sequence_len": 2048,
        "excess_length_strategy": "drop",
        "learning_rate": 2e-5,
        "num_epochs": 3.0,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "lr_scheduler": "linear",
        "warmup_steps": 4,
        "weight_decay": 0.05,
        "seed": 11,
        "bf16": "auto",
    }
    assert {key: found[key] for key in expected} == expected
    assert found.get("adapter") == ("lora" if method == "lora" else None)
    assert found["datasets"][0]["roles_to_train"] == ["assistant"]


@pytest.mark.parametrize("method", METHODS)
def test_swift_gets_the_recipe(method: str) -> None:
    found = written(recipe(SETTINGS), f"swift-{method}.yaml")
    expected = {
        "model": HUB,
        "tuner_type": method,
        "max_length": 2048,
        "truncation_strategy": "delete",
        "learning_rate": 2e-5,
        "num_train_epochs": 3.0,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "lr_scheduler_type": "linear",
        "warmup_steps": 4,
        "weight_decay": 0.05,
        "seed": 11,
    }
    assert {key: found[key] for key in expected} == expected


def test_an_adapter_has_the_recipes_values() -> None:
    one = recipe({"method": "lora", "lora": {"rank": 8, "alpha": 24, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}})
    factory, axolotl, swift = (written(one, name) for name in every("lora"))
    assert (factory["lora_rank"], factory["lora_alpha"], factory["lora_dropout"]) == (8, 24, 0.1)
    assert factory["lora_target"] == "q_proj,v_proj"
    assert (axolotl["lora_r"], axolotl["lora_alpha"], axolotl["lora_dropout"]) == (8, 24, 0.1)
    assert axolotl["lora_target_modules"] == ["q_proj", "v_proj"]
    assert (swift["lora_rank"], swift["lora_alpha"], swift["target_modules"]) == (8, 24, ["q_proj", "v_proj"])


def test_all_linear_layers_are_said_in_the_words_of_each_tool() -> None:
    factory, axolotl, swift = (written(recipe({"method": "lora"}), name) for name in every("lora"))
    assert (factory["lora_target"], axolotl["lora_target_linear"], swift["target_modules"]) == (
        "all",
        True,
        ["all-linear"],
    )


def test_an_adapter_that_the_recipe_does_not_train_says_so() -> None:
    for name in every("lora"):
        assert "not the recipe's" in comments(recipe(), name)
        assert "not the recipe's" not in comments(recipe({"method": "lora"}), name)


def test_a_base_in_4_bits_is_asked_for() -> None:
    factory, axolotl, swift = (written(recipe({"method": "qlora"}), name) for name in every("lora"))
    assert factory["quantization_bit"] == swift["quant_bits"] == 4
    assert (axolotl["adapter"], axolotl["load_in_4bit"]) == ("qlora", True)


def test_what_else_the_recipe_can_say_is_said() -> None:
    one = recipe(
        {"packing": True, "too_long": "cut", "precision": "float16", "gradient_checkpointing": True}
        | {"report_to": ["wandb"]},
        revision="v2",
    )
    factory, axolotl, swift = (written(one, name) for name in every("full"))
    assert (factory["packing"], factory["neat_packing"], factory["fp16"]) == (True, True, True)
    assert (factory["disable_gradient_checkpointing"], factory["report_to"]) == (False, ["wandb"])
    assert (axolotl["sample_packing"], axolotl["fp16"], axolotl["gradient_checkpointing"]) == (True, True, True)
    assert (axolotl["excess_length_strategy"], axolotl["use_wandb"]) == ("truncate", True)
    assert (swift["packing"], swift["torch_dtype"], swift["gradient_checkpointing"]) == (True, "float16", True)
    assert swift["truncation_strategy"] == "right"
    assert factory["model_revision"] == axolotl["revision_of_model"] == swift["model_revision"] == "v2"


def test_what_a_tool_has_no_key_for_is_named() -> None:
    assert 'too_long = "drop"' in comments(recipe(), "llamafactory-full.yaml")
    one = recipe({"dpo": {}, "launch": {"kind": "accelerate", "processes": 4}}, chat_template="alpaca")
    for name in every("full"):
        told = comments(one, name)
        assert "training.dpo" in told
        assert "launches with accelerate" in told
        assert "student.chat_template" in told
        assert "order of the examples" in told


def test_a_round_that_went_on_from_another_says_from_which() -> None:
    for name in every("full"):
        assert "went on from S_1" in comments(recipe(), name, (2,))
        assert "went on" not in comments(recipe(), name, (1,))
        assert "went on" not in comments(recipe(), name, (1, 2))


def test_a_program_of_ones_own_leaves_its_settings_open() -> None:
    for name in (*every("full"), *every("lora")):
        found = written(recipe(COMMAND), name)
        assert "learning_rate" not in found
        assert "learning_rate" in comments(recipe(COMMAND), name)
        assert 2.0 in {found.get("num_train_epochs"), found.get("num_epochs")}


@pytest.mark.parametrize("model", ["nano", "/srv/models/mine", "~/models/mine", "./mine"])
def test_a_folder_of_this_machine_is_a_name_to_replace(model: str) -> None:
    one = recipe(model=model)
    for name in every("full"):
        text = configs(one, [1], 100)[name]
        assert "/srv" not in text
        assert "~" not in text
        assert "write yours in its place" in text
        assert Path(model).name in str(yaml.safe_load(text))


def test_a_model_may_be_named_in_place_of_the_recipes() -> None:
    for name in every("full"):
        found = written(recipe(model="nano"), name, base="owner/other")
        assert "owner/other" in {found.get("model_name_or_path"), found.get("base_model"), found.get("model")}


def test_small_numbers_are_numbers_in_yaml_1_1() -> None:
    """There 2e-05 is text; every tool here reads YAML 1.1."""
    for name in every("full"):
        assert isinstance(written(recipe({"learning_rate": 2e-5}), name)["learning_rate"], float)
        assert written(recipe({"learning_rate": 1e-6}), name)["learning_rate"] == 1e-6


def test_the_three_files_are_known_to_llamafactory() -> None:
    info = json.loads(configs(recipe(), [1], 100)["dataset_info.json"])
    assert {one["file_name"] for one in info.values()} == {"messages.jsonl", "alpaca.json", "sharegpt.json"}
    assert written(recipe(), "llamafactory-full.yaml")["dataset"] in info
