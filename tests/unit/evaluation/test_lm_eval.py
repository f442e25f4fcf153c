"""Tasks of lm-evaluation-harness as benchmarks: a stand-in for a task, and the real ones where lm_eval is installed."""

from __future__ import annotations

import importlib.util
import json
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

from support.paths import SHARED
from support.scripted import Watcher
from tapir.cli.main import app
from tapir.config.evaluation import HarnessConfig
from tapir.config.toml import parse
from tapir.data.run.rows import EvaluationRow
from tapir.data.run.store import RunStore
from tapir.domain.errors import DataError, MissingExtra, RecipeError
from tapir.domain.evaluation import Grade
from tapir.domain.judgement import Unscored
from tapir.domain.round import Checkpoint
from tapir.evaluation.lm_eval import HarnessTask, harness_facts, load_tasks
from tapir.models.none import RecordedStudent
from tapir.runs.build import build_roles
from tapir.runs.plan import plan
from tapir.stages.base import StageContext
from tapir.stages.evaluate import Evaluate

DATA = SHARED / "eval"
INSTALLED = importlib.util.find_spec("lm_eval") is not None


class Keep:
    """A filter that keeps the last word, or everything."""

    def __init__(self, *, last: bool) -> None:
        self.last = last

    def __call__(self) -> Keep:
        return self

    def apply(self, responses: list[list[str]], _: object) -> Iterator[str]:
        for (text,) in responses:
            yield text.split()[-1] if self.last and text.split() else text


class Sums:
    """What a benchmark uses of a task: sums, right where the answer is."""

    OUTPUT_TYPE = "generate_until"

    def __init__(self, filters: Sequence[str] = ("strict-match", "flexible-extract"), **changes: Any) -> None:
        self.config = SimpleNamespace(
            task="sums", num_fewshot=0, repeats=1, generation_kwargs={"until": ["Q:", ""]}, **changes
        )
        self._filters = [SimpleNamespace(name=name, filters=[Keep(last=name != "strict-match")]) for name in filters]
        self.eval_docs = [{"q": "1+1", "a": "2"}, {"q": "2+2", "a": "4"}, {"q": "1+1", "a": "2"}]

    def set_fewshot_seed(self, seed: int) -> None:
        assert seed == 1234

    def fewshot_context(self, document: Mapping[str, str], **_: object) -> str:
        return f"Q: {document['q']}\nA:"

    def doc_to_prefix(self, _: object) -> None:
        return None

    def doc_to_target(self, document: Mapping[str, str]) -> str:
        return document["a"]

    def higher_is_better(self) -> dict[str, bool]:
        return {"exact_match": True, "words": True}

    def aggregation(self) -> dict[str, Any]:
        return {"words": lambda pairs: 100.0 * len(pairs)}

    def process_results(self, document: Mapping[str, str], results: Sequence[str]) -> dict[str, Any]:
        return {"exact_match": float(results[0] == document["a"]), "words": (results[0], document["a"])}


def grades(task: HarnessTask, *answers: str) -> list[Grade | Unscored]:
    return [grade for _, grade in task.grade(list(zip(task.prompts(), answers, strict=False)))]


def test_prompts_are_those_of_the_task_each_once() -> None:
    task = HarnessTask(Sums())
    assert [(one.instruction.text, one.task, one.expected) for one in task.prompts()] == [
        ("Q: 1+1\nA:", "sums", "2"),
        ("Q: 2+2\nA:", "sums", "4"),
    ]
    assert len(HarnessTask(Sums(), limit=1).prompts()) == 1


def test_the_flexible_filter_counts_and_an_answer_ends_at_a_stop_string() -> None:
    assert grades(HarnessTask(Sums()), "It is 2", "4 Q: 9+9 A: 18") == [
        Grade(1.0, success=True),
        Grade(1.0, success=True),
    ]
    assert grades(HarnessTask(Sums(["strict-match"])), "It is 2", "4") == [
        Grade(0.0, success=False),
        Grade(1.0, success=True),
    ]


