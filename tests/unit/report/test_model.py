"""The exported student loads without us and answers as it did in the run; its card tells the truth."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from conftest import SmallRun
from support.runs import OVER_API, build_run
from support.small import environment
from tapir.config.curriculum import CurriculumConfig
from tapir.data.files import read_json, write_json
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import EvaluationRow
from tapir.data.run.store import RunStore
from tapir.domain.errors import DataError, StoreError
from tapir.domain.round import Checkpoint
from tapir.models.estimators import scale_of
from tapir.models.local.loading import load
from tapir.report.export.cards import _steps
from tapir.report.export.model import export_model

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers
yaml: Any = importlib.import_module("yaml")

NANO = str(resources.files("tapir.gym") / "nano")
ALONE = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
answers = []
for question in json.load(sys.stdin):
    chat = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**prompt, max_new_tokens=48, do_sample=False)
    answers.append(tokenizer.decode(written[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True))
assert not [name for name in sys.modules if name.startswith("tapir")]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def run(small_run: SmallRun) -> RunStore:
    return RunStore(small_run.folder)


@pytest.fixture(scope="module")
def out(run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "my_student"
    export_model(run, out)
    return out


@pytest.fixture(scope="module")
def card(out: Path) -> str:
    return (out / "README.md").read_text()


@pytest.fixture(scope="module")
def adapted(run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """The same run, its last student an adapter of nano, as peft leaves it."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapted") / "run"
    shutil.copytree(run.folder, folder)
    model, tokenizer = load(Checkpoint(NANO, 0))
    torch.manual_seed(0)
    config = LoraConfig(r=4, task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False)
    checkpoint = folder / "round-2" / "checkpoint"
    shutil.rmtree(checkpoint)
    get_peft_model(model, config).save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    return RunStore(folder)


