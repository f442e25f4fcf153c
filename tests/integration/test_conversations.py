"""Conversations through the whole loop: what stands before an answer is read, shown, trained on and exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support import fakes
from support.fakes import LABELS
from tapir.config.corpus import Turns
from tapir.data.corpus import conversation, pairs
from tapir.data.layouts import Row
from tapir.data.readers import read_file
from tapir.data.run.rows import CorpusRow, DropRow, MixtureRow
from tapir.data.run.store import RunStore
from tapir.domain.instruction import Turn
from tapir.domain.progress import SilentProgress
from tapir.report.export.dataset import export_mixture
from tapir.report.history import history, training_examples
from tapir.runs import session

CASES = Path(__file__).parents[3] / "shared" / "cases" / "corpora"
EXCHANGES = 3


def file(folder: Path, count: int = 60) -> Path:
    """A ShareGPT file: system prompts, and three exchanges of which each is another task."""
    rows = []
    for number in range(count):
        turns = [
            turn
            for exchange, task in enumerate(LABELS)
            for turn in (
                {"from": "human", "value": f"{task} number {number}{exchange}5"},
                {"from": "gpt", "value": "right"},
            )
        ]
        system = [{"from": "system", "value": f"You count to {number}."}] if number % 2 else []
        rows.append({"conversations": [*system, *turns]})
    path = folder / "talks.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture(params=["last", "first", "all"])
def finished(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[RunStore, fakes.Trainer, Turns]:
    roles = fakes.roles(tmp_path / "people")
    corpus = list(pairs(read_file(file(tmp_path), turns=request.param), "talks.json"))
    roles = replace(roles, corpus=lambda: corpus)
    session.run(fakes.recipe(target={"shares": "pool"}, expand=False, refine=False), tmp_path / "run", roles=roles)
    assert isinstance(roles.trainer, fakes.Trainer)
    return RunStore(tmp_path / "run"), roles.trainer, request.param


def test_every_answer_chosen_is_trained_on_after_its_own_context(
    finished: tuple[RunStore, fakes.Trainer, Turns],
) -> None:
    store, trainer, turns = finished
    corpus = store.read("corpus", CorpusRow)
    places = {"last": (2,), "first": (0,), "all": (0, 1, 2)}[turns]
    assert len(corpus) == 60 * len(places)
    for row in corpus:
        place = LABELS.index(row.text.split()[0])
        said = [turn for turn in row.context if turn.role != "system"]
        assert place in places
        assert [turn.role for turn in said] == ["user", "assistant"] * place
        number = row.text.split()[-1][:-2]
        assert [turn.content for turn in row.context if turn.role == "system"] == [f"You count to {number}."] * (
            int(number) % 2
        )
        assert all(turn.content.endswith(f" {number}{earlier}5") for earlier, turn in enumerate(said[::2]))
    contexts = {row.id: row.context for row in corpus}
    trained = [example for job in trainer.jobs for example in job.examples]
    assert len(trained) > 20
    assert all(example.context == contexts[example.id] for example in trained)


def test_what_was_trained_on_is_shown_and_exported_with_its_context(
    finished: tuple[RunStore, fakes.Trainer, Turns], tmp_path: Path
) -> None:
    from datasets import load_dataset

    store, _, turns = finished
    rows = {row.id: row for row in store.read("round-1/mixture", MixtureRow)}
    deep = next(row for row in rows.values() if row.context)
    ((_, example),) = [found for found in training_examples(store, deep.id) if found[0].startswith("round 1")]
    assert example.context == deep.context
    shown = dict(history(store, deep.id))["instruction"]
    assert all(text in shown for text in (*(turn.content for turn in deep.context), deep.instruction))
    export_mixture(store, tmp_path / "out")
    loaded = load_dataset("json", data_files=str(tmp_path / "out" / "messages.jsonl"), split="train")
    talk = next(row for row in loaded if row["id"] == deep.id)["messages"]
    assert [Turn(**turn) for turn in talk] == [
        *deep.context,
        Turn("user", deep.instruction),
        Turn("assistant", deep.response),
    ]
    for name, layout in (("alpaca.json", "alpaca"), ("sharegpt.json", "sharegpt"), ("messages.jsonl", "messages")):
        read = read_file(tmp_path / "out" / name, layout=layout)  # type: ignore[arg-type]
        again = {(row.text, row.context, row.response) for row in read if isinstance(row, Row)}
        assert (deep.instruction, deep.context, deep.response) in again
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["tapir_alpaca"]["columns"]
    assert ("history" in info) == (turns != "first")


def test_pairs_of_one_conversation_are_never_on_both_sides_of_a_split(tmp_path: Path) -> None:
    from tapir.config.recipe import Recipe
    from tapir.config.toml import parse
    from tapir.runs.build import build_roles
    from tapir.runs.corpus import forbidden

    recipe: Recipe = parse(
        {
            "corpus": {"kind": "file", "path": str(file(tmp_path)), "turns": "all"},
            "teacher": {"kind": "none"},
            "judge": {"kind": "none"},
            "tagger": {"kind": "none", "label": "Ethics"},
            "curriculum": {
                "expand": False,
                "refine": False,
                "difficulty": "length",
                "threshold": {"rule": "quantile", "value": 0.5},
                "target": {"taxonomy": "paper", "shares": "pool"},
            },
            "evaluation": {"kind": "exact", "held_out": 10},
        }
    )
    session.claim(recipe, tmp_path / "run", roles := build_roles(recipe))
    held = {conversation(prompt.instruction.origin.source) for prompt in roles.benchmarks[0].prompts()}
    assert len(roles.benchmarks[0].prompts()) == 10
    from tapir.runs.session import _corpus

    kept = _corpus(recipe, roles, RunStore(tmp_path / "run"), forbidden(recipe, roles), SilentProgress())
    assert {conversation(pair.instruction.origin.source) for pair in kept}.isdisjoint(held)
    drops = [row.reason for row in RunStore(tmp_path / "run").read("drops", DropRow)]
    assert drops.count("of a held-out conversation") == EXCHANGES * len(held) - 10


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here")
def test_the_cases_are_read_with_their_meaning() -> None:
    def read(name: str, **options: Any) -> list[Any]:
        rows = read_file(CASES / name, **options)
        return [(row.text, row.response, row.context) if isinstance(row, Row) else row.reason for row in rows]

    guide = (Turn("system", "You are a guide on lake Baikal."),)
    lake = (Turn("user", "Can I swim in the lake in July?"), Turn("assistant", "Yes, at the southern shore."))
    assert read("history.json") == [
        ("And in winter?", "Then it is frozen over.", guide + lake),
        ("Translate it.", "Guten Morgen", (Turn("system", "Answer in German only."),)),
    ]
    german = (Turn("system", "Translate what I say into German."),)
    assert read("sharegpt_system.json") == [("Good morning!", "Guten Morgen!", german)]
    assert read("llava.json") == ["it has image", ("Name a bus.", "A tram.", ())]
    hi = (Turn("user", "Hi there"), Turn("assistant", "Hello"))
    assert read("tools.jsonl") == ["a tool is used", ("Hi", "Hello", ()), ("Name a sea.", "The Baltic.", hi)]
    assert read("tools.jsonl", turns="all")[2:] == ["an answer of weight 0", ("Name a sea.", "The Baltic.", hi)]
