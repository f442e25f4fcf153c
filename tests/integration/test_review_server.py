"""The server: who is let in, what is taken, and that it tells nobody whose answer is whose. No browser is needed."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from support.reviewing import Reviewing, lines, rating, reviewable, reviewing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reviewable(tmp_path_factory.mktemp("review") / "run").folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Reviewing]:
    with reviewing(folder, "--n", "12", "--rater", "anna") as found:
        yield found


def reviews(folder: Path) -> int:
    return len(lines(folder)) if (folder / "reviews.jsonl").exists() else 0


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
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"id": "x"}'),
        *({"preference": value} for value in ("student", "left")),
        *({"difficulty": value} for value in (0, 6, "3", 2.5, True)),
        *({"seconds": value} for value in (-1, "1", None, float("nan"), float("inf"))),
        *({"rater": "somebody else"}, {"task": 7}, {"id": None}),
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
        *(({"Origin": value}, 403) for value in ("", "null", "http://evil.example", "http://127.0.0.1:1")),
        *(({"Sec_Fetch_Site": value}, 403) for value in ("cross-site", "same-site")),
        *(({"Content_Type": value}, 415) for value in ("text/plain", "application/x-www-form-urlencoded")),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 421),
    ],
)
def test_a_rating_from_another_page_is_refused(
    served: Reviewing, folder: Path, headers: dict[str, str], status: int
) -> None:
    before = reviews(folder)
    assert served.rate(rating(served.pairs()[11]), **headers).status == status
    assert reviews(folder) == before


def test_a_huge_rating_and_one_by_another_method_or_elsewhere_are_refused(served: Reviewing) -> None:
    assert served.get(f"{served.path}rate").status == 405
    assert served.send("POST", served.path, b"{}", {"Origin": f"http://127.0.0.1:{served.port}"}).status == 405
    assert served.rate(rating(served.pairs()[11], task="x" * 1_000_000)).status == 413


def test_nothing_the_page_gets_says_whose_answer_is_whose(served: Reviewing) -> None:
    told = b"".join(served.get(served.path + name).body for name in ("", "page.js", "page.css", "state"))
    told = told.replace(b"preference", b"").replace(b"the judge's", b"")  # the question, and the last screen's words
    for word in (b"student", b"reference", b"teacher", b"author", b"judge", b"score", b'"gap', b'left":'):
        assert word not in told.lower(), word
    for pair in served.pairs():
        assert set(pair) == {"id", "instruction", "a", "b", "rated"}
