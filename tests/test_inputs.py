"""The files a recipe names: what they are known by, and what is said where they cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapir import assemble
from tapir.errors import DataError, RecipeError
from tapir.recipe import Recipe
from tapir.recipe_file import parse
from tapir.roles import Roles
from tests.alpaca import rows
from tests.recipes import api


def recipe(folder: Path, **changed: object) -> Recipe:
    folder.mkdir(exist_ok=True)
    for name in ("rows", "more"):
        if not (folder / f"{name}.json").exists():
            (folder / f"{name}.json").write_text(json.dumps(rows(12)), encoding="utf-8")
    tables: dict[str, Any] = {
        "corpus": {"kind": "file", "path": str(folder / "rows.json")},
        "evaluation": {"kind": "judged", "held_out": 0, "file": str(folder / "more.json")},
        "curriculum": {"target": {"taxonomy": "paper"}},
    }
    return parse(api(**tables | changed))


def people(folder: Path, **changed: object) -> Roles:
    return assemble.roles(recipe(folder, **changed))


def test_files_are_known_by_their_role_and_content_and_not_by_their_place(tmp_path: Path) -> None:
    here, there = people(tmp_path / "here"), people(tmp_path / "there")
    assert {"corpus.path", "evaluation.file"} <= here.inputs.keys()
    assert here.inputs == there.inputs
    (tmp_path / "there" / "more.json").write_text(json.dumps(rows(13)), encoding="utf-8")
    changed = people(tmp_path / "there").inputs
    assert {key for key in changed if changed[key] != here.inputs[key]} == {"evaluation.file"}


def test_what_is_measured_has_the_same_name_wherever_its_file_lies(tmp_path: Path) -> None:
    (tmp_path / "held-out.json").write_text(json.dumps(rows(12)), encoding="utf-8")
    evaluation = {"kind": "judged", "held_out": 3, "file": str(tmp_path / "held-out.json")}
    assert [one.name for one in people(tmp_path, evaluation=evaluation).benchmarks] == ["held-out", "file"]


@pytest.mark.parametrize("key", ["corpus.path", "evaluation.file"])
def test_a_file_that_is_not_there_is_named_by_its_key(key: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    kind = {"corpus": "file", "evaluation": "judged"}[section]
    with pytest.raises(RecipeError, match=f"^{key} = .*there is no such file"):
        people(tmp_path, **{section: {"kind": kind, name: "nowhere.json"}})


def test_an_evaluation_file_with_a_bad_row_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    chosen = recipe(tmp_path)
    (tmp_path / "more.json").write_text(json.dumps([*rows(3), {"instruction": 7}]), encoding="utf-8")
    with pytest.raises(DataError, match=r"evaluation.file = .*1 of its rows cannot be read: more.json.*not text"):
        assemble.forbidden(chosen, assemble.roles(chosen))


def test_a_rubric_for_a_label_that_the_taxonomy_lacks_is_refused_with_the_nearest(tmp_path: Path) -> None:
    judge = {"kind": "llm", "endpoints": ["gpt"]}
    assert people(tmp_path, judge=judge | {"rubrics": {"Math": "Is it right?"}})
    with pytest.raises(RecipeError, match="has no label 'Maths'; did you mean 'Math'"):
        people(tmp_path, judge=judge | {"rubrics": {"Maths": "Is it right?"}})
