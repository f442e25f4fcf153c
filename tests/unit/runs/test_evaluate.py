"""An evaluation in a folder of its own: claimed once, interrupted and resumed, nothing asked twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support import fakes
from support.scripted import Watcher, completion
from tapir.cli.main import app
from tapir.config.toml import load, parse
from tapir.data.files import locked
from tapir.data.run.store import RunStore
from tapir.domain.completion import Failure
from tapir.domain.errors import Interrupted, RecipeError, RoleError, RunExists, RunLocked, RunMismatch, StoreError
from tapir.domain.evaluation import Evaluation, Grade, Prompt
from tapir.domain.instruction import Instruction
from tapir.domain.judgement import Unscored
from tapir.domain.progress import Progress
from tapir.domain.roles import Reply
from tapir.domain.round import Checkpoint
from tapir.models.none import RecordedStudent
from tapir.runs.build import build_roles
from tapir.runs.eval_target import EvalTarget
from tapir.runs.evaluate import claim, graded, measure
from tapir.stages.base import StageContext
from tapir.stages.evaluate import Evaluate

NOBODY = Checkpoint("nowhere", 0)
RECIPE = load("gym", ["chunk=2"])
FACTS = {"student": "mine", "round": 2, "answering": {"temperature": 0.0}, "pair": (1, 2)}


@dataclass
class Half(fakes.Student):
    """Right on what has an even number, wrong on the rest; "list" it never answers."""

    held: list[str] = field(default_factory=list)

    def answer(self, checkpoint: Checkpoint, instructions: Sequence[Instruction]) -> Iterator[Reply]:
        assert checkpoint == NOBODY
        for one in instructions:
            self.asked.append(one.text)
            failed = Failure("timeout", "no answer")
            answer = completion("wrong" if int(one.text[-1]) % 2 else "right")
            yield one.id, failed if one.text.startswith("list") else answer

    def open(self, folder: Path, progress: Progress) -> None:
        del progress
        self.held.append(f"open in {folder.name}")

    def rest(self) -> None:
        self.held.append("rest")

    def close(self) -> None:
        self.held.append("close")


def measured(folder: Path, student: Half, progress: Watcher | None = None) -> list[Evaluation]:
    target = EvalTarget(student, NOBODY, "nobody", {}, RECIPE, [student])
    return measure(folder, target, [fakes.Benchmark()], progress or Watcher())


# Claiming a folder


def test_a_folder_becomes_the_evaluations_and_may_be_claimed_again(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "evaluation"
    claim(folder, FACTS)
    run = json.loads((folder / "manifest.json").read_text())["run"]
    claim(folder, dict(reversed(FACTS.items())))
    assert json.loads((folder / "evaluation.json").read_text()) == json.loads(json.dumps(FACTS))
    assert json.loads((folder / "manifest.json").read_text())["run"] == run


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (FACTS | {"round": 3}, "round: 2 -> 3"),
        ({key: value for key, value in FACTS.items() if key != "round"}, "round: 2 -> not set"),
        (FACTS | {"judge": "gpt"}, "judge: not set -> gpt"),
        (FACTS | {"answering": {"temperature": 0.7}}, "answering: {'temperature': 0.0} -> {'temperature': 0.7}"),
    ],
)
def test_an_evaluation_of_something_else_is_refused_and_what_differs_is_named(
    tmp_path: Path, facts: Mapping[str, object], said: str
) -> None:
    claim(tmp_path / "one", FACTS)
    with pytest.raises(RunMismatch) as caught:
        claim(tmp_path / "one", facts)
    assert said in str(caught.value)
    assert "--out" in caught.value.remedy
    claim(tmp_path / "one", FACTS)


@pytest.mark.parametrize("name", ["thesis.tex", "recipe.json"])
def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunExists, match="is no evaluation") as caught:
        claim(tmp_path, FACTS)
    assert "--out" in caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("left", [[], [".lock", "log.txt"], ["manifest.json", ".evaluation.json.draft"]])
def test_what_an_earlier_attempt_left_is_no_obstacle(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).write_text("{")
    claim(tmp_path, FACTS)
    assert measured(tmp_path, Half())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        claim(tmp_path / "file", FACTS)
    assert caught.value.remedy


def test_two_cannot_work_in_the_same_folder(tmp_path: Path) -> None:
    claim(tmp_path, FACTS)
    with locked(tmp_path):
        with pytest.raises(RunLocked):
            claim(tmp_path, FACTS)
        with pytest.raises(RunLocked):
            measured(tmp_path, Half())


# Measuring


def test_every_prompt_is_answered_graded_and_counted(tmp_path: Path) -> None:
    claim(tmp_path, FACTS)
    student = Half()
    (found,) = measured(tmp_path, student)
    assert {task: one.value for task, one in found.tasks.items()} == {"add": 0.5, "spell": 0.5, "list": 0.0}
    assert (found.overall.value, found.overall.n) == pytest.approx((1 / 3, 6))
    assert json.loads((tmp_path / "metrics.json").read_text())[0]["overall"]["n"] == 6
    rows = {row.instruction: row for row in graded(tmp_path)}
    assert (rows["add number 1000"].answer, rows["add number 1000"].success) == ("right", True)
    assert (rows["spell number 1001"].answer, rows["spell number 1001"].success) == ("wrong", False)
    assert (rows["list number 1000"].answer, rows["list number 1000"].failure) == (None, "timeout")
    assert student.held == [f"open in {tmp_path.name}", "close"]


def test_what_is_finished_is_not_asked_again(tmp_path: Path) -> None:
    claim(tmp_path, FACTS)
    first, again = measured(tmp_path, Half()), Half()
    assert measured(tmp_path, again) == first
    assert not again.asked


def test_a_stop_keeps_what_was_answered_and_the_same_call_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    claim(whole, FACTS)
    measured(whole, Half())
    folder = tmp_path / "part"
    claim(folder, FACTS)
    first, second = Half(), Half()
    with pytest.raises(Interrupted):
        measured(folder, first, Watcher(stop_after=2))
    assert not (folder / "metrics.json").exists()
    assert first.held[-1] == "close"
    measured(folder, second)
    assert len(first.asked) == 2
    assert len(second.asked) == 4
    assert not set(first.asked) & set(second.asked)
    for name in ("round-0/evaluation.parquet", "metrics.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    kinds = [one["event"] for one in events if one["event"] in {"session", "stopped", "done"}]
    assert kinds == ["session", "stopped", "session", "done"]


class Unreadable(fakes.Benchmark):
    """No answer of it can be graded."""

    def grade(self, answers: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[str, Grade | Unscored]]:
        for prompt, _ in answers:
            yield prompt.instruction.id, Unscored("no grade found")


def test_where_nothing_was_graded_there_is_an_error_and_no_number(tmp_path: Path) -> None:
    claim(tmp_path, FACTS)
    texts = {prompt.instruction.id: "something" for prompt in fakes.Benchmark().prompts()}
    target = EvalTarget(RecordedStudent(texts, "x"), NOBODY, "x", {}, RECIPE)
    with pytest.raises(RoleError, match="none of the 6 answers to held-out could be graded"):
        measure(tmp_path, target, [Unreadable()], Watcher())
    assert not (tmp_path / "metrics.json").exists()


def test_answers_that_were_recorded_are_graded_and_missing_ones_are_failures(tmp_path: Path) -> None:
    prompts = fakes.Benchmark().prompts()
    recorded = {one.instruction.id: "right" for one in prompts if one.task == "add"}
    claim(tmp_path, FACTS)
    target = EvalTarget(RecordedStudent(recorded, "outputs.json"), NOBODY, "outputs.json", {}, RECIPE)
    (found,) = measure(tmp_path, target, [fakes.Benchmark()], Watcher())
    assert {task: one.value for task, one in found.tasks.items()} == {"add": 1.0, "spell": 0.0, "list": 0.0}
    assert {row.failure for row in graded(tmp_path) if row.task != "add"} == {"missing"}


# A benchmark of the user's own

MODULE = """
from tapir.domain.evaluation import Grade, Prompt
from tapir.domain.instruction import Instruction, Origin