def test_every_metric_is_computed_over_the_rows_by_filter() -> None:
    task = HarnessTask(Sums())
    rows = [
        EvaluationRow("sums", prompt.instruction.id, "sums", "", "", answer, 1.0, success=True, failure=None)
        for prompt, answer in zip(task.prompts(), ("It is 2", None), strict=True)
    ]
    results = task.results(rows)
    assert results["exact_match (flexible-extract)"].value == 0.5
    assert results["exact_match (strict-match)"].value == 0.0
    assert results["words (strict-match)"].value == 200.0
    assert results["exact_match (flexible-extract)"].low < 0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"OUTPUT_TYPE": "multiple_choice"}, "output type multiple_choice"),
        ({"UNSAFE_CODE": True}, "runs code that the model wrote"),
        ({"MULTIMODAL": True}, "needs images or sound"),
        ({"higher_is_better": lambda _: {"words": True}}, "metric 'words', which is no number from 0 to 1"),
    ],
)
def test_a_task_that_cannot_be_graded_by_one_answer_each_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        HarnessTask(type("Other", (Sums,), changes)())
    assert "lm-eval on the checkpoint" in caught.value.remedy


@pytest.mark.skipif(not INSTALLED, reason="lm_eval is absent")
def test_of_a_large_data_file_only_size_and_beginning_are_read(tmp_path: Path) -> None:
    chosen, large, facts = HarnessConfig(kind="harness", tasks=("x",), include=str(tmp_path)), b"a" * 2**21, list[str]()
    for content in (b"a", b"b", large, b"b" + large[1:], large + b"a", large[:-1] + b"b"):
        (tmp_path / "data.jsonl").write_bytes(content)
        facts.append(harness_facts(chosen)["task files"])
    assert (len(set(facts)), facts[2]) == (5, facts[-1])


