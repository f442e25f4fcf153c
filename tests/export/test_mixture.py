"""The training data in the layouts of other trainers: what is written reads back equal."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir.data.readers import read_file
from tapir.data.row import Format, Row
from tapir.errors import DataError, StoreError
from tapir.export.lineage import examples
from tapir.export.mixture import export_mixture
from tapir.store.rows import ContrastRow, MixtureRow
from tapir.store.run import RunStore
from tapir.training.formats import FILES, LAYOUTS, write_records
from tests.runs import build_run

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "seed" / "alpaca_data.json.gz"
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: text == text.strip() and text
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return build_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def out(run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_mixture(run, tmp_path_factory.mktemp("out") / "mixture").folder


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
def test_our_own_reader_reads_back_what_was_written(run: RunStore, out: Path, name: str, layout: Format) -> None:
    read = [(row.text, row.response) for row in read_file(out / name, layout=layout) if isinstance(row, Row)]
    written = [(one.instruction.strip(), one.response) for one in examples(run, [1, 2, 3])]
    assert read == [pair for pair in written if "\0" not in pair[0]]  # which no corpus may have
    assert len(read) > len(written) - 3


@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=20), layout=st.sampled_from(sorted(LAYOUTS)))
def test_any_text_survives_the_way_through_a_file(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], layout: Format
) -> None:
    path = tmp_path_factory.mktemp("any") / f"data{FILES[layout]}"
    assert write_records(path, (LAYOUTS[layout](*pair) for pair in pairs)) == len(pairs)
    assert [(row.text, row.response) for row in read_file(path, layout=layout) if isinstance(row, Row)] == pairs


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not here")
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_real_instructions_survive_it_too(tmp_path: Path, layout: Format) -> None:
    with gzip.open(SHARED) as file:
        rows = json.load(file)[::20]
    pairs = [(row["instruction"].strip(), row["output"]) for row in rows if row["output"].strip()]
    path = tmp_path / f"data{FILES[layout]}"
    write_records(path, (LAYOUTS[layout](*pair) for pair in pairs))
    assert [(row.text, row.response) for row in read_file(path, layout=layout) if isinstance(row, Row)] == pairs
    assert loaded("json", path).num_rows == len(pairs)


@pytest.mark.parametrize("name", ["messages.jsonl", "messages.parquet"])
def test_datasets_loads_conversations_with_their_lineage(run: RunStore, out: Path, name: str) -> None:
    read = loaded("parquet" if name.endswith("parquet") else "json", out / name)
    written = list(examples(run, [1, 2, 3]))
    assert read.num_rows == len(written)
    for row, one in zip(read, written, strict=True):
        assert [turn["content"] for turn in row["messages"]] == [one.instruction, one.response]
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
        assert (row["id"], row["task"], row["pool"], row["origin"]) == (one.id, one.task, one.pool, one.origin)
        assert (row["parents"], row["rounds"]) == (list(one.parents), list(one.rounds))
        assert (row["source"], row["author"], row["refined"]) == (one.source, one.author, one.refined)
        assert (row["gap"], row["refiner"]) == (one.gap, one.refiner)


@pytest.mark.parametrize("name", ["alpaca.json", "sharegpt.json"])
def test_datasets_loads_the_other_layouts(run: RunStore, out: Path, name: str) -> None:
    read = loaded("json", out / name)
    written = list(examples(run, [1, 2, 3]))
    assert read["id"][:] == [one.id for one in written]
    last = [row["output"] if "output" in row else row["conversations"][1]["value"] for row in read]
    assert last == [one.response for one in written]


def test_types_are_found_from_the_beginning_of_the_file(tmp_path: Path) -> None:
    """`datasets` takes them from the first 10 MB: there a column must not look empty that is filled later."""
    store = RunStore(tmp_path / "run")
    build_run(store.folder, done=1)
    rows = store.read("round-1/mixture", MixtureRow)
    rows.sort(key=lambda row: row.origin)  # expansions, which have parents and no gap, come last
    store.write("round-1/mixture", MixtureRow, rows)
    folder = export_mixture(store, tmp_path / "out").folder
    with (folder / "messages.jsonl").open() as lines:
        beginning = sum(len(next(lines).encode()) for _ in range(2))
    read = loaded("json", folder / "messages.jsonl", chunksize=beginning)
    assert read.num_rows == len(rows)
    assert any(row["parents"] for row in read)
    assert any(row["gap"] is None for row in read)


def test_one_round_alone_can_be_had(run: RunStore, tmp_path: Path) -> None:
    exported = export_mixture(run, tmp_path / "out", 2)
    lines = (exported.folder / "messages.jsonl").read_text().splitlines()
    assert [json.loads(line)["rounds"] for line in lines] == [[2]] * 60
    assert exported.notes == ("60 examples of round 2",)


def test_the_folder_loads_as_a_data_set_too(out: Path) -> None:
    import datasets

    read = datasets.load_dataset(str(out), split="train")
    assert read.column_names[0] == "messages"


def test_preferences_go_along_where_the_run_has_them(tmp_path: Path) -> None:
    store = build_run(tmp_path / "run", done=1)
    pairs = [ContrastRow("a" * 16, "Why?", "because \u2028", "dunno", 5.5)]
    store.write("round-1/contrasts", ContrastRow, pairs)
    folder = export_mixture(store, tmp_path / "out").folder
    assert json.loads((folder / "preferences.jsonl").read_text()) == {
        "prompt": [{"role": "user", "content": "Why?"}],
        "chosen": [{"role": "assistant", "content": "because \u2028"}],
        "rejected": [{"role": "assistant", "content": "dunno"}],
        "id": "a" * 16,
        "gap": 5.5,
        "round": 1,
    }
    assert "preferences.jsonl" in (folder / "README.md").read_text()


def test_without_preferences_there_is_no_such_file(out: Path) -> None:
    assert not (out / "preferences.jsonl").exists()
    assert "preferences.jsonl" not in (out / "README.md").read_text()


def test_the_same_export_again_is_the_same_bytes(run: RunStore, tmp_path: Path) -> None:
    first = export_mixture(run, tmp_path / "out").folder
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    assert {path.name: path.read_bytes() for path in export_mixture(run, first).folder.iterdir()} == before


def test_a_run_without_rounds_has_no_mixture(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training data yet"):
        export_mixture(build_run(tmp_path / "run", done=0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"recipe\.json cannot be read"):
        export_mixture(RunStore(tmp_path), tmp_path / "out")


def test_a_damaged_table_stops_the_export(tmp_path: Path) -> None:
    store = build_run(tmp_path / "run", done=1)
    table = store.folder / "corpus.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="checksum"):
        export_mixture(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [row.id for row in store.each("round-1/mixture", MixtureRow)]
