"""`tapir ledger`: what was paid for, as figures, as lines, and from one file into another."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from importlib import resources
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tapir.cli.main import app
from tapir.domain.completion import Completion, Failure, Usage
from tapir.domain.errors import StoreError
from tapir.models.api.ledger import Entry, Ledger, Purpose
from tapir.runs.build import open_ledger


def made(path: Path, *words: str, run: str = "a" * 32) -> Path:
    entries = [
        Entry(
            word.encode().ljust(16, b"."),
            "model-1",
            json.dumps({"messages": [{"role": "user", "content": word}]}).encode(),
            Completion(f"{word}!", "stop", Usage(1_000, 20), "model-1"),
            0.25,
            Purpose(run, 1, "judge", "Math"),
        )
        for word in words
    ]
    with closing(Ledger(path)) as ledger:
        ledger.add(entries)
    return path


def tapir(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["ledger", *map(str, arguments)], env={"COLUMNS": "120"})


def test_stats_add_up_calls_tokens_and_money(tmp_path: Path) -> None:
    shown = tapir("stats", made(tmp_path / "ledger.sqlite", "one", "two", "three"))
    assert shown.exit_code == 0
    by_model = next(line for line in shown.output.splitlines() if "model-1" in line)
    assert [cell.strip() for cell in by_model.split("│")[1:-1]] == ["model-1", "3", "3,000", "60", "0.7500"]
    by_stage = next(line for line in shown.output.splitlines() if "judge" in line)
    assert [cell.strip() for cell in by_stage.split("│")[1:-1]] == [
        *("aaaaaaaa", "1", "judge"),
        *("3", "3,000", "60", "0.7500"),
    ]
    content = json.loads(tapir("stats", tmp_path / "ledger.sqlite", "--json").output)
    sums = {"calls": 3, "tokens_in": 3_000, "tokens_out": 60, "money": 0.75}
    assert content["models"] == [{"model": "model-1", **sums}]
    assert content["purposes"] == [{"run": "aaaaaaaa", "round": "1", "stage": "judge", **sums}]


def test_a_ledger_that_may_not_be_written_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "my # ledger.sqlite", "one")
    if os.geteuid():
        path.chmod(0o400)
    else:  # root may write everything
        monkeypatch.setattr("os.access", lambda _, mode, **__: mode != os.W_OK)
    assert json.loads(tapir("stats", path, "--json").output)["models"][0]["calls"] == 1
    with closing(open_ledger(path)) as ledger:
        assert [path.name for path in tmp_path.iterdir()] == [path.name]  # WAL would make files beside it
        with pytest.raises(StoreError, match="readonly"):
            ledger.add_fact("run", "gpt", "http://x", "m", json_schema=True)
    path.chmod(0o600)
    with closing(sqlite3.connect(path)) as older:  # a ledger of an older version
        statements = (resources.files("tapir.models.api") / "ledger-4.sql").read_text("utf-8")
        older.executescript(f"ALTER TABLE batches DROP COLUMN run; DROP TABLE facts; {statements}")
        older.executescript("PRAGMA user_version = 4; PRAGMA journal_mode = DELETE; PRAGMA journal_mode = WAL")
    path.chmod(0o400)
    assert json.loads(tapir("stats", path, "--json").output)["models"][0]["calls"] == 1
    path.chmod(0o600)
    with closing(Ledger(path)) as writing:  # what another process has added is in the log beside the file
        purpose = Purpose("run", 1, "judge", "")
        writing.add([Entry(b"two", "model-1", b"{}", Completion("x", "stop", Usage(1, 1), "m"), 0.1, purpose)])
        with closing(open_ledger(path)) as ledger:
            assert len(list(ledger.export())) == 2


def test_stats_say_what_may_have_been_billed(tmp_path: Path) -> None:
    path, purpose = made(tmp_path / "ledger.sqlite", "one"), Purpose("run", 1, "judge", "")
    assert "possibly" not in tapir("stats", path).output
    with closing(Ledger(path)) as ledger:
        for kind, usage in (("timeout", None), ("cut", None), ("refused", Usage(9, 1))):
            failure = Failure(kind, "no reply", usage=usage)
            ledger.add([Entry(kind.encode(), "model-1", b"{}", failure, 0.125, purpose, Usage(5, 7))])
    assert "possibly billed: 2 calls, at most 0.2500" in tapir("stats", path).output
    content = json.loads(tapir("stats", path, "--json").output)
    assert content["possibly_billed"] == {"calls": 2, "money": 0.25}
    assert content["models"][0]["money"] == 0.375
    merged = tmp_path / "all.sqlite"
    for _ in range(2):
        tapir("merge", merged, path)
        assert json.loads(tapir("stats", merged, "--json").output)["possibly_billed"] == {"calls": 2, "money": 0.25}


def test_export_writes_every_call_with_what_was_asked_and_answered(tmp_path: Path) -> None:
    ledger = made(tmp_path / "ledger.sqlite", "Größe", "line\u2028break")
    out = tmp_path / "calls.jsonl"
    assert tapir("export", ledger, "--out", out).exit_code == 0
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n") if line]
    assert [one["reply"]["text"] for one in lines] == ["Größe!", "line\u2028break!"]
    assert lines[0]["request"]["messages"][0]["content"] == "Größe"
    assert (lines[0]["stage"], lines[0]["task"], lines[0]["cost"]) == ("judge", "Math", 0.25)
    printed = tapir("export", ledger)
    assert printed.output == out.read_text(encoding="utf-8")


def test_merge_takes_over_what_is_new_and_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    first, second = made(tmp_path / "1.sqlite", "one", "two"), made(tmp_path / "2.sqlite", "two", "three")
    before = second.read_bytes()
    merged = tapir("merge", tmp_path / "all.sqlite", first, second)
    assert [line.rpartition(": ")[2] for line in merged.output.splitlines()] == ["2 new", "1 new"]
    assert second.read_bytes() == before
    assert [line.rpartition(": ")[2] for line in tapir("merge", first, second).output.splitlines()] == ["1 new"]


def test_what_is_no_ledger_is_refused_and_not_made(tmp_path: Path) -> None:
    missing = tapir("stats", tmp_path / "none.sqlite")
    assert missing.exit_code != 0
    assert not (tmp_path / "none.sqlite").exists()
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, " * 100)
    assert "cannot be used as a ledger" in str(tapir("stats", text).exception)
    assert "is not a file" in str(tapir("merge", tmp_path / "all.sqlite", tmp_path / "none.sqlite").exception)
