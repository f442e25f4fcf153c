"""Whose answers an evaluation measures: a run's student, a model, or answers in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from tapir.domain.completion import Completion, Failure
from tapir.domain.instruction import Instruction, Origin
from tapir.domain.round import Checkpoint
from tapir.errors import DataError, RecipeError, TapirError
from tapir.examinee import Source, source
from tapir.learning import LocalStudent as Section
from tapir.recipe_file import load
from tapir.store.files import write_json
from tapir.students.local import LocalStudent
from tapir.students.recorded import RecordedStudent

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
    return folder


def answers(folder: Path, rows: object, name: str = "outputs.json") -> str:
    path = folder / name
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return str(path)


def refused(kind: type[TapirError], text: str, number: int | None = None) -> str:
    with pytest.raises(kind) as caught:
        source(text, "gym", [], number)
    assert caught.value.remedy
    return f"{caught.value} {caught.value.remedy}"


# A run


def test_a_run_is_measured_by_its_last_student_with_its_own_settings(tmp_path: Path) -> None:
    folder = run(tmp_path / "mine", 1, 2)
    found = source(str(folder), "gym")
    assert found.who.checkpoint == Checkpoint(str(folder / "round-2" / "checkpoint"), 2)
    assert found.name == "mine/S_2"
    assert isinstance(found.recipe.student, Section)
    assert found.recipe.student.max_new_tokens == 9
    assert isinstance(found.who.student, LocalStudent)
    assert found.who.resources == [found.who.student]
    assert (found.facts["round"], found.facts["run"]) == (2, "r1")
    assert found.facts["answering"]["max_new_tokens"] == 9


def test_any_round_of_it_can_be_chosen_and_0_is_the_student_before_it(tmp_path: Path) -> None:
    folder = run(tmp_path / "mine", 1, 2)
    assert source(str(folder), "gym", number=1).who.checkpoint.path.endswith("round-1/checkpoint")
    assert source(str(folder), "gym", number=0).who.checkpoint == Checkpoint(str(NANO), 0)
    (folder / "round-0" / "checkpoint").mkdir(parents=True)
    warm = source(str(folder), "gym", number=0)
    assert warm.who.checkpoint == Checkpoint(str(folder / "round-0" / "checkpoint"), 0)
    assert warm.name == "mine/S_0"


def test_a_round_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    folder = run(tmp_path / "mine", 1, 2)
    message = refused(RecipeError, str(folder), 3)
    assert "has no student of round 3" in message
    assert "0 and [1, 2]" in message
    assert "no student of round -1" in refused(RecipeError, str(folder), -1)


def test_a_run_that_has_trained_nobody_yet_is_said_so(tmp_path: Path) -> None:
    message = refused(RecipeError, str(run(tmp_path / "mine")))
    assert "no trained student yet" in message
    assert "--round 0" in message


def test_settings_of_a_run_can_be_changed_and_are_then_other_facts(tmp_path: Path) -> None:
    folder = run(tmp_path / "mine", 1)
    plain, changed = source(str(folder), "gym"), source(str(folder), "gym", iter(["student.max_new_tokens=5"]))
    assert changed.facts["answering"]["max_new_tokens"] == 5
    assert plain.facts != changed.facts


def test_another_run_in_the_same_folder_is_other_facts(tmp_path: Path) -> None:
    folder = run(tmp_path / "mine", 1)
    before = source(str(folder), "gym").facts
    write_json(folder / "manifest.json", {"run": "r2"})
    assert source(str(folder), "gym").facts != before


def test_a_run_named_by_a_dot_has_its_folders_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run(tmp_path / "mine", 1))
    assert source(".", "gym").name == "mine/S_1"


# A model


def test_the_nano_is_a_model() -> None:
    found = source("nano", "gym", ["student.max_new_tokens=5"])
    assert found.who.checkpoint == Checkpoint(str(NANO), 0)
    assert found.name == "nano"
    assert found.facts["answering"]["max_new_tokens"] == 5


def test_a_model_folder_is_a_model_and_another_model_there_is_other_facts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    changes: Iterator[str] = iter(["student.max_new_tokens=7"])
    found = source(str(tmp_path), "gym", changes)
    assert found.who.checkpoint == Checkpoint(str(tmp_path), 0)
    assert found.facts["answering"]["max_new_tokens"] == 7
    assert source(str(tmp_path), "gym", ["student.max_new_tokens=7"]).facts == found.facts
    (tmp_path / "model.safetensors").write_bytes(b"two")
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    assert source(str(tmp_path), "gym", ["student.max_new_tokens=7"]).facts != found.facts


def test_a_folder_without_a_model_and_a_round_of_no_run_are_said_so(tmp_path: Path) -> None:
    assert "no config.json" in refused(RecipeError, str(tmp_path))
    assert "--round 2: nano is no run directory" in refused(RecipeError, "nano", 2)


# Answers in a file


def reply(found: Source, text: str) -> Completion | Failure:
    one = Instruction.of(text, Origin("evaluation"))
    return dict(found.who.student.answer(found.who.checkpoint, [one]))[one.id]


def test_recorded_answers_are_found_by_the_text_of_the_instruction(tmp_path: Path) -> None:
    found = source(answers(tmp_path, ROWS), "gym")
    assert isinstance(found.who.student, RecordedStudent)
    first, second = reply(found, "How many legs has a cat?"), reply(found, "Spell it backward.\n\ntapir")
    assert isinstance(first, Completion)
    assert isinstance(second, Completion)
    assert (first.text, second.text, first.model) == ("4", "ripat", "outputs.json")
    assert found.name == "outputs.json"


def test_an_answer_that_is_missing_is_a_failure_and_never_an_empty_answer(tmp_path: Path) -> None:
    missing = reply(source(answers(tmp_path, ROWS), "gym"), "Something else?")
    assert isinstance(missing, Failure)
    assert missing.kind == "missing"
    assert "outputs.json has no answer" in missing.message


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_any_layout_of_a_corpus_will_do(tmp_path: Path, name: str) -> None:
    lines = {
        "rows.jsonl": '{"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}\n',
        "rows.csv": "instruction,output\na?,b\n",
    }
    found = reply(source(answers(tmp_path, lines[name], name), "gym"), "a?")
    assert isinstance(found, Completion)
    assert found.text == "b"


def test_other_answers_are_other_facts_wherever_the_file_lies(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, same = source(answers(tmp_path, ROWS), "gym"), source(answers(tmp_path / "other", ROWS), "gym")
    assert one.facts == same.facts
    assert source(answers(tmp_path, ROWS[:1]), "gym").facts != one.facts


def test_the_same_answer_twice_is_one_and_two_different_ones_are_an_error(tmp_path: Path) -> None:
    assert isinstance(reply(source(answers(tmp_path, [*ROWS, ROWS[0]]), "gym"), ROWS[0]["instruction"]), Completion)
    message = refused(DataError, answers(tmp_path, [*ROWS, ROWS[0] | {"output": "5"}]))
    assert "answers 1 instructions twice, the first is 'How many legs has a cat?'" in message


def test_a_row_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    message = refused(DataError, answers(tmp_path, [*ROWS, {"instruction": 7, "output": "5"}]))
    assert "1 rows are no answers; outputs.json row 3: " in message


def test_an_empty_answer_among_others_is_an_answer_and_a_file_of_them_is_none(tmp_path: Path) -> None:
    found = reply(source(answers(tmp_path, [*ROWS, {"instruction": "Be silent.", "output": ""}]), "gym"), "Be silent.")
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
