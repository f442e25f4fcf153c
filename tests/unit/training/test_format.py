"""Training settings and the student's room for answers, tried before anything is paid for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from support.training import NANO
from tapir.config.toml import load
from tapir.config.training import SftConfig
from tapir.domain.errors import RoleError, TrainingError
from tapir.domain.instruction import Instruction, Origin, Pair, Response
from tapir.models.local.loading import ModelSettings
from tapir.runs.build import build_roles
from tapir.training.format import TokenizedFormat

PAIRS = [
    Pair(Instruction.of(f"Add {n} and 1. " + "Explain. " * (40 - n), Origin("corpus")), Response(str(n + 1), ""))
    for n in range(40)
]


def student(longest: int = 0, **training: Any) -> TokenizedFormat:
    return TokenizedFormat(NANO, ModelSettings(), SftConfig(**training), answered=True, longest=longest)


@pytest.mark.parametrize(
    "changes",
    [
        ["batch_size=16", "micro_batch=3"],
        ["batch_size=2", "micro_batch=8"],
        ["launch.kind=accelerate", "launch.processes=3"],
        ["launch.kind=ray", "launch.workers=3"],
    ],
)
def test_a_step_that_cannot_be_split_is_refused_when_the_trainer_is_built(changes: list[str]) -> None:
    with pytest.raises(TrainingError, match="cannot be split evenly over") as caught:
        build_roles(load("gym", [f"training.{change}" for change in changes]), encoded=False)
    assert "multiple of training.micro_batch" in caught.value.remedy


def test_a_precision_that_this_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="'float16' needs a GPU"):
        student(precision="float16").check(PAIRS)
    student(precision="float16", launch={"kind": "ray", "gpus": 1}).check(PAIRS)


@pytest.mark.parametrize("targets", [["nonsense"], ["c_attn", "nonsense"], ["proj"], ["input_layernorm"]])
def test_an_adapter_for_a_layer_that_the_student_lacks_is_refused(targets: list[str]) -> None:
    with pytest.raises(TrainingError, match=r"training\.lora\.targets = .* does not fit the student"):
        student(method="lora", lora={"targets": targets}).check(PAIRS)


@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "c_attn"], ["self_attn.q_proj", "0.mlp.up_proj"]])
def test_an_adapter_for_layers_that_it_has_loads_no_model(targets: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir.models.local.loading.empty_model", lambda *_: pytest.fail("takes seconds"))
    student(method="lora", lora={"targets": targets}).check(PAIRS)


def test_without_its_weights_here_a_students_layers_are_those_of_its_config(tmp_path: Path) -> None:
    shutil.copytree(NANO.path, tmp_path / "nano", ignore=shutil.ignore_patterns("*.safetensors"))
    here = replace(NANO, path=str(tmp_path / "nano"))
    replace(student(method="lora", lora={"targets": ["q_proj"]}), base=here).check(PAIRS)
    with pytest.raises(TrainingError, match="nonsense"):
        replace(student(method="lora", lora={"targets": ["nonsense"]}), base=here).check(PAIRS)


def test_a_length_that_no_row_has_is_refused_and_one_that_some_have_is_not() -> None:
    with pytest.raises(TrainingError, match="have more than 5 tokens") as caught:
        student(max_length=5).check(PAIRS)
    assert "Raise training.max_length" in caught.value.remedy
    student(max_length=40).check(PAIRS)  # none of the first rows is as short


def test_a_student_without_room_for_any_prompt_is_refused() -> None:
    with pytest.raises(RoleError, match=r"max_new_tokens leaves no room .* may have 500, .* reads 512") as caught:
        student(500).check(PAIRS)
    assert "Lower student.max_new_tokens" in caught.value.remedy
    student(400).check(PAIRS)
    with pytest.raises(RoleError, match="the shortest has 0 tokens"):
        student(513).check([])
    replace(student(10**6), longest=0).check(PAIRS)  # a server knows what it can read
