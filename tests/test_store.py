"""Promises of the run directory."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tapir import session
from tapir.domain.spending import Spending
from tapir.errors import DataError, RunExists, RunLocked, RunMismatch, StoreError, StoreFull, TableCorrupt
from tapir.report.summary import working_time
from tapir.roles import Rejected, Roles, Watch
from tapir.store.files import disk_errors, replacing, write_json, write_text
from tapir.store.keep import Place, Work, keep
from tapir.store.lock import locked
from tapir.store.run import RunStore
from tapir.store.tables import read_rows, write_rows
from tests import fakes


@dataclass(frozen=True, slots=True)
class Thing:
    name: str
    size: int
    weight: float | None
    parents: tuple[str, ...]
    good: bool


THINGS = [Thing("a\u2028b", 1, None, (), good=True), Thing("", -2, 0.5, ("x", "y"), good=False)]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    write_rows(tmp_path / "things.parquet", Thing, THINGS)
    assert list(read_rows(tmp_path / "things.parquet", Thing)) == THINGS


def test_equal_rows_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_rows(tmp_path / name, Thing, THINGS)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_empty_table_keeps_its_columns(tmp_path: Path) -> None:
    write_rows(tmp_path / "none.parquet", Thing, [])
    assert list(read_rows(tmp_path / "none.parquet", Thing)) == []


def test_a_table_of_another_kind_is_called_corrupt_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "things.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(TableCorrupt, match=r"things\.parquet") as caught:
        list(read_rows(tmp_path / "things.parquet", Thing))
    assert "tapir resume" in caught.value.remedy


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail_halfway() -> None:
        with replacing(path) as draft:
            draft.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_as_such() -> None:
    with pytest.raises(StoreFull, match="no space left") as caught, disk_errors(Path("x")):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "everything finished is kept" in caught.value.remedy


def test_a_changed_table_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.once("things", Thing, lambda: THINGS)
    write_rows(tmp_path / "things.parquet", Thing, THINGS[:1])
    with pytest.raises(TableCorrupt, match="checksum"):
        store.verify()
    with pytest.raises(TableCorrupt, match="checksum"):
        store.read("things", Thing)


def test_the_checksum_file_is_one_that_sha256sum_reads(tmp_path: Path) -> None:
    RunStore(tmp_path).once("things", Thing, lambda: THINGS)
    subprocess.run(["sha256sum", "--check", "--strict", "checksums.sha256"], cwd=tmp_path, check=True)


def test_a_table_without_a_checksum_is_made_again(tmp_path: Path) -> None:
    write_rows(tmp_path / "things.parquet", Thing, THINGS[:1])
    assert RunStore(tmp_path).once("things", Thing, lambda: THINGS) == THINGS


def _kept(store: RunStore, done: list[str], fail_at: str | None = None) -> list[Thing]:
    def do(chunks: Iterator[Sequence[tuple[str, int]]]) -> Iterator[tuple[int, list[Thing]]]:
        for number, chunk in enumerate(chunks):
            rows = []
            for name, size in chunk:
                if name == fail_at:
                    raise RuntimeError(name)
                done.append(name)
                rows.append(Thing(name, size, None, (name,), good=True))
            yield number, rows

    items = [(str(number), number) for number in range(10)]
    return keep(Place(store, session.SilentWatch(), 0, 7), Work("do", "things", 3), Thing, items, do)


def test_finished_chunks_are_kept_and_the_rest_is_owed(tmp_path: Path) -> None:
    store, done = RunStore(tmp_path), list[str]()
    with pytest.raises(RuntimeError, match="7"):
        _kept(store, done, fail_at="7")
    assert done == list("0123456")
    again: list[str] = []
    rows = _kept(store, again)
    assert again == list("6789")
    assert [row.size for row in rows] == list(range(10))
    assert _kept(store, again) == rows
    assert again == list("6789")
    assert not list(tmp_path.rglob("*.parts.jsonl"))


def test_a_chunk_whose_line_was_cut_off_is_owed_again(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with pytest.raises(RuntimeError):
        _kept(store, [], fail_at="7")
    parts = tmp_path / "round-0" / "things.parts.jsonl"
    parts.write_bytes(parts.read_bytes()[:-5])
    again: list[str] = []
    assert len(_kept(store, again)) == 10
    assert again == list("3456789")


def test_a_second_writer_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from tapir.store.lock import locked\n"
        f"with locked(Path({str(tmp_path)!r})): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "in\n"
        with pytest.raises(RunLocked, match=str(holder.pid)), locked(tmp_path):
            pass
        holder.kill()
    with locked(tmp_path):
        pass


@pytest.fixture
def people(tmp_path_factory: pytest.TempPathFactory) -> Roles:
    return fakes.roles(tmp_path_factory.mktemp("people"))


def test_another_recipe_in_the_same_folder_is_refused_naming_the_keys(tmp_path: Path, people: Roles) -> None:
    session.claim(fakes.recipe(), tmp_path / "run", people)
    RunStore(tmp_path / "run").write("things", Thing, THINGS)
    with pytest.raises(RunMismatch, match=r"curriculum\.size: 24 -> 30"):
        session.claim(fakes.recipe(size=30), tmp_path / "run", people)


def test_a_mended_recipe_takes_over_a_folder_in_which_nothing_was_done_yet(tmp_path: Path, people: Roles) -> None:
    session.claim(fakes.recipe(), tmp_path / "run", people)
    session.claim(fakes.recipe(size=30), tmp_path / "run", people)
    assert session.stored_recipe(tmp_path / "run").curriculum.size == 30


def test_a_corpus_of_which_nothing_is_left_is_an_error_with_the_reasons(tmp_path: Path, people: Roles) -> None:
    nothing = replace(people, corpus=lambda: [Rejected("file:1", "not JSON", "{"), Rejected("file:2", "not JSON", "[")])
    with pytest.raises(DataError, match=r"nothing is left of the corpus: not JSON \(2\)"):
        session.run(fakes.recipe(), tmp_path / "run", roles=nothing)


def test_calls_end_even_if_what_was_spent_cannot_be_read(tmp_path: Path, people: Roles) -> None:
    class Calls:
        closed = False

        def open(self, folder: Path, run: str, watch: Watch) -> None:
            del folder, run, watch

        def ready(self) -> None: ...

        def enter(self, number: int, stage: str) -> None: ...

        def meter(self) -> str:
            return ""

        def spent(self) -> list[Spending]:
            raise StoreFull("no space left")

        def close(self) -> None:
            self.closed = True

    calls = Calls()
    with pytest.raises(StoreFull):
        session.run(fakes.recipe(), tmp_path / "run", roles=replace(people, calls=calls))
    assert calls.closed


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, people: Roles) -> None:
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(RunExists, match="not empty"):
        session.claim(fakes.recipe(), tmp_path, people)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path, people: Roles) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        session.claim(fakes.recipe(), tmp_path / "file" / "run", people)


def test_resuming_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a run directory"):
        session.resume(tmp_path)


def test_a_damaged_json_file_is_named(tmp_path: Path, people: Roles) -> None:
    session.claim(fakes.recipe(), tmp_path / "run", people)
    (tmp_path / "run" / "recipe.json").write_text("{")
    with pytest.raises(StoreError, match=r"recipe\.json is damaged"):
        session.resume(tmp_path / "run")


def test_events_are_one_json_object_a_line(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.event("note", text="line\nbreak\u2028")
    store.event("note", text="two")
    lines = (tmp_path / "events.jsonl").read_text().split("\n")
    assert [json.loads(line)["text"] for line in lines if line] == ["line\nbreak\u2028", "two"]


def test_working_time_leaves_out_the_pause_between_sessions(tmp_path: Path) -> None:
    events = [("session", 100.0), ("stage", 103.0), ("session", 900.0), ("done", 905.0)]
    lines = [json.dumps({"time": time, "event": event}) for event, time in events]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    assert working_time(tmp_path) == 8.0


def test_json_files_are_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": "ü"})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"a": "ü"}
