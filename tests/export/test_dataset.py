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

from tapir.errors import DataError
from tapir.export.dataset import export_dataset
from tapir.export.folder import mark_of
from tapir.export.lineage import examples
from tapir.store.rows import ExpansionRow, MixtureRow
from tapir.store.run import RunStore
from tests.runs import SPENDING, build_run
from tests.small import environment

yaml: Any = importlib.import_module("yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return build_run(tmp_path_factory.mktemp("runs") / "run", api=True)


@pytest.fixture(scope="module")
def out(run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_dataset(run, tmp_path_factory.mktemp("out") / "my_data").folder


@pytest.fixture(scope="module")
def card(out: Path) -> str:
    return (out / "README.md").read_text()


def load(out: Path, cache: Path, *name: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(out), *name, cache_dir=str(cache))


def test_each_distinct_example_is_there_once(run: RunStore, out: Path, tmp_path: Path) -> None:
    found = load(out, tmp_path)
    assert list(found) == ["train"]
    written = list(examples(run, [1, 2, 3]))
    assert [(row["id"], row["messages"][0]["content"], row["messages"][1]["content"]) for row in found["train"]] == [
        (one.id, one.instruction, one.response) for one in written
    ]
    assert found["train"]["gap"][:] == [one.gap for one in written]


def test_every_round_is_a_split(run: RunStore, out: Path, tmp_path: Path) -> None:
    found = load(out, tmp_path, "rounds")
    assert list(found) == ["round_1", "round_2", "round_3"]
    for number in (1, 2, 3):
        rows = run.read(f"round-{number}/mixture", MixtureRow)
        assert sorted(found[f"round_{number}"]["id"]) == [row.id for row in rows]


def test_every_field_is_in_the_card(card: str, out: Path, tmp_path: Path) -> None:
    fields = re.findall(r"^\| `(\w+)` \|", card, re.MULTILINE)
    assert fields == load(out, tmp_path)["train"].column_names


def test_the_card_counts_what_is_there(run: RunStore, card: str) -> None:
    found = list(examples(run, [1, 2, 3]))
    assert f"| default | train | {len(found)} |" in card
    for (origin, pool), count in Counter((one.origin, one.pool) for one in found).items():
        assert f"| {origin} | {pool} | {count} |" in card
    for task, count in Counter(one.task for one in found).items():
        assert f"| {task.replace('<', chr(92) + '<').replace('>', chr(92) + '>')} | {count} |" in card
    assert f"{sum(one.refined for one in found)} of the {len(found)} answers were rewritten" in card


def test_the_card_says_what_was_set_aside_and_why(run: RunStore, card: str) -> None:
    written = Counter(
        row.reason for number in (1, 2, 3) for row in run.read(f"round-{number}/expansions", ExpansionRow) if row.reason
    )
    assert written
    for reason, count in written.items():
        assert f"| expansions | {reason} | {count} |" in card
    for reason in ("duplicate", "empty instruction", "not JSON"):
        assert f"| corpus | {reason} | 1 |" in card
    assert "| teacher's answers | timeout | 1 |" in card


def test_the_card_says_what_it_took(card: str) -> None:
    calls, cost = sum(one.calls for one in SPENDING), sum(one.cost for one in SPENDING)
    assert re.search(rf"\| all \| {calls} \|.*\| {cost:.2f} \|", card)


def test_a_round_alone_counts_only_itself(run: RunStore, tmp_path: Path) -> None:
    folder = export_dataset(run, tmp_path / "out", 1).folder
    text = (folder / "README.md").read_text()
    assert mark_of(folder).rounds == (1,)
    assert "| default | train | 60 |" in text
    assert "round_2" not in text
    later = [one for one in SPENDING if one.round > 1]
    assert later
    assert f"| all | {sum(one.calls for one in SPENDING) - sum(one.calls for one in later)} |" in text


def test_the_header_is_metadata_the_hub_reads(card: str) -> None:
    header = yaml.safe_load(card.split("---\n")[1])
    assert [one["config_name"] for one in header["configs"]] == ["default", "rounds"]
    assert "license" not in header
    assert header["size_categories"] == ["n<1K"]


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


def test_reminders_name_the_licences_and_the_terms(card: str) -> None:
    last = card.partition("## Licences")[2]
    for said in (
        "No licence is chosen here",
        "the licence of the corpus: corpus.jsonl",
        "a-large-model",
        "a-small-model",
    ):
        assert said in last


def test_a_run_without_rounds_has_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training data yet"):
        export_dataset(build_run(tmp_path / "run", done=0), tmp_path / "out")
