"""The command: raters side by side, how it begins, how it ends, and what it says where it cannot begin."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.reviewing import LABELS, lines, rating, reviewable, reviewing
from support.runs import build_run
from tapir.cli.main import main
from tapir.data.run.rows import AnswerRow, CorpusRow


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """What the command exits with and says where it cannot begin; any other error than a clear one gets through."""

    def refuse(folder: Path, *options: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["tapir", "review", str(folder), "--no-open", *options])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return refuse


def test_two_raters_at_once_see_the_same_sample_and_not_each_other(tmp_path: Path) -> None:
    folder = reviewable(tmp_path / "run").folder
    with reviewing(folder, "--n", "5", "--rater", "anna") as anna, reviewing(folder, "--n", "5", "--rater", "bo") as bo:
        assert bo.said.endswith(
            "every rating is on disk at once; Ctrl-C ends the review and the same command goes on\n"
        )
        pairs = anna.pairs()
        assert pairs == bo.pairs()
        for pair in pairs[:3]:
            assert anna.rate(rating(pair)).status == 200
        assert bo.rate(rating(pairs[0], preference="tie")).status == 200
        assert [bool(pair["rated"]) for pair in anna.pairs()] == [True, True, True, False, False]
        assert [bool(pair["rated"]) for pair in bo.pairs()] == [True, False, False, False, False]
        assert bo.pairs()[0]["rated"]["preference"] == "tie"
        assert bo.end() == (0, bo_said(folder))
    assert [line["rater"] for line in lines(folder)] == ["anna", "anna", "anna", "bo"]


def bo_said(folder: Path) -> str:
    return f"1 of 5 pairs rated by bo: {folder}/reviews.jsonl\nnext: tapir review {folder} --n 5 --rater bo\n"


def test_a_review_of_a_later_round_has_a_file_of_its_own(tmp_path: Path) -> None:
    store = reviewable(tmp_path / "a run")
    names = [row.id for row in store.read("corpus", CorpusRow)]
    store.write("round-2/answers", AnswerRow, [AnswerRow(name, "Later.", "stop", 2, None) for name in names])
    with reviewing(store.folder, "--round", "2", "--n", "3", "--rater", "anna") as served:
        for pair in served.pairs():
            assert "Later." in {pair["a"], pair["b"]}
            assert served.rate(rating(pair)).status == 200
        status, said = served.end()
    assert status == 0
    assert f"next: tapir audit '{store.folder}' --labels '{store.folder}/reviews-round-2.jsonl'" in said
    assert len(lines(store.folder, "reviews-round-2.jsonl")) == 3
    assert not (store.folder / "reviews.jsonl").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_in_order_and_says_what_was_rated(tmp_path: Path, how: signal.Signals) -> None:
    folder = reviewable(tmp_path / "run").folder
    with reviewing(folder, "--n", "2", "--rater", "anna") as served:
        first, second = served.pairs()
        served.rate(rating(first))
        served.rate(rating(second, preference=None, difficulty=None))
        status, said = served.end(how)
    assert status == 0
    assert "1 of 2 pairs rated by anna, 1 skipped:" in said
    assert f"next: tapir audit {folder} --labels {folder}/reviews.jsonl" in said
    assert "Traceback" not in said


def test_an_open_connection_does_not_keep_it(tmp_path: Path) -> None:
    folder = reviewable(tmp_path / "run").folder
    with reviewing(folder) as served, socket.create_connection(("127.0.0.1", served.port)) as idle:
        idle.send(f"GET {served.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode())  # never finished
        assert served.end()[0] == 0


def test_fewer_pairs_than_asked_for_is_told(tmp_path: Path) -> None:
    folder = reviewable(tmp_path / "run").folder
    with reviewing(folder, "--n", "500") as served:
        assert "58 of 58 pairs: 1 student ahead" in served.said
        assert "asked for 500 pairs; there are no more than these 58" in served.said
        assert len(served.pairs()) == 58


def test_a_port_in_use_is_one_clear_error(tmp_path: Path, refused: Callable[..., tuple[int, str]]) -> None:
    folder = reviewable(tmp_path / "run").folder
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, said = refused(folder, "--port", str(port))
    assert status == 1
    assert f"error: cannot listen on 127.0.0.1:{port}:" in said
    assert "address already in use" in said
    assert "Leave --port out" in said


def test_no_such_run_an_unfinished_one_and_one_without_answers_are_told_apart(
    tmp_path: Path, refused: Callable[..., tuple[int, str]]
) -> None:
    status, said = refused(tmp_path / "nowhere")
    assert status == 1
    assert "is not a run directory" in said
    build_run(tmp_path / "empty", done=-1)
    status, said = refused(tmp_path / "empty")
    assert status == 1
    assert "has no finished answers of the student (with difficulty mfd only) yet" in said
    store = reviewable(tmp_path / "silent")
    failed = [AnswerRow(row.id, None, None, 0, "timeout") for row in store.read("corpus", CorpusRow)]
    store.write("round-0/answers", AnswerRow, failed)
    status, said = refused(tmp_path / "silent")
    assert status == 1
    assert "no instruction has both answers" in said
    assert "0 answered by the student, 60 by the teacher" in said


def test_a_spoilt_reviews_file_is_named_before_anything_is_shown(
    tmp_path: Path, refused: Callable[..., tuple[int, str]]
) -> None:
    folder = reviewable(tmp_path / "run").folder
    (folder / "reviews.jsonl").write_text("hello\n", encoding="utf-8")
    status, said = refused(folder)
    assert status == 1
    assert "reviews.jsonl, line 1 is no review" in said
    assert "Fix or delete this line" in said


@pytest.mark.parametrize("name", ["x" * 201, "two\nlines", "\x1b[31m"])
def test_a_name_that_cannot_stand_on_one_line_is_refused(
    tmp_path: Path, name: str, refused: Callable[..., tuple[int, str]]
) -> None:
    folder = build_run(tmp_path / "run", done=0).folder
    status, said = refused(folder, "--rater", name)
    assert status == 1
    assert "--rater" in said


def test_the_tasks_are_those_of_the_taxonomy_and_where_it_is_gone_those_that_were_tagged(tmp_path: Path) -> None:
    folder = reviewable(tmp_path / "run").folder
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    recipe["curriculum"]["target"]["taxonomy"] = "/nowhere/mine.toml"
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    with reviewing(folder) as served:
        assert "the taxonomy cannot be read" in served.said
        assert served.get(f"{served.path}state").json["tasks"] == sorted(LABELS)