def python(program: str, *arguments: str, cwd: Path, said: str = "") -> str:
    """What a program prints that knows nothing of this project."""
    offline = environment() | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program, *arguments]
    result = subprocess.run(command, cwd=cwd, input=said, capture_output=True, text=True, env=offline, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def snippet(card: str) -> str:
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found
    return found.group(1)


def paths_in(folder: Path, *forbidden: str) -> list[str]:
    """Files that mention one of some folders."""
    return [
        path.name
        for path in folder.rglob("*")
        if path.is_file() and any(one.encode() in path.read_bytes() for one in forbidden)
    ]


def test_transformers_alone_gives_the_answers_of_the_run(run: RunStore, out: Path) -> None:
    rows = run.read("round-2/evaluation", EvaluationRow)
    rows = [row for row in rows if row.answer is not None][::3]
    questions = json.dumps([row.instruction for row in rows])
    answers = json.loads(python(ALONE, str(out), cwd=out.parent, said=questions))
    assert answers == [row.answer for row in rows]


def test_everything_a_loader_wants_is_there_and_nothing_else_nor_a_folder_of_this_machine(
    out: Path, run: RunStore
) -> None:
    wanted = "README.md chat_template.jinja config.json generation_config.json model.safetensors tapir-export.json"
    assert {path.name for path in out.iterdir()} == {*wanted.split(), "tokenizer.json", "tokenizer_config.json"}
    assert paths_in(out, str(run.folder), NANO, sys.prefix, str(out.parent), str(Path.home())) == []


def test_the_snippet_of_the_card_runs_as_it_is(run: RunStore, out: Path, card: str) -> None:
    said = python(snippet(card), cwd=out.parent)
    rows = {row.instruction: row.answer for row in run.read("round-2/evaluation", EvaluationRow)}
    asked = re.search(r'"content": (".*?")\}\]', snippet(card))
    assert asked
    assert said.rstrip("\n") == rows[json.loads(asked.group(1))]


def test_the_card_has_every_score_with_its_n_and_interval(run: RunStore, card: str) -> None:
    for number in (0, 1, 2):
        for one in read_json(run.round(number) / "metrics.json"):
            line = next(line for line in card.splitlines() if line.startswith(f"| {one['benchmark']} |"))
            assert _result(one["overall"]) in line
    tasks = {task for one in read_json(run.round(2) / "metrics.json") for task in one["tasks"]}
    for task in tasks:
        assert f"| {task.replace('_', chr(92) + '_')} |" in card


def test_a_student_that_was_not_measured_has_no_scores_of_the_one_before_it(run: RunStore, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    shutil.copytree(run.folder, store.folder)
    for name in ("metrics.json", "evaluation.parquet"):
        (store.round(2) / name).unlink()
    export_model(store, tmp_path / "out")
    scores = (tmp_path / "out" / "README.md").read_text().partition("## Scores")[2].partition("## Data")[0]
    assert "| S_0 | S_1 | S_2 |" in scores
    rows = [line for line in scores.splitlines() if line.startswith("|") and " %" in line]
    assert len(rows) > len(read_json(store.round(0) / "metrics.json"))
    assert all(row.endswith("| not measured |") for row in rows)
    assert "could not be graded" not in scores


def test_the_header_is_metadata_the_hub_reads(card: str) -> None:
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["library_name"] == "transformers"
    assert "base_model" not in header  # nano has no id on the hub
    assert "license" not in header
    assert "Apache-2.0" in card.partition("## Licences")[2]


def test_an_adapter_is_merged_into_its_base(adapted: RunStore, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export_model(adapted, folder)
    assert not (folder / "adapter_config.json").exists()
    assert paths_in(folder, str(adapted.folder), NANO) == []
    _equal(Checkpoint(str(folder), 2), Checkpoint(str(adapted.round(2) / "checkpoint"), 2))


def test_an_adapter_may_be_left_as_it_is(adapted: RunStore, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export_model(adapted, folder, adapter=True)
    assert (folder / "adapter_model.safetensors").exists()
    assert paths_in(folder, str(adapted.folder), NANO) == []
    assert read_json(folder / "adapter_config.json")["base_model_name_or_path"] == "nano"
    text = (folder / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "peft"
    python(snippet(text).replace("path/to/nano", NANO), cwd=tmp_path)


def test_a_base_on_the_hub_keeps_its_name(adapted: RunStore, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    shutil.copytree(adapted.folder, store.folder)
    recipe = read_json(store.folder / "recipe.json")
    recipe["student"] |= {"model": "owner/model", "revision": "v2"}
    recipe |= OVER_API | {"corpus": {"kind": "hub", "dataset": "owner/corpus"}}
    write_json(store.folder / "recipe.json", recipe)
    config = store.round(2) / "checkpoint" / "adapter_config.json"
    write_json(config, read_json(config) | {"base_model_name_or_path": "owner/model"})
    folder = tmp_path / "out"
    export_model(store, folder, adapter=True)
    text = (folder / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert (header["base_model"], header["base_model_relation"]) == ("owner/model", "adapter")
    assert header["datasets"] == ["owner/corpus"]
    assert 'from_pretrained("owner/model", revision="v2")' in snippet(text)
    assert read_json(folder / "adapter_config.json")["base_model_name_or_path"] == "owner/model"


def test_the_student_of_a_single_round_is_exported(run: RunStore, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    shutil.copytree(run.folder, store.folder)
    shutil.rmtree(store.round(2))
    recipe = read_json(store.folder / "recipe.json")
    for key in ("rounds", "schedule", "repeats", "rescoring", "continue_from"):
        del recipe["curriculum"][key]
    recipe["curriculum"]["variant"] = "single-round"
    write_json(store.folder / "recipe.json", recipe)
    assert export_model(store, tmp_path / "out")[0] == "S_1 of gym"
    assert "What the student learnt from in round 1, each" in (tmp_path / "out" / "README.md").read_text()


def test_the_student_of_the_warm_up_is_exported_with_a_card_that_names_no_rounds(run: RunStore, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    shutil.copytree(run.folder, store.folder)
    for name in ("checkpoint", "training.json"):
        (store.round(1) / name).rename(store.round(0) / name)
    recipe = read_json(store.folder / "recipe.json")
    recipe["curriculum"]["warmup_epochs"] = 1.0
    write_json(store.folder / "recipe.json", recipe)
    assert export_model(store, tmp_path / "out", 0)[0] == "S_0 of gym"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "no round has trained it" in card
    assert "in rounds" not in card


def test_weights_of_another_format_become_safetensors(run: RunStore, tmp_path: Path) -> None:
    import torch

    store = RunStore(tmp_path / "run")
    shutil.copytree(run.folder, store.folder)
    checkpoint = store.round(2) / "checkpoint"
    model, _ = load(Checkpoint(str(checkpoint), 2))
    torch.save(model.state_dict(), checkpoint / "pytorch_model.bin")
    for name in ("model.safetensors", "generation_config.json"):
        (checkpoint / name).unlink()
    (checkpoint / "training_args.bin").write_bytes(b"/home/me")
    (checkpoint / "checkpoint-3").mkdir()
    folder = tmp_path / "out"
    export_model(store, folder)
    assert not list(folder.glob("*.bin"))
    assert not (folder / "checkpoint-3").exists()
    assert (folder / "generation_config.json").exists()
    _equal(Checkpoint(str(folder), 2), Checkpoint(str(run.round(2) / "checkpoint"), 2))


def test_a_student_that_is_not_there_is_named_with_those_that_are_and_a_whole_model_has_no_adapter(
    run: RunStore, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="S_2 was trained in full") as failure:
        export_model(run, tmp_path / "out", adapter=True)
    assert "--adapter" in failure.value.remedy
    with pytest.raises(DataError, match=r"round 7 of .* has no trained student; rounds with one: 1, 2"):
        export_model(run, tmp_path / "out", 7)
    with pytest.raises(DataError, match="S_0 is the student as it came"):
        export_model(run, tmp_path / "out", 0)
    assert RunReader(run).trained_rounds() == [1, 2]
    with pytest.raises(StoreError, match="no export of tapir"):
        export_model(run, run.folder)
    assert (run.folder / "recipe.json").exists()


def test_a_run_without_finished_rounds_has_no_student(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no trained student yet") as failure:
        export_model(build_run(tmp_path / "run", done=0), tmp_path / "out")
    assert "tapir resume" in failure.value.remedy
    assert not (tmp_path / "out").exists()


def _result(one: dict[str, float]) -> str:
    value, low, high = (f"{100 * one[name]:.1f} %" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high}), n = {one['n']}"


def _equal(one: Checkpoint, other: Checkpoint) -> None:
    """See that two checkpoints say the same, up to float noise."""
    import torch

    (first, tokenizer), (second, _) = load(one), load(other)
    tokens = tokenizer("What is 17 + 4?", return_tensors="pt").input_ids
    with torch.inference_mode():
        assert torch.allclose(first(tokens).logits, second(tokens).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "raises the share of hard examples"),
        ({"schedule": {"kind": "linear", "start": 0.9, "end": 0.1}}, "lowers the share of hard examples"),
        ({"schedule": {"kind": "constant", "share": 0.5}}, "makes 50 % of its examples hard ones"),
        ({"variant": "single-round"}, "trains on hard examples only"),
        (
            {"schedule": {"kind": "competence"}, "rescoring": "every-round"},
            "lets the share of hard examples follow what the student can do",
        ),
        ({"difficulty": "none"}, "draws its examples at random"),
    ],
)
def test_the_card_says_how_the_hard_share_goes(keys: dict[str, Any], said: str) -> None:
    plan = CurriculumConfig.model_validate(keys)
    assert list(_steps(plan, scale_of(plan.difficulty), range(1, plan.alpha().rounds + 1)))[-1] == said


@pytest.mark.parametrize(
    ("shares", "rounds", "said"),
    [
        ([0.5, 0.8, 0.9], [1], "makes 50 % of its examples hard ones"),
        ([0.5, 0.8, 0.9], [1, 2], "raises the share of hard examples"),
        ([0.5, 0.8, 0.9], [], "trains on the whole corpus once to warm up"),
    ],
)
def test_the_card_speaks_of_the_rounds_that_trained_the_student(
    shares: list[float], rounds: list[int], said: str
) -> None:
    plan = CurriculumConfig.model_validate({"schedule": {"kind": "list", "shares": shares}})
    assert list(_steps(plan, scale_of(plan.difficulty), rounds))[-1] == said
