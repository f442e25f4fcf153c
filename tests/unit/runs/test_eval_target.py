"""The model under evaluation: a run, a checkpoint or recorded answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime
from importlib import resources
from pathlib import Path
from unittest.mock import Mock

import pytest

from tapir.config.student import LocalStudentConfig as Section
from tapir.config.toml import load
from tapir.data.files import write_json
from tapir.domain.completion import Completion, Failure
from tapir.domain.errors import DataError, RecipeError, TapirError
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.roles import answers as parted_answers
from tapir.domain.round import Checkpoint
from tapir.models.local.generate import LocalStudent
from tapir.models.none import RecordedStudent
from tapir.runs import session
from tapir.runs.eval_target import EvalTarget, resolve_judged, resolve_target
from tapir.runs.evaluate import claim

NANO = resources.files("tapir.gym") / "nano"
ROWS = [
    {"instruction": "How many legs has a cat?", "output": "4", "generator": "mine"},
    {"instruction": "Spell it backward.", "input": "tapir", "output": "ripat", "generator": "mine"},
]


def run(folder: Path, *rounds: int, planned: int = 3, name: str = "r1") -> Path:
    """A run directory that has trained a student in these rounds."""
    recipe = load("gym", [f"curriculum.rounds={planned}", "student.max_new_tokens=9"])
    write_json(folder / "recipe.json", recipe.resolved())
    write_json(folder / "manifest.json", {"run": name})
    for number in rounds:
        (folder / f"round-{number}" / "checkpoint").mkdir(parents=True)
        write_json(folder / f"round-{number}" / "training.json", {})
    return folder


def answers(folder: Path, rows: object, name: str = "outputs.json") -> str:
    path = folder / name
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return str(path)


def refused(kind: type[TapirError], text: str, number: int | None = None) -> str:
    with pytest.raises(kind) as caught:
        resolve_target(text, "", [], number)
    assert caught.value.remedy
    return f"{caught.value} {caught.value.remedy}"


# A run


def test_a_run_is_measured_by_its_last_student_with_its_own_settings(tmp_path: Path) -> None:
    folder = run(tmp_path / "mine", 1, 2)
    found = resolve_target(str(folder))
    assert found.checkpoint == Checkpoint(str(folder / "round-2" / "checkpoint"), 2)
    assert found.name == "mine/S_2"
    assert isinstance(found.recipe.student, Section)
    assert found.recipe.student.max_new_tokens == 9
    assert isinstance(found.student, LocalStudent)
    assert found.resources == [found.student]
    assert (found.facts["round"], found.facts["run"]) == (2, "r1")
    assert found.facts["answering"]["max_new_tokens"] == 9


def test_any_round_of_it_can_be_chosen_and_0_is_the_student_before_it(tmp_path: Path) -> None:
    folder = run(tmp_path / "mine", 1, 2)
    assert resolve_target(str(folder), number=1).checkpoint.path.endswith("round-1/checkpoint")
    assert resolve_target(str(folder), number=0).checkpoint == Checkpoint(str(NANO), 0)
    run(folder, 0)
    warm = resolve_target(str(folder), number=0)
    assert warm.checkpoint == Checkpoint(str(folder / "round-0" / "checkpoint"), 0)
    assert warm.name == "mine/S_0"


def test_a_round_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    folder = run(tmp_path / "mine", 1, 2)
    message = refused(DataError, str(folder), 3)
    assert f"round 3 of {folder} has no trained student" in message
    assert "rounds with one: 0, 1, 2" in message
    assert f"round -1 of {folder} has no trained student" in refused(DataError, str(folder), -1)
    message = refused(DataError, str(run(tmp_path / "other")))
    assert "has no trained student (--round 0 takes it as it was before) yet" in message


def test_a_round_whose_training_is_not_finished_has_no_student(tmp_path: Path) -> None:
    folder = run(tmp_path / "mine", 0, 1, 2)
    for number in (0, 2):
        (folder / f"round-{number}" / "training.json").unlink()
    assert resolve_target(str(folder)).name == "mine/S_1"
    assert resolve_target(str(folder), number=0).checkpoint == Checkpoint(str(NANO), 0)
    assert "rounds with one: 0, 1" in refused(DataError, str(folder), 2)


def test_settings_of_a_run_can_be_changed_and_are_then_other_facts(tmp_path: Path) -> None:
    folder = run(tmp_path / "mine", 1)
    plain = resolve_target(str(folder))
    changed = resolve_target(str(folder), "", iter(["student.max_new_tokens=5"]))
    assert changed.facts["answering"]["max_new_tokens"] == 5
    assert plain.facts != changed.facts
    write_json(folder / "manifest.json", {"run": "r2"})
    assert resolve_target(str(folder)).facts != plain.facts  # another run in the same folder


def test_a_recipe_beside_a_run_is_refused_and_not_ignored(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--recipe gym has no effect: .*mine is a run") as caught:
        resolve_target(str(run(tmp_path / "mine", 1)), "gym")
    assert "--set" in caught.value.remedy


def test_a_run_named_by_a_dot_has_its_folders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run(tmp_path / "mine", 1))
    assert resolve_target(".").name == "mine/S_1"


# A model


def test_a_model_folder_is_a_model_and_another_model_there_is_other_facts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    changes: Iterator[str] = iter(["student.max_new_tokens=7"])
    found = resolve_target(str(tmp_path), "gym", changes)
    assert found.checkpoint == Checkpoint(str(tmp_path), 0)
    assert found.facts["answering"]["max_new_tokens"] == 7
    assert resolve_target(str(tmp_path), "gym", ["student.max_new_tokens=7"]).facts == found.facts
    (tmp_path / "model.safetensors").write_bytes(b"two")
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    assert resolve_target(str(tmp_path), "gym", ["student.max_new_tokens=7"]).facts != found.facts


@pytest.mark.parametrize("name", ["123", "true", "1.5", 'a"b'])
def test_a_model_folder_may_have_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).mkdir()
    write_json(tmp_path / name / "config.json", {})
    monkeypatch.chdir(tmp_path)
    assert resolve_target(name).checkpoint == Checkpoint(name, 0)


def test_an_evaluation_of_a_model_has_the_date_it_began_also_after_midnight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(day: str, folder: str = "eval", *changes: str) -> EvalTarget:
        monkeypatch.setattr(session, "datetime", Mock(now=lambda: datetime.fromisoformat(f"{day}T23:59")))
        return resolve_judged("nano", "gym", changes, None, tmp_path / folder)[0]

    begun = at("2026-01-31")
    assert begun.recipe.student.date == "2026-01-31"
    claim(tmp_path / "eval", begun.facts)
    assert json.loads((tmp_path / "eval" / "evaluation.json").read_text())["answering"]["date"] == "2026-01-31"
    resumed = at("2026-02-01")
    assert (resumed.facts, resumed.recipe.student.date) == (begun.facts, "2026-01-31")
    assert at("2026-02-01", "other").recipe.student.date == "2026-02-01"
    assert at("2026-02-01", "eval", "student.date=2024-02-29").recipe.student.date == "2024-02-29"


def test_an_evaluation_that_began_without_a_date_goes_on_without_one(tmp_path: Path) -> None:
    claim(tmp_path, resolve_target("nano", "gym").facts)
    assert resolve_target("nano", "gym", folder=tmp_path).recipe.student.date == ""


def test_a_folder_without_a_model_and_a_round_of_no_run_are_said_so(tmp_path: Path) -> None:
    assert "no config.json" in refused(RecipeError, str(tmp_path))
    assert "--round 2: nano is no run directory" in refused(RecipeError, "nano", 2)


# Answers in a file


def reply(found: EvalTarget, text: str) -> Completion | Failure:
    one = Instruction.of(text, Origin("evaluation"))
    return dict(found.student.answer(found.checkpoint, [one]))[one.id]


def test_recorded_answers_are_found_by_the_text_of_the_instruction(tmp_path: Path) -> None:
    found = resolve_target(answers(tmp_path, ROWS), "gym")
    assert isinstance(found.student, RecordedStudent)
    first, second = reply(found, "How many legs has a cat?"), reply(found, "Spell it backward.\n\ntapir")
    assert reply(found, "\n How many legs has a cat?\t\n") == first  # as a benchmark may have it
    assert isinstance(first, Completion)
    assert isinstance(second, Completion)
    assert (first.text, second.text, first.model) == ("4", "ripat", "outputs.json")
    assert found.name == "outputs.json"


def test_thoughts_before_recorded_answers_are_kept_and_one_without_end_is_no_empty_answer(tmp_path: Path) -> None:
    rows = [
        {"instruction": "How many legs has a cat?", "output": "<think>\nIt walks.\n</think>\n\n4"},
        {"instruction": "And a tapir?", "output": "<think>\nIt also"},
    ]
    target = resolve_target(answers(tmp_path, rows), "gym")
    asked = [Instruction.of(row["instruction"], Origin("evaluation")) for row in rows]
    ((_, found),) = parted_answers(target.student, target.checkpoint, [asked])
    (_, first), (_, second) = found
    assert isinstance(first, Completion)
    assert (first.text, first.reasoning) == ("4", "It walks.")
    assert isinstance(second, Failure)
    assert (second.kind, second.message.split(":")[0]) == ("still thinking", "no answer after a thought")


def test_an_answer_that_is_missing_is_a_failure_and_never_an_empty_answer(tmp_path: Path) -> None:
    missing = reply(resolve_target(answers(tmp_path, ROWS), "gym"), "Something else?")
    assert isinstance(missing, Failure)
    assert missing.kind == "missing"
    assert "outputs.json has no answer" in missing.message


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_any_layout_of_a_corpus_will_do(tmp_path: Path, name: str) -> None:
    lines = {
        "rows.jsonl": '{"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}\n',
        "rows.csv": "instruction,output\na?,b\n",
    }
    found = reply(resolve_target(answers(tmp_path, lines[name], name), "gym"), "a?")
    assert isinstance(found, Completion)
    assert found.text == "b"


def test_other_answers_are_other_facts_wherever_the_file_lies(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, same = resolve_target(answers(tmp_path, ROWS), "gym"), resolve_target(answers(tmp_path / "other", ROWS), "gym")
    assert one.facts == same.facts
    assert resolve_target(answers(tmp_path, ROWS[:1]), "gym").facts != one.facts


def test_the_same_answer_twice_is_one_and_two_different_ones_are_an_error(tmp_path: Path) -> None:
    found = resolve_target(answers(tmp_path, [*ROWS, ROWS[0]]), "gym")
    assert isinstance(reply(found, ROWS[0]["instruction"]), Completion)
    message = refused(DataError, answers(tmp_path, [*ROWS, ROWS[0] | {"output": "5"}]))
    assert "a second answer to 'How many legs has a cat?'" in message


def test_a_row_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    message = refused(DataError, answers(tmp_path, [*ROWS, {"instruction": 7, "output": "5"}]))
    assert "1 rows cannot be used; the first: outputs.json row 3: " in message


def test_an_empty_answer_among_others_is_an_answer_and_a_file_of_them_is_none(tmp_path: Path) -> None:
    file = answers(tmp_path, [*ROWS, {"instruction": "Be silent.", "output": ""}])
    found = reply(resolve_target(file, "gym"), "Be silent.")
    assert isinstance(found, Completion)
    assert found.text == ""
    prompts = [{"instruction": one["instruction"]} for one in ROWS]
    assert "holds no answers: all 2 are empty" in refused(DataError, answers(tmp_path, prompts))


@pytest.mark.parametrize("rows", ["[]", "", "{"])
def test_a_file_without_rows_is_said_so(tmp_path: Path, rows: str) -> None:
    assert "outputs.json" in refused(DataError, answers(tmp_path, rows))


@pytest.mark.parametrize("name", ["absent.json", "absent.jsonl.gz", "absent.parquet"])
def test_a_file_that_is_not_there_is_no_model_of_a_hub(name: str) -> None:
    message = refused(RecipeError, name)
    assert f"{name}: there is no such file" in message
    assert str(Path.cwd()) in message
