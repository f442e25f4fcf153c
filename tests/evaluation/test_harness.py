"""lm-evaluation-harness as a program of its own: a stand-in that speaks its language, and the real one."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from pathlib import Path

import pytest

from tapir.errors import DataError, Interrupted, RecipeError, RoleError
from tapir.evaluation.harness import LOG, Harness, figures, tasks_of
from tests import small_model
from tests.evaluation.checking import answered, tapir, write_lines

PROGRAM = '''#!{python}
"""Behaves as `python -m lm_eval` does; TASK decides how."""
import json, os, sys, time
from pathlib import Path

if sys.argv[1] == "-c":
    {version}
given = dict(zip(sys.argv[3::1], sys.argv[4::1]))
task, out = given["--tasks"], Path(given["--output_path"]) / "model"
Path("called.txt").open("a").write(" ".join(sys.argv[1:]) + "\\n")
for done in range(0, 11, 5):
    print(f"Running generate_until requests:  {{10 * done}}%|###   | {{done}}/10 [00:01<00:01]", end="\\r", flush=True)
if task == "slow":
    time.sleep(600)
if task == "offline":
    sys.exit("huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach the hub")
if task == "unknown":
    sys.exit("Tasks not found: unknown. Try `lm-eval ls tasks`")
if task != "silent":
    out.mkdir(parents=True, exist_ok=True)
    results = {{"results": {{task: {{"alias": task, "acc,none": 0.7, "acc_stderr,none": 0.15, "f1,best": 0.55,
        "f1_stderr,best": 0.1, "odd,none": "N/A", "bleu,none": 31.5, "bleu_stderr,none": "N/A"}}}},
        "n-samples": {{task: {{"original": 10, "effective": 10}}}}}}
    (out / "results_2026-01-01T00-00-00.json").write_text(json.dumps(results))
'''


class Listener:
    """A watch that remembers, and may ask to stop."""

    def __init__(self) -> None:
        self.total = self.done = 0
        self.finished = 0
        self.stopping = False

    def start(self, number: int, stage: str, total: int, done: int = 0) -> None:
        del number, done
        self.stage, self.total = stage, total

    def advance(self, items: int = 1) -> None:
        self.done += items

    def finish(self) -> None:
        self.finished += 1

    def note(self, text: str) -> None:
        raise AssertionError(text)

    def measure(self, **figures: float) -> None:
        raise AssertionError(figures)

    def check(self) -> None:
        if self.stopping:
            raise Interrupted("stopped")


def stand_in(folder: Path, version: str = 'print("0.4.13"); sys.exit()') -> str:
    path = folder / "python"
    path.write_text(PROGRAM.format(python=sys.executable, version=version))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def job(python: str, task: str, *options: str, checkpoint: str = "model") -> Harness:
    return Harness(python, checkpoint, tasks_of(task), options, chat=True, seed=7)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_its_results_are_read_with_intervals_and_it_is_not_run_twice(tmp_path: Path) -> None:
    watch, one = Listener(), job(stand_in(tmp_path), "good", "--limit", "10")
    assert one.check() == "0.4.13"
    found = one.run(tmp_path, watch)
    assert {name: result.value for name, result in found.results.items()} == {
        "good acc": 0.7,
        "good f1 (best)": 0.55,
        "good bleu": 31.5,
    }
    acc, f1, bleu = found.results.values()
    assert (acc.n, round(acc.low, 3), round(acc.high, 3)) == (10, 0.397, 0.892)  # Wilson, 7 of 10
    assert (round(f1.low, 3), round(f1.high, 3)) == (0.354, 0.746)  # 0.55 ± 1.96 * 0.1
    assert bleu.low != bleu.low
    assert found.as_json()["results"]["good bleu"]["low"] is None
    assert (watch.stage, watch.total, watch.done, watch.finished) == ("generate_until", 10, 10, 1)
    assert one.run(tmp_path, watch).results.keys() == found.results.keys()
    (call,) = (tmp_path / "called.txt").read_text().splitlines()
    assert "--model hf --model_args pretrained=model --tasks good" in call
    assert call.endswith("--seed 7 --apply_chat_template --limit 10")


def test_an_adapter_is_put_on_its_model(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    command = job("python", "good", checkpoint=str(adapter)).command(tmp_path)
    assert f"pretrained=owner/base,peft={adapter}" in command


@pytest.mark.parametrize(
    ("task", "said", "remedy"),
    [
        ("offline", "Cannot reach the hub", "--include_path"),
        ("unknown", "Tasks not found", "ls tasks"),
        ("silent", "no results", LOG),
    ],
)
def test_a_harness_that_dies_or_leaves_nothing_is_one_clear_error(
    tmp_path: Path, task: str, said: str, remedy: str
) -> None:
    with pytest.raises(RoleError, match=said) as found:
        job(stand_in(tmp_path), task).run(tmp_path, Listener())
    assert remedy in found.value.remedy


def test_an_environment_without_it_is_told_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(RoleError, match="not installed") as missing:
        job(stand_in(tmp_path, "raise ModuleNotFoundError('lm_eval')"), "good").check()
    assert "make lm-eval" in missing.value.remedy
    with pytest.raises(RoleError, match="cannot be run"):
        job(str(tmp_path / "nowhere"), "good").check()


def test_options_of_ours_and_names_it_would_split_are_refused(tmp_path: Path) -> None:
    python = stand_in(tmp_path)
    with pytest.raises(RecipeError, match="--tasks is set by tapir"):
        job(python, "good", "--tasks", "other").check()
    with pytest.raises(RecipeError, match="commas"):
        job(python, "good", checkpoint="a,b").check()
    with pytest.raises(RecipeError, match="names no task"):
        job(python, " , ").check()


def test_who_stops_it_waits_for_nothing_and_leaves_no_process(tmp_path: Path) -> None:
    watch, one = Listener(), job(stand_in(tmp_path), "slow")
    threading.Timer(1.0, lambda: setattr(watch, "stopping", True)).start()
    with pytest.raises(Interrupted, match="keeps the answers"):
        one.run(tmp_path, watch)


@pytest.mark.parametrize("content", ["", "{}", '{"results": {"a": {"alias": "a"}}, "n-samples": {}}', "[1]"])
def test_a_file_that_is_none_of_its_results_is_one_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"results\.json"):
        figures(path)


def test_the_command_refuses_recorded_answers_and_names_what_is_missing(tmp_path: Path) -> None:
    given = answered(tmp_path / "outputs.json", {"Say one.": "One."})
    call = ("--tasks", "good", "--dir", tmp_path / "out", "--python", tmp_path / "nowhere")
    refused = tapir("eval", "harness", given, *call, cwd=tmp_path)
    assert (refused.returncode, "the harness asks a model" in refused.stderr) == (2, True)
    idle = tapir("eval", "harness", "nano", *call, "--set", "student.max_new_tokens=9", cwd=tmp_path)
    assert (idle.returncode, "--set student.max_new_tokens=9 has no effect" in idle.stderr) == (2, True)
    missing = tapir("eval", "harness", "nano", *call, cwd=tmp_path)
    assert (missing.returncode, "cannot be run" in missing.stderr) == (1, True)
    assert not (tmp_path / "out").exists()


def test_the_command_shows_and_keeps_what_the_program_found(tmp_path: Path) -> None:
    call = ("--tasks", "good", "--dir", tmp_path / "out", "--python", stand_in(tmp_path), "--", "--limit", "10")
    done = tapir("eval", "harness", "nano", *call, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "good acc" in done.stdout
    kept = json.loads((tmp_path / "out" / "harness.json").read_text())
    assert kept["results"]["good acc"]["value"] == 0.7
    other = tapir("eval", "harness", "nano", *call[:-1], "5", cwd=tmp_path)
    assert "options: ['--limit', '10'] -> ['--limit', '5']" in other.stderr


@pytest.mark.slow
def test_the_real_harness_measures_a_small_model_on_a_local_task(tmp_path: Path) -> None:
    python = os.environ.get("TAPIR_LM_EVAL", "")
    if not python:
        pytest.skip("TAPIR_LM_EVAL names no Python with lm_eval[hf] (make lm-eval)")
    model = small_model.make(tmp_path / "model")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    rows = write_lines(tasks / "sums.jsonl", [{"q": f"{n} + {n}?", "a": str(2 * n)} for n in range(6)])
    task = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (tasks / "sums.yaml").write_text(json.dumps(task))  # JSON is YAML
    call = ("--tasks", "sums", "--dir", tmp_path / "out", "--python", python)
    more = ("--include_path", tasks, "--device", "cpu")
    done = tapir("eval", "harness", model, *call, "--", *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "out" / "harness.json").read_text())
    assert kept["n"] == 6
    assert kept["results"]["sums exact_match"] | {"high": 0} == {"value": 0.0, "n": 6, "low": 0.0, "high": 0}
