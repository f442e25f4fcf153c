"""The training data in the layouts of other trainers: what is written reads back equal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.runs import build_run
from tapir.config.corpus import Format
from tapir.data.formats import FILES, LAYOUTS, preference, write_records
from tapir.data.layouts import Row
from tapir.data.readers import read_file
from tapir.data.run.reader import RunReader
from tapir.data.run.rows import ContrastRow, MixtureRow
from tapir.data.run.store import RunStore
from tapir.domain.errors import StoreError
from tapir.domain.instruction import Turn
from tapir.report.export.dataset import export_mixture
from tapir.report.export.lineage import examples

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: text == text.strip() and text
)


@pytest.fixture(scope="module")
def out(gym_run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "mixture"
    export_mixture(gym_run, out)
    return out


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def loaded(kind: str, path: Path, **options: object) -> Any:
    import datasets

    return datasets.load_dataset(kind, data_files=str(path), split="train", **options)


@pytest.mark.parametrize(
    ("name", "layout"), [("messages.jsonl", "messages"), ("alpaca.json", "alpaca"), ("sharegpt.json", "sharegpt")]
)
def test_our_own_reader_reads_back_what_was_written(gym_run: RunStore, out: Path, name: str, layout: Format) -> None:
    read = [(row.text, row.response) for row in read_file(out / name, layout=layout) if isinstance(row, Row)]
    written = [
        (one.messages[-2].content.strip(), one.messages[-1].content) for one in examples(RunReader(gym_run), [1, 2, 3])
    ]
    assert read == [pair for pair in written if "\0" not in pair[0]]  # which no corpus may have
    assert len(read) > len(written) - 3


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize(
    "context", [(), (Turn("system", "s"),), (Turn("user", "a"), Turn("assistant", " b\n")), "all"], ids=len
)
def test_a_conversation_and_a_preference_read_back_in_every_layout(layout: str, context: Any, tmp_path: Path) -> None:
    said = (Turn("system", "s"), Turn("user", "a"), Turn("assistant", "b")) if context == "all" else context
    path = tmp_path / f"data{FILES[layout]}"
    records = (LAYOUTS[layout]("c", "d", said), preference(layout, "c", "d", "e", said))
    for record in records:
        write_records(path, [record])
        (row,) = read_file(path)
        assert isinstance(row, Row)
        assert (row.text, row.response, row.context) == ("c", "d", said)


@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=20), layout=st.sampled_from(sorted(LAYOUTS)))
def test_any_text_survives_the_way_through_a_file(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], layout: Format
) -> None:
    path = tmp_path_factory.mktemp("any") / f"data{FILES[layout]}"
    assert write_records(path, (LAYOUTS[layout](*pair, ()) for pair in pairs)) == len(pairs)
    assert [(row.text, row.response) for row in read_file(path, layout=layout) if isinstance(row, Row)] == pairs


@pytest.mark.parametrize("name", ["messages.jsonl", "messages.parquet"])
def test_datasets_loads_conversations_with_their_lineage(gym_run: RunStore, out: Path, name: str) -> None:
    read = loaded("parquet" if name.endswith("parquet") else "json", out / name)
    written = list(examples(RunReader(gym_run), [1, 2, 3]))
    assert read.num_rows == len(written)
    for row, one in zip(read, written, strict=True):
        assert [turn["content"] for turn in row["messages"]] == [turn.content for turn in one.messages]
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
        assert (row["id"], row["task"], row["pool"], row["origin"]) == (one.id, one.task, one.pool, one.origin)
        assert (row["parents"], row["rounds"]) == (list(one.parents), list(one.rounds))
        assert (row["source"], row["author"], row["refined"]) == (one.source, one.author, one.refined)
        assert (row["gap"], row["refiner"]) == (one.gap, one.refiner)


def test_llama_factory_finds_every_file(out: Path) -> None:
    entries = json.loads((out / "dataset_info.json").read_text())
    assert {entry["file_name"] for entry in entries.values()} == {"messages.jsonl", "alpaca.json", "sharegpt.json"}
    for entry in entries.values():
        line = (out / entry["file_name"]).read_text().splitlines()
        row = json.loads(next(text for text in line if text.startswith("{")).rstrip(","))
        assert set(entry["columns"].values()) <= row.keys()
    assert not list(out.glob("*.yaml"))


def test_preferences_go_along_where_the_run_has_them(tmp_path: Path) -> None:
    store = build_run(tmp_path / "run", done=1)
    pairs = [ContrastRow("a" * 16, "Why?", "because \u2028", "dunno", 5.5, thought="Hm.", rejected_thought="So?")]
    store.write("round-1/contrasts", ContrastRow, pairs)
    folder = tmp_path / "out"
    export_mixture(store, folder)
    assert json.loads((folder / "preferences.jsonl").read_text()) == {
        "prompt": [{"role": "user", "content": "Why?"}],
        "chosen": [{"role": "assistant", "content": "because \u2028"}],
        "rejected": [{"role": "assistant", "content": "dunno"}],
        "thought": "Hm.",
        "rejected_thought": "So?",
        "id": "a" * 16,
        "gap": 5.5,
        "round": 1,
    }
    assert "preferences.jsonl" in (folder / "README.md").read_text()


def test_a_thought_that_was_learnt_goes_along(tmp_path: Path) -> None:
    store = build_run(tmp_path / "run", done=1)
    learnt = [replace(row, thought="Hm.") for row in store.read("round-1/mixture", MixtureRow)]
    store.write("round-1/mixture", MixtureRow, learnt)
    export_mixture(store, tmp_path / "out")
    with (tmp_path / "out" / "messages.jsonl").open(encoding="utf-8", newline="\n") as lines:
        rows = list(map(json.loads, lines))
    assert {row["thought"] for row in rows} == {"Hm."}


def test_the_same_export_again_is_the_same_bytes(gym_run: RunStore, out: Path) -> None:
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    export_mixture(gym_run, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_damaged_table_stops_the_export(tmp_path: Path) -> None:
    store = build_run(tmp_path / "run", done=1)
    table = store.folder / "corpus.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="checksum"):
        export_mixture(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [row.id for row in store.each("round-1/mixture", MixtureRow)]
