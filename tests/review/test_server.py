"""The server: who is let in, what is taken, and how it begins and ends. No browser is needed."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tapir.cli import main
from tapir.store.rows import AnswerRow, CorpusRow
from tests.review.reviewing import LABELS, Reviewing, lines, reviewable, reviewing
from tests.runs import HOSTILE, build_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reviewable(tmp_path_factory.mktemp("review") / "run").folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Reviewing]:
    with reviewing(folder, "--n", "12", "--rater", "anna") as found:
        yield found


def rating(pair: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {"id": pair["id"], "preference": "a", "difficulty": 2, "task": None, "seconds": 3.21} | changed


def reviews(folder: Path) -> int:
    return len(lines(folder)) if (folder / "reviews.jsonl").exists() else 0


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


# Who is let in ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "127.0.0.1:8000", "LOCALHOST"])
def test_this_machine_is_let_in_also_through_a_forwarded_port(served: Reviewing, name: str) -> None:
    assert served.get(served.path, Host=name).status == 200


@pytest.mark.parametrize(
    "name",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "a@b", "["],
)
def test_a_name_that_was_bound_to_this_machine_is_refused(served: Reviewing, name: str) -> None:
    got = served.get(served.path, Host=f"{name}")
    assert got.status in {400, 421}
    assert b"Answer A" not in got.body


@pytest.mark.parametrize(
    "path", ["/", "/state", "/favicon.ico", "/x/", "/x/state", "//state", "/%2e%2e/", "/%ff/", "/%00"]
)
def test_nothing_is_told_without_the_token(served: Reviewing, path: str) -> None:
    got = served.get(path)
    assert got.status == 404
    assert "use the whole address" in got.json["error"]


def test_the_token_is_long_and_new_every_time(served: Reviewing, folder: Path) -> None:
    assert len(served.path.strip("/")) >= 20
    with reviewing(folder, "--rater", "other") as another:
        assert another.path != served.path


@pytest.mark.parametrize("path", ["page.py", "server.py", "../server.py", "%2e%2e/server.py", "page.html/", "state/x"])
def test_no_other_file_can_be_had(served: Reviewing, path: str) -> None:
    assert served.get(served.path + path).status == 404


def test_it_listens_on_the_loopback_only(served: Reviewing) -> None:
    with socket.socket() as one:
        one.settimeout(5)
        assert one.connect_ex(("127.0.0.2", served.port)) != 0  # any other address of this machine
    table = Path("/proc/net/tcp").read_text(encoding="utf-8")
    assert re.findall(rf" ([0-9A-F]{{8}}):{served.port:04X} 00000000:0000 0A ", table) == ["0100007F"]


@pytest.mark.parametrize("path", ["", "state", "page.js", "page.css", "icon.svg", "nothing"])
def test_every_reply_carries_the_same_strict_policy(served: Reviewing, path: str) -> None:
    headers = served.get(served.path + path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers


def test_the_page_has_no_inline_code_and_names_no_other_host(served: Reviewing) -> None:
    page = served.get(served.path).body.decode()
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
    assert "<style" not in page
    assert not re.search(r"\son\w+=|\sstyle=", page)
    for name in ("", "page.js", "page.css"):
        assert not re.search(rb"(https?:)?//(?!www\.w3\.org)\w+\.\w", served.get(served.path + name).body)
    assert b"innerHTML" not in served.get(f"{served.path}page.js").body


# What is taken ---------------------------------------------------------------------------------------


def test_a_rating_is_on_disk_before_it_is_answered(served: Reviewing, folder: Path) -> None:
    pair = served.pairs()[0]
    before = datetime.now(UTC).replace(microsecond=0)
    assert served.rate(rating(pair, task=served.get(f"{served.path}state").json["tasks"][0])).status == 200
    line = lines(folder)[-1]
    assert list(line) == ["id", "rater", "preference", "difficulty", "task", "left", "seconds", "time"]
    assert (line["id"], line["rater"], line["difficulty"], line["seconds"]) == (pair["id"], "anna", 2, 3.2)
    assert line["preference"] == line["left"]  # a stands on the left
    assert datetime.fromisoformat(line["time"]) >= before
    assert line["time"].endswith("+00:00")


def test_left_and_right_are_told_apart_by_what_was_shown(served: Reviewing, folder: Path) -> None:
    texts = {"student": "Short. ", "reference": "Full. "}
    for pair in served.pairs()[1:9]:
        for side in ("a", "b"):
            assert served.rate(rating(pair, preference=side)).status == 200
            line = lines(folder)[-1]
            assert pair[side] == texts[line["preference"]]
            assert pair["a"] == texts[line["left"]]
    assert {line["left"] for line in lines(folder)} == {"student", "reference"}


def test_a_rating_that_comes_twice_is_one_line_and_a_changed_one_is_another(served: Reviewing, folder: Path) -> None:
    pair = served.pairs()[9]
    before = reviews(folder)
    for _ in range(2):
        assert served.rate(rating(pair, preference="tie")).status == 200
    assert reviews(folder) == before + 1
    assert served.rate(rating(pair, preference="b")).status == 200
    assert reviews(folder) == before + 2
    assert served.pairs()[9]["rated"]["preference"] == "b"


def test_a_skip_is_kept_and_known_again(served: Reviewing, folder: Path) -> None:
    pair = served.pairs()[10]
    assert pair["rated"] is None
    assert served.rate(rating(pair, preference=None, difficulty=None)).status == 200
    assert lines(folder)[-1]["preference"] is None
    assert served.pairs()[10]["rated"]["difficulty"] is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"id": "x"}',
        {"preference": "student"},
        {"preference": "left"},
        {"difficulty": 0},
        {"difficulty": 6},
        {"difficulty": "3"},
        {"difficulty": 2.5},
        {"difficulty": True},
        {"seconds": -1},
        {"seconds": "1"},
        {"seconds": None},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"rater": "somebody else"},
        {"task": 7},
        {"id": None},
    ],
)
def test_what_is_no_rating_is_refused_and_not_written(served: Reviewing, folder: Path, body: Any) -> None:
    content = body if isinstance(body, bytes) else rating(served.pairs()[11], **body)
    before = reviews(folder)
    got = served.rate(content)
    assert got.status == 400
    assert "no rating" in got.json["error"]
    assert reviews(folder) == before


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"id": "0" * 16}, "no pair '0000"), ({"task": "Alchemy"}, "no task 'Alchemy'"), ({"task": ""}, "no task")],
)
def test_a_pair_or_task_nobody_asked_about_is_refused(
    served: Reviewing, folder: Path, changed: dict[str, Any], why: str
) -> None:
    before = reviews(folder)
    got = served.rate(rating(served.pairs()[11]) | changed)
    assert (got.status, reviews(folder)) == (404, before)
    assert why in got.json["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": ""}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 421),
    ],
)
def test_a_rating_from_another_page_is_refused(
    served: Reviewing, folder: Path, headers: dict[str, str], status: int
) -> None:
    before = reviews(folder)
    assert served.rate(rating(served.pairs()[11]), **headers).status == status
    assert reviews(folder) == before


def test_a_huge_rating_is_refused(served: Reviewing) -> None:
    assert served.rate(rating(served.pairs()[11], task="x" * 1_000_000)).status == 413


def test_only_a_post_rates_and_only_there(served: Reviewing) -> None:
    assert served.get(f"{served.path}rate").status == 405
    ours = {"Origin": f"http://127.0.0.1:{served.port}"}
    assert served.send("POST", served.path, b"{}", ours).status == 405
    assert served.send("DELETE", f"{served.path}rate", None, ours).status == 405


# Blind -----------------------------------------------------------------------------------------------


def test_nothing_the_page_gets_says_whose_answer_is_whose(served: Reviewing) -> None:
    told = b"".join(served.get(served.path + name).body for name in ("", "page.js", "page.css", "state"))
    told = told.replace(b"preference", b"").replace(b"the judge's", b"")  # the question, and the last screen's words
    for word in (b"student", b"reference", b"teacher", b"author", b"judge", b"score", b'"gap', b'left":'):
        assert word not in told.lower(), word
    for pair in served.pairs():
        assert set(pair) == {"id", "instruction", "a", "b", "rated"}


def test_neither_side_is_always_the_same_one(served: Reviewing) -> None:
    assert {pair["a"] for pair in served.pairs()} == {"Short. ", "Full. "}


# Raters ----------------------------------------------------------------------------------------------


def test_two_raters_at_once_see_the_same_sample_and_not_each_other(tmp_path: Path) -> None:
    folder = reviewable(tmp_path / "run").folder
    with reviewing(folder, "--n", "5", "--rater", "anna") as anna, reviewing(folder, "--n", "5", "--rater", "bo") as bo:
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
    return (
        "every rating is on disk at once; Ctrl-C ends the review and the same command goes on\n"
        f"1 of 5 pairs rated by bo: {folder}/reviews.jsonl\n"
        f"next: tapir review {folder} --n 5 --rater bo\n"
    )


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


# How it begins and ends ------------------------------------------------------------------------------


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


def test_hostile_texts_arrive_as_they_are(tmp_path: Path) -> None:
    folder = reviewable(tmp_path / "run", hostile=True).folder
    with reviewing(folder, "--n", "58") as served:
        pairs = served.pairs()
    assert {pair["instruction"] for pair in pairs} >= set(HOSTILE)
    assert {f"Short. {text}" for text in HOSTILE} <= {text for pair in pairs for text in (pair["a"], pair["b"])}


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
    assert "no round has answers yet" in said
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
    assert "Mend or delete this line" in said


@pytest.mark.parametrize("options", [("--n", "0"), ("--n", "-3"), ("--port", "70000"), ("--round", "-1")])
def test_numbers_that_make_no_sense_are_refused(
    tmp_path: Path, options: tuple[str, str], refused: Callable[..., tuple[int, str]]
) -> None:
    status, said = refused(tmp_path, *options)
    assert status == 2
    assert options[0] in said


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