class Shouting:
    name = "shouting"

    def __init__(self, words):
        self.words = words

    def prompts(self):
        return [Prompt(Instruction.of(f"Shout {word}", Origin("evaluation")), "shout", word) for word in self.words]

    def grade(self, answers):
        for prompt, answer in answers:
            yield prompt.instruction.id, Grade(float(answer.isupper()), answer.isupper())
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "loud.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "outside"))
    return "loud:Shouting"


def test_a_class_from_outside_the_package_is_a_benchmark_of_a_run(tmp_path: Path, outside: str) -> None:
    section = {"kind": "custom", "class": outside, "options": {"words": ["no", "yes"]}}
    chosen = parse({"evaluation": section, "curriculum": {"rounds": 1}})
    (benchmark,) = build_roles(chosen).benchmarks
    store = RunStore(tmp_path / "run")
    students = {prompt.instruction.id: "YES" for prompt in benchmark.prompts()[1:]}
    stage = Evaluate(RecordedStudent(students, "x"), [benchmark], 4)
    (result,) = stage.run(StageContext(store, Watcher(), 0, 7), NOBODY)
    assert (result.benchmark, result.overall.value, result.overall.n) == ("shouting", 0.5, 2)


def test_a_class_from_outside_the_package_is_evaluated_by_the_command(tmp_path: Path, outside: str) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps([{"instruction": "Shout no", "output": "NO"}, {"instruction": "x", "output": "y"}]))
    command = ["eval", "custom", str(answers), "--class", outside, "--option", 'words=["no", "yes"]', "--json"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["results"]["shouting"]["value"], found["problems"]["shouting"]) == (0.5, {"missing": 1})
    answers.write_text(json.dumps([{"instruction": "x", "output": "y"}]))
    none = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "none")])
    assert "no answer to any of the 2 prompts: missing; the first is 'Shout no'" in str(none.exception)
    assert not (tmp_path / "none" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [("loud:Whisper", "cannot be imported"), ("json:JSONDecoder", "lacks"), ("nonsense", "this is no class")],
)
def test_a_class_that_is_no_benchmark_is_one_clear_error(tmp_path: Path, outside: str, name: str, said: str) -> None:
    del outside
    done = CliRunner().invoke(app, ["eval", "custom", "nano", "--class", name, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, RecipeError)
    assert said in str(done.exception)
    assert not (tmp_path / "out").exists()
