"""Promises of the run directory."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from support import fakes
from tapir.data.files import disk_errors, locked, replacing, replacing_folder, write_text
from tapir.data.run.reader import RunReader
from tapir.data.run.store import RunStore
from tapir.data.run.tables import read_rows, write_rows
from tapir.domain.errors import DataError, RunExists, RunLocked, RunMismatch, StoreError, StoreFull, TableCorrupt
from tapir.domain.instruction import Pair, Response, Turn
from tapir.domain.progress import SilentProgress
from tapir.domain.roles import Rejected, Roles
from tapir.models.api.session import ApiSession
from tapir.report.summary import working_time
from tapir.runs import session
from tapir.stages.base import StageContext, Work, run_chunks


@dataclass(frozen=True, slots=True)
class Thing:
    name: str
    size: int
    weight: float | None
    parents: tuple[str, ...]
    good: bool


@dataclass(frozen=True, slots=True)
class LaterThing(Thing):
    """What a later version writes of it."""

    turns: tuple[Turn, ...] = ()
    why: str | None = None


THINGS = [Thing("a\u2028b", 1, None, (), good=True), Thing("", -2, 0.5, ("x", "y"), good=False)]


@pytest.mark.parametrize("rows", [THINGS, []])
def test_rows_come_back_as_they_were_and_equal_rows_are_equal_bytes(rows: list[Thing], tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_rows(tmp_path / name, Thing, rows)
    assert list(read_rows(tmp_path / "first", Thing)) == rows
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_table_of_another_kind_is_called_corrupt_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "things.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(TableCorrupt, match=r"things\.parquet") as caught:
        list(read_rows(tmp_path / "things.parquet", Thing))
    assert "tapir resume" in caught.value.remedy


def test_columns_that_an_earlier_version_did_not_write_have_their_default(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.parquet", Thing, THINGS)
    (first, _) = read_rows(tmp_path / "t.parquet", LaterThing)
    assert first == LaterThing("a\u2028b", 1, None, (), good=True)
    spoken = replace(first, turns=(Turn("user", "Hi."), Turn("assistant", "")), why="so")
    write_rows(tmp_path / "t.parquet", LaterThing, [spoken])
    assert list(read_rows(tmp_path / "t.parquet", LaterThing)) == [spoken]
    with pytest.raises(TableCorrupt, match="its columns are others"):
        list(read_rows(tmp_path / "t.parquet", Thing))


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


def test_every_file_of_a_folder_is_on_the_disk_before_the_folder_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr("os.fsync", lambda handle: seen.append(Path(f"/proc/self/fd/{handle}").resolve().name))
    with replacing_folder(tmp_path / "checkpoint") as draft:
        (draft / "part").mkdir()
        (draft / "part" / "weights").write_text("1")
    assert set(seen) == {"weights", "part", ".checkpoint.draft"}


def test_a_full_disk_is_reported_as_such() -> None:
    with pytest.raises(StoreFull, match="no space left") as caught, disk_errors(Path("x")):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "everything finished is kept" in caught.value.remedy


def test_a_changed_table_is_noticed_by_its_checksum_and_one_without_is_made_again(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.once("things", Thing, lambda: THINGS)
    write_rows(tmp_path / "things.parquet", Thing, THINGS[:1])
    with pytest.raises(TableCorrupt, match="checksum"):
        store.verify()
    with pytest.raises(TableCorrupt, match="checksum"):
        store.read("things", Thing)
    without = tmp_path / "without"
    write_rows(without / "things.parquet", Thing, THINGS[:1])
    assert RunStore(without).once("things", Thing, lambda: THINGS) == THINGS
    subprocess.run(["sha256sum", "--check", "--strict", "checksums.sha256"], cwd=without, check=True)


def test_a_table_that_is_made_again_and_killed_before_its_checksum_is_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(tmp_path)
    store.write("things", Thing, THINGS)
    (tmp_path / "things.parquet").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("tapir.data.run.store.sha256", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.write("things", Thing, THINGS[:1])
    store.verify()
    assert store.once("things", Thing, lambda: THINGS) == THINGS


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
    return run_chunks(StageContext(store, SilentProgress(), 0, 7), Work("do", "things", 3), Thing, items, do)


def test_finished_chunks_are_kept_and_the_rest_is_pending(tmp_path: Path) -> None:
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


def test_a_second_writer_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from tapir.data.files import locked\n"
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


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_an_error_with_the_remedy(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(code, "no")))
    for wait in (False, True):
        with pytest.raises(StoreError, match="this file system has no locks") as caught, locked(tmp_path, wait=wait):
            pass
        assert "--out" in caught.value.remedy


@pytest.fixture
def roles(tmp_path_factory: pytest.TempPathFactory) -> Roles:
    return fakes.roles(tmp_path_factory.mktemp("people"))


def test_another_recipe_takes_over_a_folder_only_while_nothing_is_done_in_it(tmp_path: Path, roles: Roles) -> None:
    session.claim(fakes.recipe(size=30), tmp_path / "run", roles)
    session.claim(fakes.recipe(), tmp_path / "run", roles)
    assert session.stored_recipe(tmp_path / "run").curriculum.size == 24
    RunStore(tmp_path / "run").write("things", Thing, THINGS)
    with pytest.raises(RunMismatch, match=r"curriculum\.size: 24 -> 30"):
        session.claim(fakes.recipe(size=30), tmp_path / "run", roles)


def test_a_corpus_of_which_nothing_is_left_is_an_error_with_the_reasons(tmp_path: Path, roles: Roles) -> None:
    nothing = replace(roles, corpus=lambda: [Rejected("file:1", "not JSON", "{"), Rejected("file:2", "not JSON", "[")])
    with pytest.raises(DataError, match=r"nothing is left of the corpus: not JSON \(2\)"):
        session.run(fakes.recipe(), tmp_path / "run", roles=nothing)


def test_a_check_says_that_all_of_the_corpus_is_held_out(monkeypatch: pytest.MonkeyPatch, roles: Roles) -> None:
    held = [Pair(prompt.instruction, Response("an answer", "")) for prompt in roles.benchmarks[0].prompts()]
    everything = replace(roles, corpus=lambda: [*held, Rejected("file:1", "not JSON", "{")])
    monkeypatch.setattr(session, "preflight", lambda _: everything)
    with pytest.raises(DataError, match=rf"nothing is left.*in an evaluation set \({len(held)}\), not JSON \(1\)"):
        session.check(fakes.recipe())


def test_calls_end_even_if_what_was_spent_cannot_be_read(tmp_path: Path, roles: Roles) -> None:
    calls = Mock(ApiSession)
    calls.spent.side_effect = StoreFull("no space left")
    with pytest.raises(StoreFull):
        session.run(fakes.recipe(), tmp_path / "run", roles=replace(roles, calls=calls))
    calls.close.assert_called_once()


def test_a_folder_of_something_else_is_left_alone_and_a_damaged_json_file_is_named(
    tmp_path: Path, roles: Roles
) -> None:
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(RunExists, match="not empty"):
        session.claim(fakes.recipe(), tmp_path, roles)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]
    with pytest.raises(StoreError, match="holiday"):
        session.claim(fakes.recipe(), tmp_path / "holiday.txt" / "run", roles)
    with pytest.raises(StoreError, match="not a run directory"):
        session.resume(tmp_path)
    session.claim(fakes.recipe(), tmp_path / "run", roles)
    (tmp_path / "run" / "recipe.json").write_text("{")
    with pytest.raises(StoreError, match=r"recipe\.json is damaged"):
        session.resume(tmp_path / "run")


def test_events_are_one_json_object_a_line_and_working_time_leaves_out_pauses(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.event("note", text="line\nbreak\u2028")
    store.event("note", text="two")
    lines = (tmp_path / "events.jsonl").read_text().split("\n")
    assert [json.loads(line)["text"] for line in lines if line] == ["line\nbreak\u2028", "two"]
    events = [("session", 100.0), ("stage", 103.0), ("session", 900.0), ("done", 905.0)]
    lines = [json.dumps({"time": time, "event": event}) for event, time in events]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    assert working_time(RunReader(RunStore(tmp_path))) == 8.0
