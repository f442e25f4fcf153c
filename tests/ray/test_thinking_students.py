"""The same thinking student in this process, on file, behind vLLM and on Ray says, thinks and scores the same."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support import thinking_student as thinking
from support import vllm_server as vllm
from support.ray_nodes import Nodes
from support.recording import RecordingProgress
from support.thinking_student import ASKED, BUDGETS, FAMILIES, KNOWN, Mode
from tapir.config.student import LocalStudentConfig, RayEngineConfig, VllmStudentConfig
from tapir.data.run.rows import EvaluationRow
from tapir.domain.completion import Completion
from tapir.domain.instruction import Instruction
from tapir.domain.roles import Reply, Student
from tapir.domain.round import Checkpoint
from tapir.models.local.generate import LocalStudent
from tapir.models.local.loading import ModelSettings
from tapir.models.local.ray import RayStudent
from tapir.models.local.ray_cluster import RayCluster
from tapir.models.local.ray_vllm import RayVllmStudent
from tapir.models.local.vllm import VllmStudent
from tapir.runs.eval_target import resolve_target

pytestmark = pytest.mark.slow
EVERY = pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name, family in FAMILIES.items() for mode in family.modes]
)
ONCE = pytest.mark.parametrize(  # "on" and "keep" answer by the same settings
    ("name", "mode"), [("switch", "off"), ("special", "keep"), ("begun", "on")]
)
TWICE = pytest.mark.parametrize(("name", "mode"), [("special", "keep"), ("begun", "on")])
SERVED = ("--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "16")


class Heard:
    """A student whose replies are remembered as they were."""

    def __init__(self, student: Student) -> None:
        self.student, self.replies = student, dict[str, object]()

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        for name, reply in self.student.answer(checkpoint, instructions):
            self.replies[name] = reply
            yield name, reply


def settings(mode: Mode) -> dict[str, Any]:
    return {"thinking": mode, "dtype": "float32", **(BUDGETS if mode != "off" else {"max_new_tokens": 16})}


def said(
    student: Student, checkpoint: Checkpoint, folder: Path
) -> tuple[Mapping[str, object], list[EvaluationRow], float]:
    """The replies as they were, every answer as a run keeps it, and the success rate."""
    heard = Heard(student)
    rows, rate = thinking.evaluation(heard, checkpoint, folder)
    return heard.replies, rows, rate


def here(name: str, mode: Mode, made: Mapping[str, Checkpoint], folder: Path) -> Any:
    section = LocalStudentConfig.model_validate({"kind": "transformers", "batch_size": 4, **settings(mode)})
    return said(LocalStudent(section, 1, ModelSettings.of(section)), made[name], folder / "here")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Checkpoint]:
    return thinking.make(tmp_path_factory.mktemp("thinking"))


def answer_tokens(checkpoint: Checkpoint, answer: str) -> int:
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(checkpoint.path)(answer, add_special_tokens=False)["input_ids"])


@EVERY
def test_the_answer_is_graded_and_the_thought_has_a_column_of_its_own(
    name: str, mode: Mode, made: Mapping[str, Checkpoint], tmp_path: Path
) -> None:
    replies, rows, rate = here(name, mode, made, tmp_path)
    found = {row.id: row for row in rows}
    for one, (thought, answer) in KNOWN.items():
        row, thinks = found[one.id], mode != "off"
        if thinks and thought == thinking.ENDLESS:
            assert (row.answer, row.failure) == (None, "still thinking")
        elif answer == thinking.ENDLESS:
            assert (row.finish_reason, row.thought) == ("length", thought if thinks else None)
            assert answer.startswith(row.answer or "-")
            assert answer_tokens(made[name], row.answer or "") == BUDGETS["max_new_tokens"]
            longest = BUDGETS["max_new_tokens"] + thinks * BUDGETS["thinking_tokens"]
            reply = replies[one.id]
            assert isinstance(reply, Completion)
            assert reply.usage.completion_tokens == longest
        else:
            wanted = (answer, thought or None if thinks else None, "stop", None)
            assert (row.answer, row.thought, row.finish_reason, row.failure) == wanted
    assert rate == pytest.approx((6 if mode != "off" else 7) / len(ASKED))


@EVERY
def test_recorded_answers_are_those_of_the_student_that_wrote_them(
    name: str, mode: Mode, made: Mapping[str, Checkpoint], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from tapir.models.local.decoding import generate
    from tapir.models.local.loading import load
    from tapir.models.local.template import ReplyReader, prompt_tokens

    family, recorded = FAMILIES[name], []
    section = LocalStudentConfig.model_validate({"kind": "transformers", **settings(mode)})
    model, tokenizer = load(made[name], ModelSettings.of(section))
    prompts: Any = prompt_tokens(tokenizer, [each.messages for each in ASKED])
    written = generate(model, tokenizer, prompts, longest=section.longest, temperature=0.0, seed=1)
    begun = ReplyReader(tokenizer).begun
    for one, tokens in zip(ASKED, written, strict=True):
        text = AutoTokenizer.from_pretrained(made[name].path).decode(tokens).removesuffix(family.end)
        recorded.append({"messages": [*one.messages, {"role": "assistant", "content": begun + text}]})
    (tmp_path / "recorded.json").write_text(json.dumps(recorded), encoding="utf-8")
    target = resolve_target(str(tmp_path / "recorded.json"), "gym")
    _, rows, rate = said(target.student, target.checkpoint, tmp_path / "recorded")
    _, ours, ours_rate = here(name, mode, made, tmp_path)
    for one, row in zip(ours, rows, strict=True):
        assert (row.answer or "").startswith(one.answer or "")  # a text may be longer than the student's answers
        # A text does not say its end.
        assert row == replace(one, answer=row.answer, finish_reason=one.finish_reason and "stop")
        assert row.answer == one.answer or one.finish_reason == "length"
    assert rate == ours_rate


@pytest.mark.vllm
@ONCE
def test_behind_vllm_it_is_the_same(name: str, mode: Mode, made: Mapping[str, Checkpoint], tmp_path: Path) -> None:
    if not vllm.installed():
        pytest.skip(".venv-vllm is absent or not complete: `make vllm` installs it")
    python = str(vllm.ENVIRONMENT / "bin" / "python")
    section = VllmStudentConfig.model_validate(
        {"kind": "vllm", "python": python, "options": SERVED, "start_timeout": 600.0, **settings(mode)}
    )
    student = VllmStudent(section, 1, ModelSettings.of(section))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CACHE_ROOT", str(vllm.ENVIRONMENT / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        student.open(tmp_path, RecordingProgress())
        try:
            there = said(student, made[name], tmp_path / "served")
        finally:
            student.close()
    assert there == here(name, mode, made, tmp_path)


@pytest.mark.ray
@TWICE
def test_on_ray_it_is_the_same(
    name: str, mode: Mode, made: Mapping[str, Checkpoint], two_nodes: Nodes, tmp_path: Path
) -> None:
    section = LocalStudentConfig.model_validate({"kind": "transformers", "batch_size": 4, **settings(mode)})
    cluster = RayCluster(RayEngineConfig(kind="ray", address=two_nodes.address))
    student = RayStudent(cluster, section, 1, ModelSettings.of(section))
    student.open(tmp_path, RecordingProgress())
    try:
        there = said(student, made[name], tmp_path / "there")
    finally:
        student.close()
    assert there == here(name, mode, made, tmp_path)


@pytest.mark.vllm
@pytest.mark.ray
@TWICE
def test_behind_vllm_on_ray_it_is_the_same(
    name: str, mode: Mode, made: Mapping[str, Checkpoint], two_nodes: Nodes, tmp_path: Path
) -> None:
    python = os.environ.get("TAPIR_VLLM_PYTHON", str(vllm.ENVIRONMENT / "bin" / "python"))
    # Isolated: folders of tests on PYTHONPATH are called ray and vllm too.
    if (
        not Path(python).exists()
        or subprocess.run([python, "-I", "-c", "import ray.data, vllm"], check=False).returncode
    ):
        pytest.skip(f"{python} does not have both vLLM and Ray; TAPIR_VLLM_PYTHON names another Python")
    section = VllmStudentConfig.model_validate({"kind": "vllm", "python": python, "options": SERVED, **settings(mode)})
    cluster = RayCluster(RayEngineConfig(kind="ray", address=two_nodes.address, workers=1), patience=300.0)
    student = RayVllmStudent(cluster, section, 1, ModelSettings.of(section))
    student.open(tmp_path, RecordingProgress())
    try:
        there = said(student, made[name], tmp_path / "there")
    finally:
        student.close()
    assert there == here(name, mode, made, tmp_path)
