"""What a card says of a run, and what of the machine it does not say."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from support.runs import OVER_API, build_run
from tapir.config.toml import parse
from tapir.data.files import read_json, write_json
from tapir.data.run.reader import RunReader
from tapir.data.run.store import RunStore
from tapir.domain.completion import Spending
from tapir.report.export.cards import facts, hub_name, published_recipe, write_card
from tapir.report.judging import success_meaning
from tapir.report.page import render
from tapir.report.summary import summarise


def card_of(store: RunStore, out: Path, number: int = 3) -> str:
    card = facts(RunReader(store), number, range(1, number + 1))
    write_card(out, "model-card.md.j2", f=card, title="x", adapter=False, base="x")
    return (out / "README.md").read_text()


def test_what_a_program_and_an_own_class_are_given_is_not_published() -> None:
    recipe = parse(
        {
            "training": {"kind": "command", "command": ["curl", "http://gpu-07.lab/lock", "{data}", "{out}"]},
            "tagger": {"kind": "custom", "class": "mine:Tagger", "options": {"key": "secret", "at": ["/home/me/x"]}},
        }
    )
    text, language = published_recipe(recipe)
    assert language == "toml"
    assert not [word for word in ("curl", "gpu-07", "secret", "/home") if word in text]
    assert 'command = ["program", "{data}", "{out}"]' in text
    assert "mine:Tagger" in text


def test_a_recipe_is_published_without_the_folders_of_its_machine_wherever_they_stand() -> None:
    evaluation = {"kind": "harness", "tasks": ["/home/me/tasks/mine.yaml", "ifeval"]}
    text, _ = published_recipe(parse({"student": {"model": "/home/me/student"}, "evaluation": evaluation}))
    assert 'model = "student"' in text
    assert 'tasks = ["mine.yaml", "ifeval"]' in text
    assert "/home" not in text


def test_the_run_says_whether_its_student_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunReader(build_run(tmp_path / "here" / "runs" / "run"))
    manifest = dict(run.manifest)
    for place in ("here", "there"):
        (tmp_path / place / "students" / "foo").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / place)
        for recorded, hub in ((["student.model"], False), ([], True)):
            write_json(run.folder / "manifest.json", manifest | {"local": recorded})
            assert hub_name(run, "student.model", "students/foo").hub is hub
    write_json(run.folder / "manifest.json", {key: value for key, value in manifest.items() if key != "local"})
    assert not hub_name(run, "student.model", "students/foo").hub  # of a run of an earlier version, beside it
    assert hub_name(run, "student.model", "owner/model").hub


def test_a_run_records_what_lies_on_its_machine(tmp_path: Path) -> None:
    assert read_json(build_run(tmp_path).folder / "manifest.json")["local"] == []


def test_a_judged_success_is_explained_and_raised_checks_are_listed(api_run: RunStore, tmp_path: Path) -> None:
    meaning = success_meaning(parse(OVER_API))
    assert "the judge (a-small-model) scores at least as high as the reference" in meaning
    assert meaning.replace("'", "&#39;") in render(api_run, summarise(api_run))
    card = card_of(api_run, tmp_path)
    assert meaning in card
    raised = [alarm.name for alarm in summarise(api_run).alarms if alarm.raised]
    assert raised
    assert all(f"- {name}: " in card for name in raised)


def test_every_kind_of_evaluation_has_its_sentence() -> None:
    kinds: dict[str, dict[str, object]] = {
        "gym": {},
        "harness": {"tasks": ["ifeval"]},
        "custom": {"class": "mine:Benchmark"},
    }
    for kind, keys in kinds.items():
        assert success_meaning(parse({"evaluation": {"kind": kind, **keys}})).startswith("A success is")
    assert "mine:Benchmark" in success_meaning(parse({"evaluation": {"kind": "custom", "class": "mine:Benchmark"}}))


def test_small_sums_are_not_zero_in_the_card(tmp_path: Path) -> None:
    store = build_run(tmp_path / "run", api=True)
    write_json(store.folder / "spending.json", [asdict(Spending(0, "judge", "Math", 9, 90, 0, 9, 0.0019))])
    card = card_of(store, tmp_path / "out")
    assert "| judge | 9 | 90 | 9 | 0.00190 |" in card
    assert "| all | 9 | 90 | 9 | 0.00190 |" in card