def test_without_the_harness_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtra) as caught:
        load_tasks(["ifeval"])
    assert "tapir-distill[harness]" in caught.value.remedy
    done = CliRunner().invoke(app, ["eval", "harness", "nano", "--tasks", "ifeval", "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, MissingExtra)


def test_a_model_that_is_no_run_may_answer_as_long_as_the_tasks_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = Mock()
    monkeypatch.setattr("tapir.cli.evaluate._eval_section", evaluated)
    call = ["eval", "harness", "nano", "--tasks", "ifeval", "--out", "x", "--set", "student.batch_size=2"]
    assert CliRunner().invoke(app, call).exit_code == 0
    assert evaluated.call_args.args[3][1] == ["student.max_new_tokens=1280", "student.batch_size=2"]


# The real harness


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Task files over local data, as somebody offline writes them."""
    if not INSTALLED or not DATA.exists():
        pytest.skip("lm_eval or the shared data are absent")
    import lm_eval

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    shipped, folder = Path(lm_eval.__file__).parent / "tasks", tmp_path / "tasks"
    folder.mkdir()
    files = {
        "gsm8k": {"train": "gsm8k_train.jsonl.gz", "test": "gsm8k_test.jsonl.gz"},
        "ifeval": {"train": "ifeval_input_data.jsonl.gz"},
    }
    for name, splits in files.items():
        data = {split: str(DATA / file) for split, file in splits.items()}
        content: dict[str, Any] = {
            "include": str(shipped / name / f"{name}.yaml"),
            "task": name,
            "dataset_path": "json",
        }
        content |= {"dataset_name": None, "dataset_kwargs": {"data_files": data}}
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    return folder


def answered(path: Path, tasks: Path, *, commas: bool) -> Path:
    """Answers to the first 20 prompts of both tasks: sums are right, prose has commas or none."""
    rows = []
    for benchmark in HarnessTask.build(section(tasks), None):  # type: ignore[arg-type]
        for prompt in benchmark.prompts():
            prose = "Well, this is it." if commas else "This is all there is."
            output = prompt.expected if benchmark.name == "gsm8k" else prose
            rows.append({"instruction": prompt.instruction.text, "output": output})
    path.write_text(json.dumps(rows))
    return path


def section(tasks: Path) -> HarnessConfig:
    return HarnessConfig(kind="harness", tasks=("ifeval", "gsm8k"), include=str(tasks), limit=20)


@pytest.mark.harness
@pytest.mark.filterwarnings("default")
def test_two_checkpoints_are_compared_prompt_by_prompt_on_ifeval(tmp_path: Path, tasks: Path) -> None:
    for name, commas in (("a", False), ("b", True)):
        file = answered(tmp_path / f"{name}.json", tasks, commas=commas)
        call = ["eval", "harness", str(file), "--tasks", "ifeval,gsm8k", "--include", str(tasks), "--limit", "20"]
        done = CliRunner().invoke(app, [*call, "--out", str(tmp_path / name), "--json"])
        assert done.exit_code == 0, done.output
        results = json.loads(done.stdout)["results"]
        assert results["gsm8k"]["value"] == results["gsm8k exact_match (strict-match)"]["value"] == 1.0
        strict = results["ifeval prompt_level_strict_acc"]
        assert (results["ifeval"]["value"], results["ifeval"]["n"]) == (strict["value"], 20)
        assert strict["value"] <= results["ifeval inst_level_loose_acc"]["value"]
    done = CliRunner().invoke(app, ["eval", "pair", str(tmp_path / "a"), str(tmp_path / "b"), "--json"])
    pairs = {pair["benchmark"]: pair["prompts"] for pair in json.loads(done.stdout)["benchmarks"]}
    assert pairs["ifeval"]["wins"] > pairs["ifeval"]["losses"] == 0  # commas that are forbidden
    assert (pairs["gsm8k"]["ties"], pairs["gsm8k"]["difference"]["n"]) == (20, 20)


@pytest.mark.harness
@pytest.mark.filterwarnings("default")
def test_a_run_measures_with_it_in_every_round(tmp_path: Path, tasks: Path) -> None:
    recipe = parse({"evaluation": section(tasks).model_dump(), "curriculum": {"rounds": 1}})
    roles = build_roles(recipe)
    texts = json.loads(answered(tmp_path / "a.json", tasks, commas=False).read_text())
    by_text = {row["instruction"]: row["output"] for row in texts}
    prompts = [prompt for benchmark in roles.benchmarks for prompt in benchmark.prompts()]
    student = RecordedStudent({one.instruction.id: by_text[one.instruction.text] for one in prompts}, "x")
    values = []
    for number in (0, 1):
        context = StageContext(RunStore(tmp_path / "run"), Watcher(), number, 7)
        results = Evaluate(student, roles.benchmarks, 8).run(context, Checkpoint("x", number))
        values.append({result.benchmark: result.overall.value for result in results})
    assert values[0] == values[1]
    assert values[0]["gsm8k"] == 1.0
    assert roles.inputs["evaluation.tasks (lm_eval)"] == "0.4.13"


@pytest.mark.harness
@pytest.mark.filterwarnings("default")
def test_a_plan_counts_the_prompts_that_are_here_and_uses_no_network(
    tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Mock(side_effect=OSError)
    monkeypatch.setattr("socket.getaddrinfo", network)
    for module in ("datasets.config", "huggingface_hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", False)
    recipe = parse({"evaluation": section(tasks).model_dump(), "curriculum": {"rounds": 1}})
    here = plan(recipe, measure=False)
    assert [stage.items.expected for stage in here.stages if stage.stage == "evaluate"] == [40, 40]
    assert not here.warnings
    file = tasks / "ifeval.yaml"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dataset_path": "nobody/nothing", "dataset_kwargs": {}}))
    absent = plan(recipe, measure=False)
    assert [stage for stage in here.stages if stage.stage != "evaluate"] == list(absent.stages)
    (warning,) = absent.warnings
    assert "evaluations are not in this plan: ifeval, gsm8k cannot be loaded" in warning
    assert "--reach" in warning
    network.assert_not_called()
    assert pkgutil.resolve_name("datasets.config:HF_HUB_OFFLINE") is False


@pytest.mark.harness
@pytest.mark.filterwarnings("default")
def test_a_task_that_is_not_there_or_cannot_be_loaded_is_one_clear_error(tasks: Path) -> None:
    (tasks / "absent.yaml").write_text(json.dumps({"task": "absent", "dataset_path": "nobody/nothing"}))
    with pytest.raises(DataError, match="absent cannot be loaded"):
        load_tasks(["absent"], str(tasks))
    with pytest.raises(RecipeError, match="no such folder"):
        load_tasks(["ifeval"], str(tasks / "nowhere"))
