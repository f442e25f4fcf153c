from __future__ import annotations

import sqlite3
import subprocess
import sys
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from support.paths import ROOT
from tapir.domain.completion import Completion, Token, Usage
from tapir.domain.errors import StoreError, StoreFull
from tapir.models.api import ledger as module
from tapir.models.api.ledger import SCHEMA, Entry, Ledger, Purpose, merge_ledgers

_ADDING = """
import sys
from pathlib import Path
from integration.test_ledger import entry
from tapir.models.api.ledger import Ledger
print("ready", flush=True)
sys.stdin.readline()
ledger = Ledger(Path(sys.argv[1]))
for number in range(30):
    ledger.add([entry(f"{sys.argv[2]}{number}"), entry(f"both{number}")])
"""


def entry(name: str, *, run: str = "run", cost: float = 0.25, stage: str = "judge", text: str = "Yes.") -> Entry:
    completion = Completion(text, "stop", Usage(10, 5, 2), "served", "Hm.", (Token("Yes", (("Yes", -0.5),)),))
    request = f'{{"asked":"{name}"}}'.encode()
    return Entry(name.encode().ljust(16, b"."), "model", request, completion, cost, Purpose(run, 1, stage, "Math"))


def digest(name: str) -> bytes:
    return entry(name).digest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "ledger.sqlite"


