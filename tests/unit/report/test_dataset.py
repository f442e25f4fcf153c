"""The exported data set loads as it is, and its card tells the truth."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from support.runs import OVER_API, SPENDING, build_run
from support.small import environment
from tapir.config.toml import parse
from tapir.data.files import read_json, write_json
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import ExpansionRow, MixtureRow
from tapir.data.run.store import RunStore
from tapir.models.estimators import MFD
from tapir.report.export.cards import facts, write_card
from tapir.report.export.dataset import export_dataset, export_mixture
from tapir.report.export.folder import read_mark
from tapir.report.export.lineage import examples

yaml: Any = importlib.import_module("yaml")


@pytest.fixture(scope="module")
def out(api_run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "my_data"
    export_dataset(api_run, out)
    return out


@pytest.fixture(scope="module")
def card(out: Path) -> str:
    return (out / "README.md").read_text()


def load(out: Path, cache: Path, *name: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(out), *name, cache_dir=str(cache))


def test_every_round_is_a_split_and_every_field_is_in_the_card(
    api_run: RunStore, out: Path, tmp_path: Path, card: str
) -> None:
    found = load(out, tmp_path, "rounds")
    assert list(found) == ["round_1", "round_2", "round_3"]
    for number in (1, 2, 3):
        rows = list(RunReader(api_run).learnt(number))
        assert len(rows) == len(api_run.read(f"round-{number}/mixture", MixtureRow)) - 1  # one is too long to learn
        assert sorted(found[f"round_{number}"]["id"]) == [row.id for row in rows]
    fields = re.findall(r"^\| `(\w+)` \|", card, re.MULTILINE)
    assert fields == load(out, tmp_path)["train"].column_names


def test_the_card_counts_what_is_there_and_says_what_was_dropped_and_why(api_run: RunStore, card: str) -> None:
    found = list(examples(RunReader(api_run), [1, 2, 3]))
    assert f"| default | train | {len(found)} |" in card
    for (origin, pool), count in Counter((one.origin, one.pool) for one in found).items():
        assert f"| {origin} | {pool} | {count} |" in card
    for task, count in Counter(one.task for one in found).items():
        assert f"| {task.replace('<', chr(92) + '<').replace('>', chr(92) + '>')} | {count} |" in card
    assert f"{sum(one.refined for one in found)} of the {len(found)} answers were rewritten" in card
    written = Counter(
        row.reason
        for number in (1, 2, 3)
        for row in api_run.read(f"round-{number}/expansions", ExpansionRow)
        if row.reason
    )
    assert written
    for reason, count in written.items():
        assert f"| expansions | {reason} | {count} |" in card
    for reason in ("duplicate", "empty instruction", "not JSON"):
        assert f"| corpus | {reason} | 1 |" in card
    assert "| teacher's answers | timeout | 1 |" in card


def test_a_round_alone_counts_only_itself(api_run: RunStore, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export_dataset(api_run, folder, 1)
    text = (folder / "README.md").read_text()
    assert read_mark(folder).rounds == (1,)
    assert "| default | train | 59 |" in text
    assert "round_2" not in text
    later = [one for one in SPENDING if one.round > 1]
    assert later
    assert f"| all | {sum(one.calls for one in SPENDING) - sum(one.calls for one in later)} |" in text


def test_the_card_begins_with_metadata_the_hub_reads_and_ends_with_the_licences_and_the_terms(card: str) -> None:
    header = yaml.safe_load(card.split("---\n")[1])
    assert [one["config_name"] for one in header["configs"]] == ["default", "rounds"]
    assert "license" not in header
    assert header["size_categories"] == ["n<1K"]
    last = card.partition("## Licences")[2]
    names = ("a-large-model", "a-small-model")
    for said in ("No licence is chosen here", "the licence of the corpus: corpus.jsonl", *names):
        assert said in last


def test_hostile_names_stay_text(card: str) -> None:
    outside = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<(?!K)", outside.partition("## Fields")[0].partition("---\n# ")[2])
    assert "\\</title\\>" in outside


def test_the_snippet_of_the_card_runs_as_it_is(out: Path, card: str, tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found
    result = subprocess.run(
        [sys.executable, "-c", found.group(1)],
        cwd=out.parent,
        capture_output=True,
        text=True,
        env=environment() | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "'role': 'user'" in result.stdout


def test_a_corpus_of_ones_own_is_named_by_its_class(tmp_path: Path) -> None:
    store = build_run(tmp_path / "run", done=1)
    path = store.folder / "recipe.json"
    recipe = parse(OVER_API | {"corpus": {"kind": "custom", "class": "mine.data:Corpus"}})
    write_json(path, recipe.resolved())
    assert facts(RunReader(store), 1, [1])["corpus"] == "mine.data:Corpus"


@pytest.mark.parametrize(
    ("kind", "said", "pool"),
    [
        ("none", "draws its examples at random", "`any`: how hard it is was not measured"),
        ("ifd", "IFD is the student's mean loss per token", "`hard` or `easy`"),
        ("length", "Difficulty is the length of the teacher's answer in characters", "`hard` or `easy`"),
    ],
)
def test_a_run_without_judge_or_teacher_has_cards_that_speak_of_none(
    kind: str, said: str, pool: str, tmp_path: Path
) -> None:
    threshold = {} if kind == "none" else {"threshold": {"rule": "quantile", "value": 0.5}}
    method = {"difficulty": kind, "expand": False, "refine": False} | threshold
    store = build_run(tmp_path / "run", curriculum=method)
    recipe = read_json(store.folder / "recipe.json")
    recipe |= {name: {"kind": "none"} for name in ("teacher", "judge", "tagger")}
    recipe |= {"corpus": {"kind": "file", "path": "a.jsonl"}, "evaluation": {"kind": "exact", "file": "b.jsonl"}}
    recipe["curriculum"]["target"] = {"shares": "pool"}
    write_json(store.folder / "recipe.json", recipe)
    export_dataset(store, tmp_path / "data")
    export_mixture(store, tmp_path / "mixture")
    card = facts(RunReader(store), 3, [1, 2, 3])
    write_card(tmp_path, "model-card.md.j2", f=card, title="mine", adapter=False, base="path/to/nano")
    cards = [(tmp_path / place / "README.md").read_text() for place in ("data", "mixture", "")]
    for text in cards:
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        assert not re.search(r"the judge|a judge|by none|: none|terms of whoever|distillation\n|minus", prose)
    assert all(pool in text for text in cards[:2])
    assert all(said in text for text in (cards[0], cards[2]))
    assert "trained to follow instructions with TAPIR" in cards[2]
    assert "- teacher: nobody\n- judge: nobody\n" in cards[2]
    judged = facts(RunReader(build_run(tmp_path / "judged", api=True)), 3, [3])
    assert (judged["teachers"], judged["judges"], judged["scale"]) == (["a-large-model"], ["a-small-model"], MFD)
