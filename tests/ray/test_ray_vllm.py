"""Answering through Ray Data's stage for vLLM: what it is given, how its rows are read, where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from support.paths import ROOT
from support.ray_nodes import Nodes
from support.vllm_server import ENVIRONMENT, installed
from tapir.config.student import LocalStudentConfig, RayEngineConfig, VllmStudentConfig
from tapir.config.toml import parse
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.errors import RecipeError, RoleError, TapirError
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.progress import SilentProgress
from tapir.domain.randomness import seed_for
from tapir.domain.roles import ManyStudents, Resource
from tapir.domain.round import Checkpoint
from tapir.models.local.generate import LocalStudent
from tapir.models.local.loading import MODEL_DEFAULTS, ModelSettings, load_tokenizer
from tapir.models.local.ray_cluster import DataFlow, RayCluster, Room
from tapir.models.local.ray_vllm import RayVllmStudent, VllmFlow, parse_options, postprocess, preprocess
from tapir.runs.build import build_student

NANO = Checkpoint(str(resources.files("tapir.gym") / "nano"), 0)
ASKED = [Instruction.of(f"What is {number} + 1?", Origin("corpus")) for number in range(3)]
SECTION = VllmStudentConfig(max_new_tokens=32, options=("--max-model-len", "256"))


def flow(checkpoint: Checkpoint = NANO, section: VllmStudentConfig = SECTION, **more: Any) -> VllmFlow:
    parts = {"seed": 7, "model": MODEL_DEFAULTS, "ends": frozenset({2}), "sampling": {}, **more}
    return VllmFlow(checkpoint, section, **parts)


def engine(address: str = "", **settings: Any) -> RayEngineConfig:
    return RayEngineConfig(kind="ray", address=address, **settings)


def room(workers: int = 4, cpus: float = 2.0, gpus: float = 1.0) -> Room:
    return Room(engine(workers=workers, cpus=cpus, gpus=gpus), workers=2, nodes=1)


@pytest.fixture
def adapter(tmp_path: Path) -> Checkpoint:
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": NANO.path, "r": 12, "rank_pattern": {"q_proj": 40}})
    )
    return Checkpoint(str(tmp_path), 1)


def test_a_row_is_made_of_each_instruction() -> None:
    rows = list(flow().rows(5, ASKED))
    assert [(row["place"], row["turn"], json.loads(row["messages"])) for row in rows] == [
        (5, turn, one.messages) for turn, one in enumerate(ASKED)
    ]
    assert all(row["sampling_params"] == {"temperature": 0.0, "max_tokens": 32} for row in rows)
    assert not any("model" in row for row in rows)


def test_sampled_replies_are_seeded_by_their_instruction_and_keep_the_models_own_settings() -> None:
    warm = VllmStudentConfig(max_new_tokens=32, temperature=0.7)
    rows = list(flow(section=warm, sampling={"top_p": 0.8}).rows(0, ASKED))
    assert [row["sampling_params"] for row in rows] == [
        {"temperature": 0.7, "max_tokens": 32, "top_p": 0.8, "seed": seed_for(7, one.id)} for one in ASKED
    ]


def test_an_adapter_is_asked_for_by_its_folder_beside_its_base(adapter: Checkpoint) -> None:
    found = flow(adapter)
    assert [row["model"] for row in found.rows(0, ASKED)] == [adapter.path] * len(ASKED)
    config = found.processor(room())
    assert config["model_source"] == NANO.path
    assert config["engine_kwargs"]["enable_lora"]
    assert config["engine_kwargs"]["max_lora_rank"] == 64
    Path(adapter.path, "adapter_config.json").write_text('{"base_model_name_or_path": "a/hub-id", "r": 12}')
    config = flow(adapter, model=ModelSettings(revision="v2")).processor(room())
    assert config["engine_kwargs"]["revision"] == config["engine_kwargs"]["tokenizer_revision"] == "v2"


@pytest.mark.parametrize(
    ("cpus", "gpus", "bundle", "parallel"),
    [
        (2.0, 1.0, {"CPU": 2.0, "GPU": 1.0}, 1),
        (8.0, 4.0, {"CPU": 2.0, "GPU": 1.0}, 4),
        (2.0, 0.5, {"CPU": 2.0, "GPU": 0.5}, 1),
        (2.0, 0.0, {"CPU": 2.0}, 1),
    ],
)
def test_an_engine_spans_the_gpus_of_its_worker(
    cpus: float, gpus: float, bundle: dict[str, float], parallel: int
) -> None:
    config = flow().processor(room(cpus=cpus, gpus=gpus))
    assert config["placement_group_config"] == {"bundle_per_worker": bundle}
    assert config["engine_kwargs"]["tensor_parallel_size"] == parallel
    assert config["concurrency"] == (2, 4)
    assert not any(config[stage] for stage in ("chat_template_stage", "tokenize_stage", "detokenize_stage"))


def test_arguments_of_the_recipe_win_over_ours() -> None:
    section = VllmStudentConfig(options=("--tensor-parallel-size", "2", "--dtype", "float16"))
    found = flow(section=section, model=ModelSettings(dtype="bfloat16")).engine_arguments(room())
    assert (found["tensor_parallel_size"], found["dtype"]) == (2, "float16")


def test_another_python_is_that_of_the_engines() -> None:
    section = VllmStudentConfig(python="/opt/vllm/bin/python")
    assert flow(section=section).processor(room())["runtime_env"]["py_executable"] == "/opt/vllm/bin/python"
    assert "py_executable" not in flow().processor(room())["runtime_env"]


@pytest.mark.parametrize("template", ["", "{% for one in messages %}Q: {{ one['content'] }}\nA: {% endfor %}"])
def test_a_prompt_has_the_tokens_that_every_other_student_reads(template: str) -> None:
    model = ModelSettings(chat_template=template)
    tokenizer = load_tokenizer(NANO, model)
    chat = ASKED[0].messages
    wanted = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
    row = {"messages": json.dumps(chat), "turn": 3}
    found = preprocess(NANO, model, row)
    assert {**found, **row} == found
    assert found["tokenized_prompt"] == wanted
    assert found["__inference_error__"] == "", "Ray takes anything else for an error"


def test_a_prompt_that_the_template_refuses_is_an_error_of_its_row_which_ray_hands_back() -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    own = (Path(NANO.path) / "chat_template.jinja").read_text("utf-8")
    model = ModelSettings(chat_template=refusing + own)
    chat = [{"role": "system", "content": "Be brief."}, *ASKED[0].messages]
    row = preprocess(NANO, model, {"place": 2, "turn": 3, "messages": json.dumps(chat)})
    assert (row["place"], row["turn"]) == (2, 3)
    assert flow(model=model).reply(row) == Failure("template", "the chat template refuses it: no")


def test_an_answer_that_came_to_its_end_is_reported_from_one_that_was_cut() -> None:
    row = {"place": 0, "turn": 1, "generated_text": "4", "generated_tokens": [9, 2], "num_input_tokens": 11}
    assert flow().reply(postprocess(row)) == Completion("4", "stop", Usage(11, 1), "student")
    row["generated_tokens"] = [9, 9]
    assert flow().reply(postprocess(row)) == Completion("4", "length", Usage(11, 2), "student")


def test_trouble_with_one_row_is_a_failure_of_that_row() -> None:
    row = {"place": 0, "turn": 1, "__inference_error__": "ValueError: the prompt is too long"}
    assert flow().reply(row) == Failure("vllm", "ValueError: the prompt is too long")


def test_options_of_a_server_are_arguments_of_an_engine() -> None:
    options = ["--max-model-len", "4096", "--gpu-memory-utilization=0.8", "--enforce-eager", "--dtype", "float16"]
    options += ["--no-enable-prefix-caching", "--hf-overrides", '{"a": 1}']
    assert parse_options(options) == {
        "max_model_len": 4096,
        "gpu_memory_utilization": 0.8,
        "enforce_eager": True,
        "dtype": "float16",
        "enable_prefix_caching": False,
        "hf_overrides": {"a": 1},
    }


@pytest.mark.parametrize(("options", "kind"), [(["4096"], RecipeError), (["--port", "4096"], RoleError)])
def test_an_option_that_cannot_be_used_is_an_error_before_anything_starts(
    options: list[str], kind: type[TapirError]
) -> None:
    student = {"kind": "vllm", "options": options}
    recipe = parse({"name": "mine", "seed": 3, "student": student, "engine": {"kind": "ray"}})
    with pytest.raises(kind, match=rf"student\.options.*'{options[0]}'"):
        build_student(recipe)


class Shuffled(RayCluster):
    """Rows come back one by one and in no order, as from Ray."""

    def map(self, flow: DataFlow, blocks: Any) -> Generator[tuple[int, Any], None, None]:
        assert isinstance(flow, VllmFlow)
        chunks = list(blocks)
        rows = [row for place, chunk in enumerate(chunks) for row in flow.rows(place, chunk)]
        rows.sort(key=lambda row: row["sampling_params"]["seed"])
        for row in rows:
            row |= {"text": json.loads(row["messages"])[0]["content"].upper(), "tokens": [], "prompt_tokens": 9}
        yield from flow.gathered(chunks, rows)


def test_a_chunk_comes_back_whole_in_its_own_order() -> None:
    student = RayVllmStudent(Shuffled(engine()), VllmStudentConfig(temperature=1.0), seed=7)
    assert isinstance(student, ManyStudents)
    assert isinstance(student, Resource)
    found = dict(student.answer_all(NANO, [ASKED, [], ASKED[:1]]))
    wanted = [(one.id, one.text.upper()) for one in ASKED]
    texts = {
        place: [(name, one.text) for name, one in replies if isinstance(one, Completion)]
        for place, replies in found.items()
    }
    assert texts == {0: wanted, 1: [], 2: wanted[:1]}


@pytest.mark.ray
def test_the_settings_are_those_that_ray_knows() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    program = (
        "import json, sys; from ray.data.llm import vLLMEngineProcessorConfig;"
        "from ray.llm._internal.batch.stages import vLLMEngineStage;"
        "config = vLLMEngineProcessorConfig(**json.loads(sys.argv[1]));"
        "print(config.model_source, config.placement_group_config['bundle_per_worker']['GPU'])"
    )
    config = json.dumps(flow().processor(room()))
    found = subprocess.run([sys.executable, "-c", program, config], capture_output=True, text=True, check=False)
    assert found.stdout.split() == [NANO.path, "1.0"], found.stderr


@pytest.mark.ray
def test_a_cluster_without_vllm_is_reported(two_nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(ROOT / "tests")])
    student = RayVllmStudent(RayCluster(engine(two_nodes.address, workers=1)), SECTION, seed=7)
    student.open(tmp_path, SilentProgress())
    with pytest.raises(RoleError, match="vLLM is not installed") as caught:
        list(student.answer(NANO, ASKED))
    assert "every machine" in caught.value.remedy


def agreeing(cluster: RayCluster, folder: Path, python: Path) -> int:
    """How many of 64 answers in float32 are those of transformers."""
    # Isolated: folders of tests on PYTHONPATH are called ray and vllm too.
    there = subprocess.run([python, "-I", "-c", "import ray.data, vllm"], capture_output=True, check=False)
    if there.returncode:
        pytest.skip(f"{python} does not have both vLLM and Ray")
    model = ModelSettings(dtype="float32")
    options = ("--max-model-len", "256", "--enforce-eager")
    section = VllmStudentConfig(max_new_tokens=32, options=options, python=str(python))
    student = RayVllmStudent(cluster, section, 7, model)
    student.open(folder, SilentProgress())
    asked = [Instruction.of(f"What is {number} + 1?", Origin("corpus")) for number in range(64)]
    try:
        found = dict(student.answer(NANO, asked))
    finally:
        student.close()
    here = dict(LocalStudent(LocalStudentConfig(max_new_tokens=32, batch_size=16), 7, model).answer(NANO, asked))
    return sum(found[one.id] == here[one.id] for one in asked)


@pytest.mark.vllm
@pytest.mark.ray
@pytest.mark.slow
def test_answers_of_vllm_on_the_cpu_are_those_of_transformers(two_nodes: Nodes, tmp_path: Path) -> None:
    if not installed():
        pytest.skip(".venv-vllm is absent or not complete: `make vllm` installs it")
    cluster = RayCluster(engine(two_nodes.address, workers=1), patience=300.0)
    assert agreeing(cluster, tmp_path, ENVIRONMENT / "bin" / "python") >= 62


@pytest.mark.gpu
@pytest.mark.ray
def test_answers_of_vllm_on_a_gpu_are_nearly_those_of_transformers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("ray", reason="Ray is not installed")
    python = os.environ.get("TAPIR_VLLM_PYTHON", sys.executable)
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and TAPIR_VLLM_PYTHON: a Python with Ray and with vLLM for it")
    assert agreeing(RayCluster(engine(workers=1, gpus=1.0), patience=300.0), tmp_path, Path(python)) >= 58