def test_a_reply_is_found_by_its_digest_as_it_was(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add([entry("a"), entry("b")])
    with closing(Ledger(path)) as again:
        assert again.find([digest("a"), digest("z")]) == {digest("a"): entry("a").reply}
        assert again.find([]) == {}


def test_thousands_of_digests_are_looked_up_in_one_call(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add(entry(f"{number}") for number in range(1700))
        assert len(ledger.find([digest(f"{number}") for number in range(-900, 1700)])) == 1700


def test_the_first_reply_to_a_request_stays(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add([entry("a", text="first")])
        ledger.add([entry("a", text="second"), entry("b")])
        assert getattr(ledger.find([digest("a")])[digest("a")], "text", "") == "first"


def test_runs_that_pay_for_one_call_at_the_same_time_are_both_charged(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add([entry("a", run="A", cost=1.0)])
        ledger.add([entry("a", run="B", cost=2.0), entry("b", run="B")])
        spent = [(one.purpose.run, one.calls, one.usage, one.cost) for one in ledger.spent()]
        assert spent == [("A", 1, Usage(10, 5, 2), 1.0), ("B", 2, Usage(20, 10, 4), 2.25)]
        assert ledger.models() == [("model", 3, Usage(30, 15, 6), 3.25)]
        assert ledger.spent(possibly=True) == []


def test_a_line_of_a_batch_is_charged_once_however_often_it_is_collected(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        for run in ("A", "A", "B"):
            ledger.add([replace(entry("a", run=run), batch="batch_1")])
        assert [(one.purpose.run, one.calls) for one in ledger.spent()] == [("A", 1)]


def test_what_was_paid_is_reported_by_purpose_and_by_model(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add([entry("a"), entry("b"), entry("c", stage="tag", cost=1.0), entry("d", run="other")])
        spent = {one.purpose.stage: (one.calls, one.usage, one.cost) for one in ledger.spent("run")}
        assert spent == {"judge": (2, Usage(20, 10, 4), 0.5), "tag": (1, Usage(10, 5, 2), 1.0)}
        assert ledger.spent("nobody") == []
        assert ledger.models() == [("model", 4, Usage(40, 20, 8), 1.75)]


def test_a_merge_takes_over_what_is_new(path: Path, tmp_path: Path) -> None:
    for name, keys in (("one", "ac"), ("two", "cd")):
        with closing(Ledger(tmp_path / name)) as other:
            other.add([entry(key, text="theirs") for key in keys])
    with closing(Ledger(path)) as ledger:
        ledger.add([entry("a", text="ours"), entry("b")])
    assert merge_ledgers(path, [tmp_path / "one", tmp_path / "two"]) == [1, 1]
    assert merge_ledgers(path, [tmp_path / "one"]) == [0]
    with closing(Ledger(path)) as ledger:
        assert len(ledger.find([digest(name) for name in "abcd"])) == 4
        assert getattr(ledger.find([digest("a")])[digest("a")], "text", "") == "ours"


def test_a_merge_charges_what_each_ledger_was_billed_and_nothing_twice(path: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for file, runs in ((one, "A"), (two, "BC")):
        with closing(Ledger(file)) as ledger:
            for run in runs:
                ledger.add([entry("a", run=run)])
    assert merge_ledgers(path, [one, two, one]) == [1, 0, 0]
    merge_ledgers(two, [path, one])
    for file in (path, two):
        with closing(Ledger(file)) as ledger:
            assert sorted((row.purpose.run, row.calls) for row in ledger.spent()) == [("A", 1), ("B", 1), ("C", 1)]


def test_where_one_is_no_ledger_nothing_is_merged_or_made(path: Path, tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "good")) as ledger:
        ledger.add([entry("a")])
    (tmp_path / "bad").write_text("not a database, " * 100)
    for others in (["good", "bad"], ["good", "missing"]):
        with pytest.raises(StoreError):
            merge_ledgers(path, [tmp_path / name for name in others])
        assert not path.exists()
    with pytest.raises(StoreError, match="merged with itself"):
        merge_ledgers(tmp_path / "good", [tmp_path / "good"])


def test_open_batches_are_remembered_until_they_are_closed(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.open_batch("one", "http://a", [b"1", b"2"])
        ledger.open_batch("two", "http://a", [b"3"])
        ledger.open_batch("three", "http://b", [b"4"])
        ledger.close_batch("two", "collected")
        assert ledger.open_batches("http://a") == {"one": {b"1", b"2"}}


# Several at once


def test_two_processes_add_to_one_new_ledger_and_nothing_is_lost(path: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _ADDING, str(path), name], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("x", "y")
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    for worker in workers:
        worker.communicate(b"go\n", timeout=60)
        assert worker.returncode == 0
    with closing(Ledger(path)) as ledger:
        assert sum(one.calls for one in ledger.spent()) == 120
        assert len(ledger.find([digest(f"{who}{number}") for who in ("x", "y", "both") for number in range(30)])) == 90


# Files that are no good


def test_a_ledger_of_a_newer_version_is_refused_and_left_as_it_is(path: Path) -> None:
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="version 99") as caught:
        Ledger(path)
    assert "newer" in caught.value.remedy
    assert path.read_bytes() == before


def test_a_ledger_of_version_1_gets_what_is_missing_and_keeps_its_replies(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add([entry("a")])
    with closing(sqlite3.connect(path)) as database:
        for what in ("TABLE batches", "TABLE batched", "VIEW billed", "TABLE failures", "TABLE facts"):
            database.execute(f"DROP {what}")
        database.execute("PRAGMA user_version = 1")
    with closing(Ledger(path)) as ledger:
        assert digest("a") in ledger.find([digest("a")])
        ledger.open_batch("one", "http://a", [b"1"])
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (SCHEMA,)


def test_a_ledger_of_version_4_keeps_what_was_found_out_and_its_open_batches(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as database, database:
        for statements in module._MIGRATIONS[:4]:
            database.executescript(statements)
        database.execute("INSERT INTO facts VALUES ('run', 'one', 'http://a', 'm', 1, 0.0)")
        database.execute("INSERT INTO batches VALUES ('batch_1', 'http://a', 'open', 0.0)")
        database.execute("INSERT INTO batched VALUES (x'31', 'batch_1')")
        database.execute("PRAGMA user_version = 4")
    with closing(Ledger(path)) as ledger:
        assert ledger.find_fact("run", "one", "http://a", "m") == 1
        assert ledger.find_fact("run", "one", "http://a", "m", "context") is None
        assert ledger.open_batches("http://a", "run") == {"batch_1": {b"1"}}


@pytest.mark.parametrize("program", ["", "CREATE TABLE songs (title TEXT)"], ids=["text", "another database"])
def test_a_file_that_is_no_ledger_is_refused_and_left_as_it_is(tmp_path: Path, program: str) -> None:
    path = tmp_path / "notes"
    if program:
        with closing(sqlite3.connect(path)) as database:
            database.execute(program)
    else:
        path.write_text("These are my notes. " * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="no ledger" if program else "cannot be used as a ledger"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_ledger_with_a_damaged_page_is_refused_when_it_is_read(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add(entry(f"{number}", text="x" * 500) for number in range(500))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be used as a ledger"), closing(Ledger(path)) as ledger:
        ledger.find([digest("7")])


@pytest.mark.parametrize("reply", [b"garbage", zlib.compress(b"{}"), zlib.compress(b"[1]"), zlib.compress(b"\xff")])
def test_a_reply_that_cannot_be_read_is_an_error_with_a_remedy(path: Path, reply: bytes) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add([entry("a")])
        with closing(sqlite3.connect(path)) as database:
            database.execute("UPDATE calls SET reply = ?", (reply,))
            database.commit()
        with pytest.raises(StoreError, match="cannot be read") as caught:
            ledger.find([digest("a")])
    assert "moved away" in caught.value.remedy


def test_a_full_disk_is_named_as_such_and_keeps_what_was_there(path: Path) -> None:
    with closing(Ledger(path)) as ledger:
        ledger.add([entry("a")])
        ledger._database.execute("PRAGMA max_page_count = 1")  # as many as there are: no page more
        with pytest.raises(StoreFull, match="no space") as caught:
            ledger.add(entry(f"{number}", text=str(list(range(number, number + 3000)))) for number in range(50))
        assert "resume" in caught.value.remedy
        assert list(ledger.find([digest("a"), digest("1")])) == [digest("a")]


def test_waiting_too_long_for_another_process_is_an_error_and_may_be_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUSY", 0.05)
    with closing(Ledger(path)) as first, closing(Ledger(path)) as second:
        first._database.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            second.add([entry("a")])
        first._database.execute("COMMIT")
        second.add([entry("a")])
        assert digest("a") in first.find([digest("a")])
